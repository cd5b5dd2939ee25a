//! The sidecar: who may speak, in which dialect, and when.
//!
//! One request's path, all of it on the page `exchange`:
//!
//! ```text
//! accept → downstream ─ receive → route → identify → authorize → parse → admit → send → respond → record
//!                                 dialects  auth       auth      dialects admission worker  dialects  record, metrics
//! ```

pub mod accept;
pub mod activator;
pub mod admin;
pub mod admission;
pub mod auth;
pub mod chance;
pub mod cli;
pub mod config;
pub mod dialects;
pub mod downstream;
pub mod error;
pub mod exchange;
pub mod ext_authz;
pub mod fetch;
pub mod files;
pub mod forward;
mod go_time;
pub mod knative;
pub mod kube;
pub mod leaving;
pub mod message;
pub mod metrics;
pub mod net;
pub mod outbound;
mod percent;
pub mod policy;
pub mod record;
pub mod redirect;
pub mod rls;
pub mod scale;
pub mod server;
pub mod tls;
mod until;
pub mod watched;
pub mod worker;
