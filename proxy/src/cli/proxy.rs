//! `outrider proxy --config FILE`: the sidecar, for real use.

use crate::config::Config;
use crate::server::{self, Running};
use std::error::Error;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The sidecar's configuration, a YAML file.
    #[arg(long)]
    config: PathBuf,
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let config = Config::load(&args.config)?;
    server::run(config, announce)?;
    Ok(())
}

/// What a supervisor waits for: where we listen on stderr, and one word on stdout.
pub fn announce(running: &Running) {
    eprintln!("listening {}", running.listen);
    eprintln!("admin {}", running.admin);
    println!("ready");
}
