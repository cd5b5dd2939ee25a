//! The clocks of one exchange, kept by the real clock; without any configured they cost nothing.

use crate::config::Timeouts;
use crate::error::Error;
use crate::exchange::timeouts::Clocks;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// `None`: nothing ends by itself.
#[derive(Default)]
pub struct Deadlines(Option<Running>);

struct Running {
    clocks: Clocks,
    began: Instant,
}

impl Running {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Deadlines {
    /// The head is there.
    pub fn start(timeouts: Timeouts) -> Deadlines {
        let any = timeouts != Timeouts::default();
        let running = || Running { clocks: Clocks::start(timeouts), began: Instant::now() };
        Deadlines(any.then(running))
    }

    /// It waits for its turn, perhaps again.
    pub fn recalled(&mut self) {
        if let Some(running) = &mut self.0 {
            running.clocks.recalled();
        }
    }

    /// It is its turn.
    pub fn dispatched(&mut self) {
        if let Some(running) = &mut self.0 {
            running.clocks.dispatched(running.now());
        }
    }

    /// The answer went on.
    pub fn wrote(&mut self) {
        if let Some(running) = &mut self.0 {
            running.clocks.wrote(running.now());
        }
    }

    /// A connection of bytes from now on: only silence ends it.
    pub fn upgraded(&mut self) {
        if let Some(running) = &mut self.0 {
            running.clocks.upgraded();
        }
    }

    /// Looks once.
    pub fn must_last(&self) -> Result<(), Error> {
        let Some(running) = &self.0 else { return Ok(()) };
        match running.clocks.due() {
            Some((at, clock)) if at <= running.now() => Err(running.clocks.error(clock)),
            _ => Ok(()),
        }
    }

    /// Waits until a clock runs out, and says which.
    pub async fn overdue(&self) -> Error {
        let Some(running) = &self.0 else { return std::future::pending().await };
        let Some((at, clock)) = running.clocks.due() else { return std::future::pending().await };
        sleep_until(running.began + at).await;
        running.clocks.error(clock)
    }
}
