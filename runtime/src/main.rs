//! `outrider-worker --config FILE`: reads the configuration, serves until told to end. Logs are JSON on stderr.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use outrider_worker::config::Config;
use outrider_worker::error::StartError;
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
