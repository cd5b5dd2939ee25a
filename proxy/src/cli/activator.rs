//! `outrider activator --config FILE`: the sidecar's exchange in front of services whose pods may not be there.

use super::proxy::announce;
use crate::config::{Behind, Config};
use crate::server;
use std::error::Error;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The activator's configuration, a YAML file with an `activator` section.
    #[arg(long)]
    config: PathBuf,
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let config = Config::load(&args.config)?;
    if !matches!(config.behind, Behind::Pods(_)) {
        let file = args.config.display();
        return Err(format!("{file} has no `activator` section; `outrider proxy` is for a sidecar").into());
    }
    server::run(config, announce)?;
    Ok(())
}
