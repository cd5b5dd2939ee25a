//! How much there is to do, for an autoscaler that asks every second: `GET /metrics` as Knative's sidecars answer it.
//!
//! Counts every request that is no probe, from its head to its end, held or not. Says nothing but numbers and the pod's
//! name.

use super::http::{self, Reply};
use crate::record::unix_now;
use crate::scale::stats::{PERIOD, Reporter, Reporting};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

const TIMEOUT: Duration = Duration::from_secs(5);
/// A few autoscalers, each with one question a second.
const CONNECTIONS_MAX: usize = 16;

/// Shared by all threads.
pub struct Stats {
    reporter: Mutex<Reporter>,
    /// What the last period was like, encoded.
    told: Mutex<Vec<u8>>,
    since: Instant,
    pod: String,
}

/// A request that is counted until this is dropped.
pub struct Counted {
    stats: Arc<Stats>,
    proxied: bool,
}

impl Default for Stats {
    fn default() -> Self {
        // As Knative names it, and as every pod has it.
        let named = ["SERVING_POD", "HOSTNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let reporter = Mutex::new(Reporter::new(Duration::ZERO));
        Stats { reporter, told: Mutex::default(), since: Instant::now(), pod: named.unwrap_or_default() }
    }
}

impl Stats {
    /// `proxied`: an activator counts it too.
    pub fn enter(self: &Arc<Self>, proxied: bool) -> Counted {
        self.reporter.lock().expect("nobody panics with it").enter(self.since.elapsed(), proxied);
        Counted { stats: self.clone(), proxied }
    }

    /// Closes a period.
    fn report(&self) {
        let uptime = self.since.elapsed();
        let report = self.reporter.lock().expect("nobody panics with it").report(uptime);
        let bytes = report.encode(&Reporting { pod: &self.pod, uptime, unix: unix_now() });
        *self.told.lock().expect("nobody panics with it") = bytes;
    }

    fn told(&self) -> Reply {
        Reply::protobuf(self.told.lock().expect("nobody panics with it").clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let now = self.stats.since.elapsed();
        self.stats.reporter.lock().expect("nobody panics with it").leave(now, self.proxied);
    }
}

/// For ever: answers, and closes a period each second.
pub async fn serve(listener: TcpListener, stats: Arc<Stats>) {
    let attend_one = |tcp, _| {
        let stats = stats.clone();
        async move { drop(tokio::time::timeout(TIMEOUT, answer(tcp, &stats)).await) }
    };
    let periods = async {
        loop {
            stats.report();
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::select! {
        () = http::attend_each(listener, CONNECTIONS_MAX, attend_one) => {}
        () = periods => {}
    }
}

async fn answer(mut tcp: TcpStream, stats: &Stats) -> std::io::Result<()> {
    let Some(request) = http::read(&mut tcp).await? else { return Ok(()) };
    let (reply, head_only) = match request {
        Ok(request) if request.path == "/metrics" => (stats.told(), request.method == "HEAD"),
        Ok(request) => (Reply::text(404, "try /metrics\n"), request.method == "HEAD"),
        Err(reply) => (reply, false),
    };
    http::write(tcp, &reply, head_only).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::stats::Report;

    #[test]
    fn is_a_request_counted_from_its_head_to_its_end() {
        let stats = Arc::new(Stats::default());
        let (one, other) = (stats.enter(false), stats.enter(true));
        stats.report();
        drop((one, other));
        let (report, _) = Report::decode(&stats.told.lock().unwrap()).unwrap();
        assert!(report.requests > 0.0 && report.proxied_requests > 0.0);
        assert_eq!(stats.reporter.lock().unwrap().running(), 0);
    }
}
