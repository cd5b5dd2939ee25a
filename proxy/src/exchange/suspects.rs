//! Whether a request that met a worker's end may be asked again.
//!
//! Whoever never began has done nothing wrong, and may be asked again as often as its time in the queue allows. But one
//! request may be what ends workers: it would end them all, and with each the answers of everybody else. Two ends are an
//! accident; whoever was there at both is a suspect, and suspects are asked one at a time until their answer begins, so
//! that the next end tells who did it. Never blames a request for an end at which it had not been asked.

use crate::error::Error;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Ends met in company before a request is a suspect.
const ACCIDENTS_MAX: u32 = 2;
/// Ends met as the only suspect before it is guilty. More than one, for workers are also killed by others: with a kill
/// in one of twenty attempts, an honest request meets four in a row once in 160,000.
const STRIKES_MAX: u32 = 4;

/// Before asking a worker again that says it is loading or draining.
const PAUSE: Duration = Duration::from_millis(50);

/// Shared by all exchanges.
#[derive(Debug)]
pub struct Suspects {
    one: Semaphore,
    wait_max: Duration,
}

/// One request's history, and its turn if it is a suspect.
pub struct Trial<'a> {
    suspects: &'a Suspects,
    since: Instant,
    ends: u32,
    turn: Option<SemaphorePermit<'a>>,
}

impl Suspects {
    /// `wait_max`: how long a request may wait in all.
    pub fn new(wait_max: Duration) -> Self {
        Suspects { one: Semaphore::new(1), wait_max }
    }

    pub fn trial(&self) -> Trial<'_> {
        Trial { suspects: self, since: Instant::now(), ends: 0, turn: None }
    }
}

impl Trial<'_> {
    /// Whether it may be asked again after this error, and when: returns when it is its turn.
    pub async fn again(&mut self, error: &Error) -> Result<(), Error> {
        self.turn = None;
        if matches!(error, Error::WorkerGone) {
            self.ends += 1;
        }
        if self.ends >= ACCIDENTS_MAX + STRIKES_MAX {
            return Err(Error::WorkerGone);
        }
        let waited = self.since.elapsed();
        let Some(left) = self.suspects.wait_max.checked_sub(waited).filter(|left| !left.is_zero()) else {
            return Err(Error::QueueTimeout { waited, retry_after: PAUSE });
        };
        if matches!(error, Error::Worker { .. }) {
            tokio::time::sleep(PAUSE).await;
        }
        if self.ends >= ACCIDENTS_MAX {
            let turn = tokio::time::timeout(left, self.suspects.one.acquire()).await;
            let Ok(turn) = turn else {
                return Err(Error::QueueTimeout { waited: self.since.elapsed(), retry_after: PAUSE });
            };
            self.turn = Some(turn.expect("nobody closes it"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const GONE: Error = Error::WorkerGone;

    #[tokio::test]
    async fn how_often_may_one_meet_an_end_and_who_must_go_alone() {
        let suspects = Suspects::new(Duration::from_secs(60));
        let (mut one, mut other) = (suspects.trial(), suspects.trial());
        one.again(&GONE).await.unwrap();
        one.again(&GONE).await.unwrap();
        other.again(&GONE).await.unwrap();
        assert!(other.again(&GONE).now_or_never().is_none(), "two suspects at once would not tell who did it");
        suspects.trial().again(&GONE).await.expect("one end is an accident: whoever met it waits for nobody");
        for _ in 0..3 {
            one.again(&GONE).await.unwrap();
        }
        assert!(matches!(one.again(&GONE).await, Err(Error::WorkerGone)), "the sixth end is one too many");
        other.again(&Error::WorkerAbsent).await.expect("the turn is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn does_time_end_what_ends_do_not() {
        let suspects = Suspects::new(Duration::from_secs(10));
        let mut trial = suspects.trial();
        for _ in 0..100 {
            trial.again(&Error::WorkerAbsent).await.expect("whoever was never given away has done nothing");
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(matches!(trial.again(&Error::WorkerAbsent).await, Err(Error::QueueTimeout { .. })));
    }
}
