//! Waiting for a moment that may never come.

use tokio::time::{Instant, sleep_until};

/// Never, without a moment.
pub async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
