//! Whether the app is ready, by its own readiness probe: asked by us, because whoever asks us may ask very often.
//!
//! However many want to know, the app is asked once at a time, and all hear the same.

use super::Visit;
use crate::config::Readiness;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// As queue-proxy, where a probe has no period: so long for each try, so long between two, and so long in all.
const TRY_TIMEOUT: Duration = Duration::from_millis(100);
const TRY_PAUSE: Duration = Duration::from_millis(50);
const TRIES_TIMEOUT: Duration = Duration::from_secs(10);
/// Apps leave kubelets' probes out of their logs by this beginning.
const AGENT: &str = "kube-probe/outrider";
/// The app is in the same pod.
const APP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Asks the app.
pub struct Prober {
    readiness: Readiness,
    /// What the one that is under way will say.
    under_way: Mutex<Option<watch::Receiver<Option<bool>>>>,
}

impl Prober {
    pub fn new(readiness: Readiness) -> Arc<Prober> {
        Arc::new(Prober { readiness, under_way: Mutex::default() })
    }

    /// Asks, or waits for what somebody else is asking at this moment.
    pub async fn is_ready(self: &Arc<Self>) -> bool {
        let mut told = self.join();
        let ready = told.wait_for(Option::is_some).await;
        ready.is_ok_and(|ready| *ready == Some(true))
    }

    fn join(self: &Arc<Self>) -> watch::Receiver<Option<bool>> {
        let mut under_way = self.under_way.lock().expect("nobody panics while it is held");
        // One that has ended says how it was, not how it is.
        let running = |told: &&watch::Receiver<Option<bool>>| told.borrow().is_none() && told.has_changed().is_ok();
        if let Some(told) = under_way.as_ref().filter(running) {
            return told.clone();
        }
        let (tell, told) = watch::channel(None);
        *under_way = Some(told.clone());
        let prober = self.clone();
        // On its own, so that the one who asked first may leave.
        tokio::spawn(async move { tell.send_replace(Some(prober.probe().await)) });
        told
    }

    async fn probe(&self) -> bool {
        match self.readiness.timeout {
            Some(limit) => self.once(limit).await,
            None => tokio::time::timeout(TRIES_TIMEOUT, self.again_and_again()).await.is_ok(),
        }
    }

    /// Until it was ready often enough in a row.
    async fn again_and_again(&self) {
        let mut successes = 0;
        loop {
            successes = if self.once(TRY_TIMEOUT).await { successes + 1 } else { 0 };
            if successes >= self.readiness.successes_min {
                return;
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
    }

    async fn once(&self, limit: Duration) -> bool {
        let visit = Visit { pod: APP, dial: APP, agent: AGENT };
        match tokio::time::timeout(limit, visit.ask(&self.readiness.ask)).await {
            Ok(Ok(answer)) => (200..400).contains(&answer.status),
            Ok(Err(words)) => {
                tracing::debug!(words, "the app is not ready");
                false
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProbeAsk;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use tokio::net::TcpListener;

    async fn server(statuses: &'static [u16]) -> (u16, Arc<AtomicUsize>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let at = count.fetch_add(1, SeqCst);
                let status = statuses[at.min(statuses.len() - 1)];
                let _ = tcp.read(&mut [0; 2048]).await;
                let _ = tcp.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            }
        });
        (port, asked)
    }

    fn prober(port: u16, timeout: Option<Duration>, successes_min: u32) -> Arc<Prober> {
        let http = crate::config::HttpProbe { host: None, port, path: "/".into(), https: false, headers: Vec::new() };
        Prober::new(Readiness { ask: ProbeAsk::Http(http), timeout, successes_min })
    }

    #[tokio::test]
    async fn which_statuses_mean_ready() {
        for (statuses, ready) in [(&[200][..], true), (&[302], true), (&[399], true), (&[400], false), (&[503], false)]
        {
            let (port, asked) = server(statuses).await;
            assert_eq!(prober(port, Some(Duration::from_secs(5)), 1).is_ready().await, ready, "{statuses:?}");
            assert_eq!(asked.load(SeqCst), 1, "with a period it is asked once");
        }
    }

    #[tokio::test]
    async fn is_it_asked_until_it_was_ready_often_enough_in_a_row() {
        let (port, asked) = server(&[503, 200, 503, 200, 200, 200]).await;
        assert!(prober(port, None, 3).is_ready().await);
        assert_eq!(asked.load(SeqCst), 6);
    }

    #[tokio::test]
    async fn is_the_app_asked_once_for_all_who_want_to_know() {
        let (port, asked) = server(&[503, 503, 200]).await;
        let prober = prober(port, None, 1);
        let all: Vec<_> = (0..20)
            .map(|_| {
                let prober = prober.clone();
                tokio::spawn(async move { prober.is_ready().await })
            })
            .collect();
        for one in all {
            assert!(one.await.unwrap());
        }
        assert_eq!(asked.load(SeqCst), 3);
        assert!(prober.is_ready().await, "whoever comes later is told how it is now");
        assert_eq!(asked.load(SeqCst), 4);
    }
}
