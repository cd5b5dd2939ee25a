//! Admission as callers meet it: starts, limits, crowds and failures.

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

fn flow(flow: u64) -> Ticket {
    Ticket { class: Class { flow, ..Class::default() }, ..Ticket::default() }
}

async fn wait_until(admission: &Admission, fits: impl Fn(&Snapshot) -> bool) {
    while !fits(&admission.snapshot()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn who_goes_when_it_is_full_and_what_are_they_told() {
    let limits = Limits { concurrency: 1, queue: QueueLimits { requests_max: 2, ..LIMITS.queue }, ..LIMITS };
    let (admission, _) = begin(limits, Scripted::default());
    let held = admission.admit(flow(1)).await.unwrap();
    let join = |ticket| {
        let admission = admission.clone();
        tokio::spawn(async move { admission.admit(ticket).await.map(drop) })
    };
    let first = join(flow(1));
    wait_until(&admission, |now| now.waiting == 1).await;
    let second = join(flow(1));
    wait_until(&admission, |now| now.waiting == 2).await;
    let full = admission.admit(flow(1)).await.map(drop).unwrap_err().verdict();
    assert_eq!((full.status, full.label, full.part), (429, "queue_full", "queue"));
    let other = join(flow(2));
    let gone = second.await.unwrap().unwrap_err().verdict();
    assert_eq!((gone.status, gone.label, gone.part), (429, "queue_displaced", "queue"));
    assert!(gone.retry_after.is_some() && full.retry_after.is_some());
    drop(held);
    first.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    let after = admission.snapshot();
    assert_eq!((after.dropped.of(Outcome::EvictedDisplaced), after.dropped.of(Outcome::RejectedCapacity)), (1, 1));
    assert_eq!((after.running, after.waiting, after.cost), (0, 0, 0));
}

#[tokio::test]
async fn is_what_the_worker_holds_shared_by_cost() {
    let (admission, _) = begin(LIMITS, Scripted::default());
    admission.holds(Some(100));
    let costs = |cost| Ticket { cost, ..Ticket::default() };
    let held = admission.admit(costs(70)).await.unwrap();
    let waits = tokio::spawn({
        let admission = admission.clone();
        async move { admission.admit(costs(500)).await.map(drop) }
    });
    wait_until(&admission, |now| now.waiting == 1).await;
    assert_eq!(admission.snapshot().cost, 70);
    drop(held);
    waits.await.unwrap().expect("more than it holds, but alone");
    assert_eq!(admission.snapshot().cost, 0);
}

#[tokio::test]
async fn does_somebody_wait_no_longer_than_its_class_may() {
    let (admission, _) = begin(Limits { concurrency: 1, ..LIMITS }, Scripted::default());
    let held = admission.admit(Ticket::default()).await.unwrap();
    let hurried = Ticket { wait_max: Some(Duration::from_millis(20)), ..Ticket::default() };
    let verdict = admission.admit(hurried).await.map(drop).unwrap_err().verdict();
    assert_eq!((verdict.status, verdict.label, verdict.part), (504, "queue_timeout", "queue"));
    assert_eq!(admission.snapshot().dropped.of(Outcome::EvictedTtl), 1);
    drop(held);
}

#[tokio::test]
async fn is_nobody_let_go_as_a_herd_after_a_start() {
    let limits =
        Limits { concurrency: usize::MAX >> 1, queue: QueueLimits { requests_max: 3000, ..LIMITS.queue }, ..LIMITS };
    let (admission, _) = begin(limits, Scripted::default());
    let callers: Vec<_> = (0..2000u64)
        .map(|number| {
            let admission = admission.clone();
            tokio::spawn(async move { admission.admit(flow(number % 7)).await.map(|permit| permit.waited) })
        })
        .collect();
    let mut waits = Vec::new();
    for caller in callers {
        waits.push(caller.await.unwrap().unwrap());
    }
    waits.sort_unstable();
    let spread = waits[waits.len() - 1].saturating_sub(waits[0]);
    assert!(spread >= pace::STEP * 5, "2,000 need six doublings of 32, and went within {spread:?}");
    assert_eq!(admission.snapshot().running, 0);
}

#[tokio::test]
async fn do_permits_out_and_in_agree_after_any_storm() {
    let limits = Limits { concurrency: 3, queue: QueueLimits { requests_max: 50, ..LIMITS.queue }, ..LIMITS };
    let (admission, _) = begin(limits, Scripted::default());
    admission.holds(Some(20));
    let callers: Vec<_> = (0..2000u64)
        .map(|number| {
            let admission = admission.clone();
            let ticket = Ticket {
                bytes: number as usize % 100,
                cost: 1 + number * 7 % 25,
                class: Class { band: (number % 3) as u8, flow: number % 11, weight: 1 + number as u32 % 2 },
                wait_max: number.is_multiple_of(5).then_some(Duration::from_millis(number % 4)),
                place: None,
            };
            tokio::spawn(async move {
                let Ok(permit) = admission.admit(ticket).await else { return };
                tokio::time::sleep(Duration::from_millis(number % 2)).await;
                let (place, generation) = (permit.place(), permit.generation());
                drop(permit);
                if number.is_multiple_of(50) {
                    admission.lost(generation);
                    let _ = admission.admit(Ticket { place: Some(place), ..ticket }).await;
                }
            })
        })
        .collect();
    for (number, caller) in callers.into_iter().enumerate() {
        if number.is_multiple_of(3) {
            caller.abort();
        }
        let _ = caller.await;
    }
    let after = admission.snapshot();
    assert_eq!((after.running, after.waiting, after.waiting_bytes, after.cost, after.flows), (0, 0, 0, 0, 0));
    admission.admit(Ticket::default()).await.map(drop).expect("it works as before");
}
