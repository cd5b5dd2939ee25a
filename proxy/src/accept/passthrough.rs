//! Connections that speak no HTTP: bytes to where they were going, and back, as they are.
//!
//! Only where a redirect tells where that is, and only after policy, which sees no more than the connection, has agreed.

use super::connection::Connection;
use super::{Acceptor, Open};
use crate::ext_authz::client::Question;
use crate::net::{connect_from, source_for};
use crate::until::until;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Both ends of one pod: it is there at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Acceptor {
    /// Passes bytes to where they were going, if policy agrees, until either side ends or we do.
    pub(super) async fn pass(&self, connection: Connection) {
        let facts = connection.facts();
        let address = facts.peer.address;
        // Whoever must show a token need not do without by being silent for a while, or by beginning with an empty line.
        if !self.authenticator.knows_by_connection(&facts.peer) {
            return self.failed(address, "no_credential");
        }
        if let Some(policies) = &self.modes.policies {
            let policies = policies.current();
            let customs = policies.policies.connection_needs_custom(&facts.attributes());
            let question = Question::of_connection(&facts.peer, facts.target.address);
            if let Err(error) = self.modes.authorizers.ask(&customs, question).await.told {
                tracing::info!(%address, %error, "a connection was denied");
                return self.failed(address, "denied");
            }
            let decision = policies.policies.evaluate_connection(&facts.attributes());
            if let Some(reason) = decision.verdict.denied() {
                tracing::info!(%address, policy = reason, "a connection was denied");
                return self.failed(address, "denied");
            }
        }
        let _open = Open::new(self.metrics(), ["tcp", facts.tls_kind()]);
        let passed = tokio::select! {
            passed = copy(connection, facts.target.address) => passed,
            // Nobody can be asked to go in an unknown protocol; on a drain, its end cuts what still runs.
            () = until(self.oldest(&facts)) => return self.failed(address, "overstayed"),
        };
        match passed {
            Ok((received, sent)) => {
                let bytes = &self.metrics().passed_bytes;
                bytes.with_label_values(&["received"]).inc_by(received);
                bytes.with_label_values(&["sent"]).inc_by(sent);
            }
            Err(error) => {
                tracing::info!(%address, to = %facts.target.address, %error, "a connection could not be passed on");
                self.failed(address, "unreachable");
            }
        }
    }
}

/// Bytes in and out, once either side has ended and the other has been told.
async fn copy(mut connection: Connection, to: SocketAddr) -> io::Result<(u64, u64)> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect_from(Some(source_for(to)), to));
    let mut application = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tokio::io::copy_bidirectional(&mut connection, &mut application).await
}
