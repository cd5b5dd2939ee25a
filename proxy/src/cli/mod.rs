//! The command line: one file per subcommand.

pub mod certs;
mod state;
pub mod token;
mod trust;
pub mod up;
