//! What is remembered of others' answers, for how long, and how often they are asked.

use super::store::{Digest, Kept, Room, Store, Which};
use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

const NOW: u64 = 1_800_000_000;

fn answer(good: bool, subject: &str) -> Answer<u32> {
    let (subject, issuer) = (subject.to_owned(), "https://issuer.test".to_owned());
    Answer { good, value: 7, bytes: 100, subject, issuer, expires_at_unix: None }
}

fn verdicts(limits: Limits) -> Verdicts<u32> {
    Verdicts::new(limits)
}

async fn told(v: &Verdicts<u32>, credential: &str, now: u64, answer: Answer<u32>) -> bool {
    let key = v.key(credential.as_bytes(), []);
    v.ask(&key, now, || async { Ok(answer) }).await.unwrap().good
}

#[tokio::test]
async fn how_long_is_an_answer_believed() {
    let v = verdicts(Limits::default());
    let cases = [
        ("good", answer(true, "a"), 120),
        ("bad", answer(false, ""), 30),
        ("ends", Answer { expires_at_unix: Some(NOW + 5), ..answer(true, "b") }, 5),
        ("ended", Answer { expires_at_unix: Some(NOW), ..answer(true, "c") }, 0),
    ];
    for (credential, answer, seconds) in cases {
        told(&v, credential, NOW, answer).await;
        let key = v.key(credential.as_bytes(), []);
        assert_eq!(v.cached(&key, (NOW + seconds).saturating_sub(1)).is_some(), seconds > 0, "{credential}");
        assert!(v.cached(&key, NOW + seconds).is_none(), "{credential}");
    }
}

#[tokio::test]
async fn is_only_the_very_same_question_answered() {
    let v = verdicts(Limits::default());
    let key = v.key(b"token", ["one", "two"]);
    v.ask(&key, NOW, || async { Ok(answer(true, "a")) }).await.unwrap();
    assert!(v.cached(&key, NOW).is_some());
    for other in [v.key(b"token", ["onet", "wo"]), v.key(b"token", ["one"]), v.key(b"tokem", ["one", "two"])] {
        assert!(v.cached(&other, NOW).is_none());
    }
    assert!(verdicts(Limits::default()).key(b"token", ["one", "two"]) != key, "another process, another hash");
}

#[tokio::test]
async fn are_errors_forgotten_at_once() {
    let v = verdicts(Limits::default());
    let key = v.key(b"token", []);
    let failed = v.ask(&key, NOW, || async { Err("away".into()) }).await;
    assert_eq!(failed.unwrap_err(), Unknown::Failed("away".into()));
    assert!(v.cached(&key, NOW).is_none());
    assert!(told(&v, "token", NOW, answer(true, "a")).await);
    let counts = v.counts();
    assert_eq!((counts.misses, counts.failures, counts.good), (2, 1, 1));
}

#[tokio::test]
async fn how_often_is_asked_for_many_who_wait() {
    let v = verdicts(Limits::default());
    let (asked, gate) = (AtomicUsize::new(0), tokio::sync::Semaphore::new(0));
    let key = v.key(b"token", []);
    let one = || async {
        v.ask(&key, NOW, || async {
            asked.fetch_add(1, Ordering::Relaxed);
            let _ = gate.acquire().await.unwrap();
            Ok(answer(true, "a"))
        })
        .await
    };
    let all = futures_util::future::join_all((0..100).map(|_| one()));
    let (all, ()) = tokio::join!(all, async {
        tokio::task::yield_now().await;
        gate.add_permits(1);
    });
    assert!(all.into_iter().all(|outcome| outcome.unwrap().good));
    assert_eq!(asked.into_inner(), 1);
    assert_eq!((v.counts().misses, v.counts().waits), (1, 99));
    assert!(v.shards.iter().all(|shard| shard.lock().unwrap().flights.is_empty()));
}

#[tokio::test]
async fn does_the_next_one_ask_when_the_first_leaves() {
    let v = verdicts(Limits::default());
    let key = v.key(b"token", []);
    {
        let mut first = std::pin::pin!(v.ask(&key, NOW, std::future::pending));
        let mut second = std::pin::pin!(v.ask(&key, NOW, || async { Ok(answer(true, "a")) }));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert!(futures_util::poll!(second.as_mut()).is_pending(), "one question at a time");
        first.set(v.ask(&key, NOW, std::future::pending));
        assert!(second.await.unwrap().good);
    }
    // And when all leave, nothing stays behind.
    {
        let other = v.key(b"other", []);
        let mut alone = std::pin::pin!(v.ask(&other, NOW, std::future::pending));
        assert!(futures_util::poll!(alone.as_mut()).is_pending());
    }
    assert!(v.shards.iter().all(|shard| shard.lock().unwrap().flights.is_empty()));
}

#[tokio::test]
async fn does_a_wait_end() {
    let wait = Duration::from_millis(50);
    let v = verdicts(Limits { asking_max: 1, wait_max: wait, asked_per_second: 1000, ..Limits::default() });
    let (slow, next) = (v.key(b"slow", []), v.key(b"next", []));
    let both = tokio::join!(
        v.ask(&slow, NOW, std::future::pending),
        v.ask(&next, NOW, || async { panic!("the one permit is taken until the wait is over") })
    );
    assert_eq!((both.0.unwrap_err(), both.1.unwrap_err()), (Unknown::Timeout(wait), Unknown::Timeout(wait)));
    assert!(told(&v, "after", NOW, answer(true, "a")).await, "the permit came back");
}

#[tokio::test]
async fn how_many_unique_bad_credentials_reach_others() {
    // A permit comes back after ten seconds: long after the last of the flood has given up.
    let limits =
        Limits { asking_max: 10, asked_per_second: 1, wait_max: Duration::from_millis(50), ..Limits::default() };
    let v = verdicts(limits);
    let asked = AtomicUsize::new(0);
    let flood = (0..10_000).map(|i| {
        let key = v.key(format!("bad-{i}").as_bytes(), []);
        let (v, asked) = (&v, &asked);
        async move {
            let question = || async {
                asked.fetch_add(1, Ordering::Relaxed);
                Ok(answer(false, ""))
            };
            v.ask(&key, NOW, question).await
        }
    });
    assert!(told(&v, "good", NOW, answer(true, "a")).await);
    let outcomes = futures_util::future::join_all(flood).await;
    assert_eq!(asked.into_inner(), 9, "the burst, less the good one's");
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(Unknown::Timeout(_)))));
    assert!(v.cached(&v.key(b"good", []), NOW).is_some());
    assert!(v.shards.iter().all(|shard| shard.lock().unwrap().flights.is_empty()));
}

#[tokio::test]
async fn what_is_forgotten_on_demand() {
    let v = verdicts(Limits::default());
    let fill = async || {
        v.forget(&Which::All);
        told(&v, "one", NOW, answer(true, "ada")).await;
        told(&v, "two", NOW, answer(true, "bob")).await;
        told(&v, "three", NOW, answer(false, "")).await;
    };
    let cases = [
        (Which::All, 3),
        (Which::Subject("ada".into()), 1),
        (Which::Subject("eve".into()), 0),
        (Which::Issuer("https://issuer.test".into()), 3),
        (Which::Credential(sha256(b"two")), 1),
        (Which::Credential(sha256(b"four")), 0),
    ];
    for (which, expected) in cases {
        fill().await;
        assert_eq!(v.forget(&which), expected, "{which:?}");
    }
}

#[tokio::test]
async fn is_an_answer_kept_that_was_asked_for_before_it_was_to_be_forgotten() {
    let v = verdicts(Limits::default());
    let key = v.key(b"token", []);
    let outcome = v.ask(&key, NOW, || async {
        v.forget(&Which::Subject("ada".into()));
        Ok(answer(true, "ada"))
    });
    assert!(outcome.await.unwrap().good);
    assert!(v.cached(&key, NOW).is_none());
}

fn kept(bytes: usize, until_unix: u64) -> Arc<Kept<u32>> {
    let (subject, issuer) = (String::new(), String::new());
    Arc::new(Kept { good: true, value: 0, subject, issuer, until_unix, bytes, credential: [0; 32] })
}

fn name(number: u8) -> Digest {
    [number; 32]
}

proptest! {
    #[test]
    fn is_the_room_never_exceeded(acts in proptest::collection::vec((any::<bool>(), 0u8..40, 0usize..600, 0u64..20), 0..400)) {
        let room = Room { entries: 16, bytes: 2000 };
        let mut store = Store::new(room);
        let mut told = std::collections::HashMap::new();
        for (now, (put, number, bytes, life)) in acts.into_iter().enumerate() {
            let now = now as u64;
            if put {
                store.insert(name(number), kept(bytes, now + life));
                told.insert(number, now + life);
            } else if let Some(found) = store.get(&name(number), now) {
                prop_assert_eq!(found.until_unix, told[&number], "the newest one");
                prop_assert!(now < found.until_unix, "what has ended is not given out");
            }
            prop_assert!(store.len() <= room.entries && store.bytes() <= room.bytes);
        }
        store.forget(&Which::All);
        prop_assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn does_a_flood_of_bad_ones_push_out_a_good_one(flood in 500usize..1000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let limits = Limits { asked_per_second: u32::MAX, ..Limits::default() };
            let v = verdicts(Limits { bad: Room { entries: 256, bytes: 1 << 16 }, ..limits });
            told(&v, "good", NOW, answer(true, "ada")).await;
            for i in 0..flood {
                told(&v, &format!("bad-{i}"), NOW, answer(false, "")).await;
            }
            let counts = v.counts();
            assert!(counts.good == 1 && counts.bad <= 256, "{counts:?}");
            assert!(v.cached(&v.key(b"good", []), NOW).is_some());
        });
    }
}
