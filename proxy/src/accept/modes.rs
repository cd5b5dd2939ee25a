//! Which ports speak TLS, and to whom: the configuration's word.

use crate::config::{Tls, TlsMode};

pub struct Modes {
    pub tls: Tls,
}

impl Modes {
    /// For connections to `port`, as the caller means it.
    pub fn of(&self, port: u16) -> TlsMode {
        self.tls.ports.get(&port).copied().unwrap_or(self.tls.mode)
    }
}
