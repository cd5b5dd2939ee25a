//! `outrider check --config FILE`: whether a configuration makes sense, without starting anything.

use crate::config::Config;
use std::error::Error;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The sidecar's configuration, a YAML file.
    #[arg(long)]
    config: PathBuf,
    /// Print what would be in force, with every default filled in.
    #[arg(long)]
    dump: bool,
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let config = Config::load(&args.config)?;
    if args.dump {
        println!("{:#}", config.dump());
    }
    println!("{}: ok", args.config.display());
    Ok(())
}
