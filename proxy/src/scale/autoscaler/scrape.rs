//! Asks a sample of the pods for their statistics, at once; whoever does not answer is replaced by the next.

use super::Pod;
use crate::chance::Chance;
use crate::fetch::{Client, FetchError, Trust};
use crate::scale::autoscale::sample;
use crate::scale::stats::{Report, STAT_BYTES_MAX};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

pub struct Scraper {
    client: Client,
    /// Without it the same pods would be asked each time, which is a worse sample.
    chance: Chance,
}

impl Scraper {
    pub(super) fn new() -> Scraper {
        Scraper { client: Client::new(Trust::default()), chance: Chance::default() }
    }

    /// What all pods together have; `None`: too few answered. Pods younger than `window` are asked last.
    pub(super) async fn scrape(&self, pods: &[Pod], window: Duration) -> Option<Report> {
        let (old, young): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| pod.age >= window);
        let order = sample::order(old, young, |below| (self.chance.next() % below as u64) as usize);
        let next = AtomicUsize::new(0);
        let askers = (0..sample::size(pods.len())).map(|_| async {
            while let Some(pod) = order.get(next.fetch_add(1, Relaxed)) {
                match self.ask(pod.stats).await {
                    Ok(report) => return Some(report),
                    Err(reason) => tracing::debug!(pod = %pod.stats, reason, "a pod does not tell its statistics"),
                }
            }
            None
        });
        let answers: Vec<Report> = join_all(askers).await.into_iter().flatten().collect();
        sample::whole(&answers, pods.len())
    }

    async fn ask(&self, pod: SocketAddr) -> Result<Report, String> {
        let request = Request::get(format!("http://{pod}/metrics")).body(Bytes::new());
        let request = request.expect("an address makes a URI");
        let answer = self.client.send(request, TIMEOUT, STAT_BYTES_MAX).await.map_err(|error| match error {
            FetchError::TooLarge(_) => "its answer is longer than statistics are; is this its port for them?".into(),
            error => error.to_string(),
        })?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}", answer.status()));
        }
        Report::decode(answer.body()).map(|(report, _)| report).map_err(|error| error.to_string())
    }
}
