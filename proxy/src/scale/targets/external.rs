//! A worker that somebody else starts and stops: it is only waited for.

use super::Target;
use async_trait::async_trait;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

const LOOK_EVERY: Duration = Duration::from_millis(20);

pub struct External {
    socket: PathBuf,
    start_timeout: Duration,
}

impl External {
    pub fn new(socket: PathBuf, start_timeout: Duration) -> Self {
        External { socket, start_timeout }
    }
}

#[async_trait]
impl Target for External {
    async fn start(&self) -> Result<(), String> {
        let connected = async {
            while UnixStream::connect(&self.socket).await.is_err() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(self.start_timeout, connected)
            .await
            .map_err(|_| format!("no worker took a connection within {} s", self.start_timeout.as_secs()))
    }

    async fn stop(&self) {}

    /// Nobody tells; a broken connection does.
    async fn exited(&self) -> String {
        std::future::pending().await
    }
}
