//! Services whose pods answer, fail or are young; what is decided of them and told.

use super::*;
use crate::metrics::Metrics;
use crate::scale::autoscale::burst::Mode;
use crate::scale::stats::Reporting;
use async_trait::async_trait;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A pod that tells always the same, or nothing good.
async fn pod(answer: Result<Report, &'static str>) -> (SocketAddr, Arc<AtomicUsize>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let by = Reporting { pod: "pod", uptime: Duration::from_secs(1), unix: Duration::ZERO };
    let (status, body) = match answer {
        Ok(report) => ("200 OK", report.encode(&by)),
        Err(status) => (status, b"no".to_vec()),
    };
    let task = tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (body, counter) = (body.clone(), counter.clone());
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while tcp.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                    counter.fetch_add(1, SeqCst);
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = tcp.write_all(head.as_bytes()).await;
                    let _ = tcp.write_all(&body).await;
                }
            });
        }
    });
    (address, asked, AbortOnDropHandle::new(task))
}

fn report(concurrency: f64) -> Report {
    Report { concurrency, requests: 2.0 * concurrency, ..Report::default() }
}

fn there(stats: SocketAddr, age: u64) -> Pod {
    Pod { stats, ready: true, age: Duration::from_secs(age) }
}

const WINDOW: Duration = Duration::from_secs(60);

#[tokio::test]
async fn is_a_pod_that_does_not_answer_replaced_by_a_young_one() {
    let (good, asked, _good) = pod(Ok(report(3.0))).await;
    let (bad, _, _bad) = pod(Err("503 Service Unavailable")).await;
    let (long, _, _long) = pod(Err("200 OK")).await;
    let (scraper, old) = (Scraper::new(), |address| there(address, 100));
    let whole = scraper.scrape(&[old(good), old(good), old(good), there(good, 1)], WINDOW).await.unwrap();
    assert_eq!((whole.concurrency, whole.requests, asked.load(SeqCst)), (12.0, 24.0, 4));
    assert_eq!(scraper.scrape(&[old(good), old(bad), old(good)], WINDOW).await, None, "all of three are needed");
    let five = [old(good), old(bad), old(good), old(good), there(good, 1)];
    assert_eq!(
        scraper.scrape(&five, WINDOW).await.map(|whole| whole.concurrency),
        Some(15.0),
        "four of five are enough"
    );
    assert_eq!(scraper.scrape(&[old(long)], WINDOW).await, None, "what is no statistics is none");
}

/// A service of which everything is as the test says.
struct Scene {
    pods: Mutex<Vec<Pod>>,
    buffered: Mutex<Option<Report>>,
    scale: AtomicU32,
    sets: AtomicUsize,
    failing: AtomicUsize,
    outcome: Mutex<Option<Outcome>>,
}

#[async_trait]
impl Scaler for Scene {
    async fn scale(&self) -> Result<u32, String> {
        let left = self.failing.load(SeqCst);
        self.failing.store(left.saturating_sub(1), SeqCst);
        if left > 0 { Err("the API server is away".into()) } else { Ok(self.scale.load(SeqCst)) }
    }

    async fn set(&self, replicas: u32) -> Result<(), String> {
        self.sets.fetch_add(1, SeqCst);
        self.scale.store(replicas, SeqCst);
        Ok(())
    }
}

impl Around for Scene {
    fn pods(&self) -> Option<Vec<Pod>> {
        Some(self.pods.lock().unwrap().clone())
    }

    fn buffered(&self) -> Option<Report> {
        *self.buffered.lock().unwrap()
    }

    fn path(&self) -> Path {
        Path { proved: true, buffered_for: Some(WINDOW) }
    }

    fn decided(&self, outcome: &Outcome) {
        *self.outcome.lock().unwrap() = Some(*outcome);
    }
}

fn scene(pods: Vec<Pod>, scale: u32, failing: usize) -> Arc<Scene> {
    Arc::new(Scene {
        pods: Mutex::new(pods),
        buffered: Mutex::new(None),
        scale: AtomicU32::new(scale),
        sets: AtomicUsize::new(0),
        failing: AtomicUsize::new(failing),
        outcome: Mutex::new(None),
    })
}

fn begin(scene: &Arc<Scene>, settings: Settings, metrics: &Metrics) -> (Arc<Autoscaler>, AbortOnDropHandle<()>) {
    let company = Company { scaler: scene.clone(), around: scene.clone(), metrics: metrics.autoscale.clone() };
    let autoscaler = Autoscaler::new("chat", settings, company);
    let task = tokio::spawn(autoscaler.clone().run(std::future::pending()));
    (autoscaler, AbortOnDropHandle::new(task))
}

async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came true");
}

#[tokio::test]
async fn is_one_who_waits_at_zero_decided_about_at_once() {
    let (scene, metrics) = (scene(Vec::new(), 0, 0), Metrics::new());
    let (autoscaler, _task) = begin(&scene, Settings::default(), &metrics);
    until(|| scene.outcome.lock().unwrap().is_some()).await;
    assert_eq!(scene.scale.load(SeqCst), 0);
    // Right after a tick, and time stands still: what is decided now is decided because somebody waits.
    tokio::time::pause();
    autoscaler.tell(&report(1.0));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.scale.load(SeqCst), 1, "not with the next tick only");
    tokio::time::resume();
    assert_eq!(scene.sets.load(SeqCst), 1);
    let mut seen = autoscaler.seen();
    let seen = seen.wait_for(|seen| seen.want == Some(1)).await.unwrap().clone();
    assert_eq!((seen.metric, seen.target, seen.active), ("concurrency", 70.0, true));
}

#[tokio::test]
async fn do_pods_and_buffer_together_say_how_many() {
    let (address, _, _pod) = pod(Ok(report(60.0))).await;
    let (scene, metrics) = (scene(vec![there(address, 100)], 1, 1), Metrics::new());
    *scene.buffered.lock().unwrap() = Some(report(50.0));
    let (_autoscaler, _task) = begin(&scene, Settings { target: Some(50.0), ..Settings::default() }, &metrics);
    // 110 at once, 35 each.
    until(|| scene.scale.load(SeqCst) >= 4).await;
    let outcome = scene.outcome.lock().unwrap().expect("it was decided");
    assert_eq!((outcome.mode, outcome.buffers), (Mode::Proxy, 3));
    let text = metrics.expose(&Default::default());
    for line in [
        "outrider_autoscaler_pods_desired{service=\"chat\"} ",
        "outrider_autoscaler_pods_ready{service=\"chat\"} 1",
        "outrider_autoscaler_load{service=\"chat\",window=\"stable\"} 1",
        "outrider_autoscaler_panicking{service=\"chat\"} 1",
        "outrider_autoscaler_excess_burst_capacity{service=\"chat\"} -2",
        "outrider_autoscaler_activity{service=\"chat\",state=\"active\"} 1",
        "outrider_autoscaler_scalings_total{result=\"ok\",service=\"chat\"} ",
        "outrider_autoscaler_scrapes_total{result=\"ok\",service=\"chat\"} ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
