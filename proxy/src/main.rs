//! Entry of `outrider`: reads the command line and hands over.

use clap::{Parser, Subcommand};
use outrider::cli;
use std::process::ExitCode;

/// A request makes and drops some two hundred small things: this allocator does it in two thirds of the time of the C
/// library's, and gives memory back after a burst.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sidecar for inference: who may speak, in which dialect, and when.
#[derive(Parser)]
#[command(name = "outrider", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold requests for services whose pods are not there, have the first pod started, and pass them on.
    Activator(cli::activator::Args),
    /// Answer gateways (ext_authz) in Authorino's place, and do nothing else.
    Authorize(cli::authorize::Args),
    /// Make identities of the development trust domain.
    Certs(cli::certs::Args),
    /// Say whether a configuration makes sense.
    Check(cli::check::Args),
    /// Tell a running sidecar to take nobody new: for `preStop` hooks.
    Drain(cli::drain::Args),
    /// Put the sidecar into the pods of Kubernetes manifests, or take it out again.
    Inject(Box<cli::inject::Args>),
    /// Run the sidecar by a configuration file.
    Proxy(cli::proxy::Args),
    /// Stand in the place of kube-rbac-proxy, by its own flags and file.
    RbacProxy(Box<cli::rbac_proxy::Args>),
    /// Send a pod's connections through the sidecar: iptables or nft rules, once.
    Redirect(cli::redirect::Args),
    /// Make credentials of the development issuer.
    Token(cli::token::Args),
    /// Serve a model on this machine: makes all that is needed, starts the worker, is the sidecar.
    Up(cli::up::Args),
}

fn main() -> ExitCode {
    outrider::server::memory::no_huge_pages();
    cli::start_logging();
    let outcome = match Arguments::parse().command {
        Command::Activator(args) => cli::activator::run(args),
        Command::Authorize(args) => cli::authorize::run(args),
        Command::Certs(args) => cli::certs::run(args),
        Command::Check(args) => cli::check::run(args),
        Command::Drain(args) => cli::drain::run(args),
        Command::Inject(args) => cli::inject::run(*args),
        Command::Proxy(args) => cli::proxy::run(args),
        Command::RbacProxy(args) => cli::rbac_proxy::run(*args),
        Command::Redirect(args) => cli::redirect::run(args),
        Command::Token(args) => cli::token::run(args),
        Command::Up(args) => cli::up::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrider: {error}");
            ExitCode::FAILURE
        }
    }
}
