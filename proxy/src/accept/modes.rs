//! Which ports speak TLS, and to whom: the configuration's word, unless a PeerAuthentication has another.

use crate::config::{Tls, TlsMode};
use crate::ext_authz::client::Authorizers;
use crate::policy::{PeerMode, Watched};
use std::sync::Arc;

pub struct Modes {
    pub tls: Tls,
    pub policies: Option<Arc<Watched>>,
    /// Whom CUSTOM policies ask about connections without HTTP.
    pub authorizers: Arc<Authorizers>,
}

impl Modes {
    /// For connections to `port`, as the caller means it. Policies may change it at any moment, for the next connection.
    pub fn of(&self, port: u16) -> TlsMode {
        let said = self.policies.as_ref().and_then(|policies| policies.current().policies.peer_mode(port));
        match said {
            Some(PeerMode::Strict) => TlsMode::Strict,
            Some(PeerMode::Permissive) => TlsMode::Permissive,
            Some(PeerMode::Disable) => TlsMode::Disable,
            None => self.tls.ports.get(&port).copied().unwrap_or(self.tls.mode),
        }
    }
}
