//! A worker or a foreign server that somebody else starts and stops: it is only waited for.

use super::Target;
use async_trait::async_trait;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where it takes connections.
#[derive(Clone, Debug)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
    /// Wherever each caller is going: there is no one place to wait for.
    Any,
}

impl Address {
    pub(super) async fn connects(&self) -> bool {
        match self {
            Address::Unix(path) => UnixStream::connect(path).await.is_ok(),
            Address::Tcp(address) => TcpStream::connect(address).await.is_ok(),
            Address::Any => true,
        }
    }
}

pub struct External {
    address: Address,
    start_timeout: Duration,
}

impl External {
    pub fn new(address: Address, start_timeout: Duration) -> Self {
        External { address, start_timeout }
    }
}

#[async_trait]
impl Target for External {
    async fn start(&self) -> Result<(), String> {
        let connected = async {
            while !self.address.connects().await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(self.start_timeout, connected)
            .await
            .map_err(|_| format!("nobody there took a connection within {} s", self.start_timeout.as_secs()))
    }

    async fn stop(&self) {}
}
