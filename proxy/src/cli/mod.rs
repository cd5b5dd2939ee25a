//! The command line: one file for each subcommand.

pub mod activator;
pub mod api_key;
pub mod authorize;
pub mod certs;
pub mod check;
pub mod drain;
pub mod inject;
mod model;
pub mod proxy;
pub mod rbac_proxy;
pub mod redirect;
mod state;
pub mod token;
mod trust;
pub mod up;

use tracing_subscriber::EnvFilter;

/// Logs to stderr, one JSON object a line, beside the access log. `OUTRIDER_LOG` sets what is logged.
pub fn start_logging() {
    // pingora logs what callers do wrong as its own errors; our access log has it in one line.
    let default = "info,pingora_core=off,pingora_error=off";
    let filter = EnvFilter::try_from_env("OUTRIDER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let json = tracing_subscriber::fmt().json().flatten_event(true).with_target(false);
    let _ = json.with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
