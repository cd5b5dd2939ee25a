//! `outrider authorize --config FILE`: answers gateways (Envoy's ext_authz) in Authorino's place, and does nothing else.

use crate::config::served::Authorizer;
use crate::ext_authz::server::Protocol;
use crate::server::authorizer::{self, Answering};
use std::error::Error;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The authorizer's configuration, a YAML file.
    #[arg(long)]
    config: PathBuf,
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    authorizer::run(Authorizer::load(&args.config)?, announce)?;
    Ok(())
}

/// As `outrider proxy` does: where we listen on stderr, and one word on stdout.
fn announce(answering: &Answering) {
    for (protocol, address) in &answering.doors {
        match protocol {
            Protocol::Grpc => eprintln!("grpc {address}"),
            Protocol::Http => eprintln!("http {address}"),
        }
    }
    eprintln!("admin {}", answering.admin);
    println!("ready");
}
