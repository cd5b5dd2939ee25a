//! Entry of `outrider`: reads the command line and hands over.

use clap::{Parser, Subcommand};
use outrider::cli;
use std::process::ExitCode;

/// A sidecar for inference: who may speak, in which dialect, and when.
#[derive(Parser)]
#[command(name = "outrider", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say whether a configuration makes sense.
    Check(cli::check::Args),
    /// Run the sidecar by a configuration file.
    Proxy(cli::proxy::Args),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Check(args) => cli::check::run(args),
        Command::Proxy(args) => cli::proxy::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrider: {error}");
            ExitCode::FAILURE
        }
    }
}
