//! Who is asked for more pods, or fewer.

use async_trait::async_trait;

/// Whoever has the number of pods that there shall be. Errors are words for callers who wait.
#[async_trait]
pub trait Scaler: Send + Sync {
    /// How many are wanted now.
    async fn scale(&self) -> Result<u32, String>;

    /// From now on so many are wanted.
    async fn set(&self, replicas: u32) -> Result<(), String>;

    /// At least one is wanted. Never fewer than before: others may have asked for more meanwhile.
    async fn wake(&self) -> Result<(), String> {
        match self.scale().await? {
            0 => self.set(1).await,
            _ => Ok(()),
        }
    }
}
