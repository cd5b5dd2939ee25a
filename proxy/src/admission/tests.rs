use super::*;
use async_trait::async_trait;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// A worker that starts as the test says.
#[derive(Default)]
struct Scripted {
    starts: AtomicUsize,
    stops: AtomicUsize,
    /// The first so many starts fail.
    failing: usize,
}

#[async_trait]
impl Target for Scripted {
    async fn start(&self) -> Result<(), String> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if self.starts.fetch_add(1, SeqCst) < self.failing { Err("out of memory".into()) } else { Ok(()) }
    }

    async fn stop(&self) {
        self.stops.fetch_add(1, SeqCst);
    }

    async fn exited(&self) -> String {
        std::future::pending().await
    }
}

const LIMITS: Limits = Limits {
    concurrency: 4,
    queue: QueueLimits { requests_max: 100, bytes_max: 1 << 20, bands: 2 },
    wait_max: Duration::from_secs(5),
    idle_timeout: None,
};

fn begin(limits: Limits, target: Scripted) -> (Arc<Admission>, Arc<Scripted>) {
    let (admission, target) = (Admission::new(limits), Arc::new(target));
    tokio::spawn(admission.clone().run(target.clone(), std::future::pending()));
    (admission, target)
}

#[tokio::test]
async fn do_a_hundred_callers_share_one_start_and_the_limit() {
    let (admission, target) = begin(LIMITS, Scripted::default());
    let most = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let (admission, most) = (admission.clone(), most.clone());
            tokio::spawn(async move {
                let _permit = admission.admit(Ticket::default()).await.unwrap();
                most.fetch_max(admission.snapshot().running, SeqCst);
                tokio::task::yield_now().await;
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(target.starts.load(SeqCst), 1);
    assert_eq!(most.load(SeqCst), 4);
    let after = admission.snapshot();
    assert_eq!((after.running, after.waiting, after.waiting_bytes), (0, 0, 0));
}

#[tokio::test]
async fn is_everybody_told_once_when_a_start_fails() {
    let (admission, target) = begin(LIMITS, Scripted { failing: 1, ..Default::default() });
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let admission = admission.clone();
            tokio::spawn(async move { admission.admit(Ticket::default()).await.map(drop) })
        })
        .collect();
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
    }
    assert_eq!(target.starts.load(SeqCst), 1);
    let refused = admission.admit(Ticket::default()).await.map(drop).unwrap_err();
    assert!(refused.verdict().retry_after.is_some(), "in the pause nobody starts another: {refused}");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    admission.admit(Ticket::default()).await.map(drop).expect("after the pause it works");
}

#[tokio::test]
async fn does_an_idle_worker_sleep_and_wake_again() {
    let limits = Limits { idle_timeout: Some(Duration::from_millis(30)), ..LIMITS };
    let (admission, target) = begin(limits, Scripted::default());
    for round in 1..4 {
        admission.admit(Ticket::default()).await.map(drop).unwrap();
        while target.stops.load(SeqCst) < round || admission.snapshot().worker != "asleep" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(target.starts.load(SeqCst), round);
    }
}

#[tokio::test]
async fn does_a_caller_that_leaves_free_its_place() {
    let (admission, _) = begin(Limits { concurrency: 1, ..LIMITS }, Scripted::default());
    let held = admission.admit(Ticket::default()).await.unwrap();
    let waits = tokio::spawn({
        let admission = admission.clone();
        async move { admission.admit(Ticket { bytes: 10, ..Ticket::default() }).await.map(drop) }
    });
    while admission.snapshot().waiting_bytes != 10 {
        tokio::task::yield_now().await;
    }
    waits.abort();
    let _ = waits.await;
    assert_eq!(admission.snapshot().waiting, 0);
    drop(held);
    admission.admit(Ticket::default()).await.map(drop).unwrap();
    assert_eq!(admission.snapshot().running, 0);
}

#[tokio::test]
async fn is_a_lost_worker_replaced_and_the_place_kept() {
    let (admission, target) = begin(LIMITS, Scripted::default());
    let permit = admission.admit(Ticket::default()).await.unwrap();
    let (generation, place) = (permit.generation(), permit.place());
    drop(permit);
    admission.lost(generation);
    admission.lost(generation);
    let again = admission.admit(Ticket { place: Some(place), ..Ticket::default() }).await.unwrap();
    assert_eq!((again.place(), again.generation()), (place, generation + 1));
    assert_eq!((target.starts.load(SeqCst), admission.snapshot().crashes), (2, 1));
}
