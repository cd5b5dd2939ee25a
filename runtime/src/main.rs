//! `outrider-worker --config FILE`: reads the configuration, serves until told to end. Logs are JSON on stderr.
//! With `--standby SOCKET`, a small parent of that, which starts and ends it when told to.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use outrider_worker::config::Config;
use outrider_worker::error::StartError;
use outrider_worker::standby::{self, Engine};
use outrider_worker::{parent, server};
use tracing_subscriber::EnvFilter;

/// The worker: prompts and tensors in, tokens and tensors out, over a Unix socket.
#[derive(Parser)]
#[command(name = "outrider-worker", version)]
struct Arguments {
    /// The worker's YAML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Validate the configuration and end.
    #[arg(long)]
    check: bool,
    /// Serve on this socket instead of the configuration's.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// End when the process that started this one ends, however it ends.
    #[arg(long)]
    die_with_parent: bool,
    /// Serve nothing: hold this control socket, and start and end the worker as a sidecar says there.
    #[arg(long, value_name = "SOCKET", conflicts_with = "die_with_parent")]
    standby: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrider-worker: {error}");
            server::announce(&format!("failed {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), StartError> {
    let mut config = Config::read(&arguments.config)?;
    if let Some(socket) = &arguments.socket {
        config.socket.clone_from(socket);
    }
    if arguments.check {
        println!("{}: valid", arguments.config.display());
        return Ok(());
    }
    if let Some(control) = &arguments.standby {
        return stand_by(control, &arguments.config);
    }
    if arguments.die_with_parent {
        parent::watch(config.socket.clone()).map_err(StartError::Runtime)?;
    }
    // One reactor thread: it only moves messages; the engine and the device have their own threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let outcome = runtime.block_on(server::run(config));
    // Blocking work that is left belongs to callers that have been told.
    runtime.shutdown_background();
    outcome
}

/// The engine is this program once more, which ends when we do.
fn stand_by(control: &Path, config: &Path) -> Result<(), StartError> {
    let program = std::env::current_exe().map_err(StartError::Runtime)?.into_os_string();
    let arguments = vec!["--config".into(), config.into(), "--die-with-parent".into()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let socket = server::Socket::bind(control)?;
        tracing::info!(control = %control.display(), "standing by");
        standby::serve(socket.connections(), Engine { program, arguments }).await.map_err(StartError::Runtime)
    })
}
