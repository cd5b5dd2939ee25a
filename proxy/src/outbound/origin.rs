//! How a connection to a cluster becomes TLS: whose certificate we show, and whom we believe to have met.
//!
//! Never falls back to plaintext, and never resumes a session: resumption would skip the verification.

use crate::config::outbound::{Expect, Origination};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speech {
    H1,
    H2,
    /// Bytes.
    Opaque,
}

impl Speech {
    pub fn name(self) -> &'static str {
        match self {
            Speech::H1 => "h1",
            Speech::H2 => "h2",
            Speech::Opaque => "tcp",
        }
    }
}

pub enum Origin {
    Plain,
    Tls(Box<Tls>),
}

pub struct Tls {
    pub name: ServerName<'static>,
    h1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    opaque: Arc<ClientConfig>,
}

impl Tls {
    pub fn config(&self, speech: Speech) -> Arc<ClientConfig> {
        match speech {
            Speech::H1 => self.h1.clone(),
            Speech::H2 => self.h2.clone(),
            Speech::Opaque => self.opaque.clone(),
        }
    }
}
