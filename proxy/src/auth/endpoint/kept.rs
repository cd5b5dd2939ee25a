//! An answer that is kept until its time is over, and asked for by one caller while the others wait.
//!
//! A failure is kept too, for a moment: callers that waited for it do not each wait for another. Who prefers an old
//! answer to none gets it while a new one cannot be had. Owns a clock; knows nothing of what it keeps.

use arc_swap::ArcSwapOption;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

const FAILURE_KEPT: Duration = Duration::from_secs(1);
/// Where an old answer serves, nobody is in a hurry.
const FAILURE_KEPT_WITH_LAST: Duration = Duration::from_secs(5);

pub struct Kept<T> {
    answer: ArcSwapOption<(Instant, Arc<T>)>,
    /// Held while somebody asks. The last failure, and until when it is kept.
    asking: Mutex<Option<(Instant, String)>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept { answer: ArcSwapOption::empty(), asking: Mutex::new(None) }
    }
}

impl<T> Kept<T> {
    /// What is kept, or what `ask` brings together with how long it may be kept.
    ///
    /// An asker who is dropped makes the next one ask; nobody waits for the dead.
    pub async fn get<F>(&self, ask: impl FnOnce() -> F) -> Result<Arc<T>, String>
    where
        F: Future<Output = Result<(T, Duration), String>>,
    {
        self.answer_or(None, ask).await
    }

    /// The same, but an answer whose time is over is better than none: it is given to all but the one who asks, and to
    /// that one too if it asks in vain.
    pub async fn get_or_last<F>(&self, ask: impl FnOnce() -> F) -> Result<Arc<T>, String>
    where
        F: Future<Output = Result<(T, Duration), String>>,
    {
        let last = self.answer.load().as_ref().map(|kept| kept.1.clone());
        self.answer_or(last, ask).await
    }

    async fn answer_or<F>(&self, last: Option<Arc<T>>, ask: impl FnOnce() -> F) -> Result<Arc<T>, String>
    where
        F: Future<Output = Result<(T, Duration), String>>,
    {
        if let Some(answer) = self.fresh() {
            return Ok(answer);
        }
        let mut failure = match (self.asking.try_lock(), &last) {
            (Ok(failure), _) => failure,
            (Err(_), Some(last)) => return Ok(last.clone()),
            (Err(_), None) => self.asking.lock().await,
        };
        if let Some(answer) = self.fresh() {
            return Ok(answer);
        }
        if let Some((until, words)) = failure.as_ref().filter(|(until, _)| Instant::now() < *until) {
            tracing::trace!(?until, "a failure of a moment ago answers");
            return last.ok_or_else(|| words.clone());
        }
        match ask().await {
            Ok((answer, keep)) => {
                let answer = Arc::new(answer);
                self.answer.store(Some(Arc::new((Instant::now() + keep, answer.clone()))));
                *failure = None;
                Ok(answer)
            }
            Err(words) => {
                let kept = if last.is_some() { FAILURE_KEPT_WITH_LAST } else { FAILURE_KEPT };
                *failure = Some((Instant::now() + kept, words.clone()));
                last.ok_or(words)
            }
        }
    }

    /// Whoever finds that `answer` is no good any more: the next one asks anew.
    pub fn forget(&self, answer: &Arc<T>) {
        let kept = self.answer.load();
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.1, answer)) {
            self.answer.store(None);
        }
    }

    fn fresh(&self) -> Option<Arc<T>> {
        let kept = self.answer.load();
        kept.as_ref().filter(|kept| Instant::now() < kept.0).map(|kept| kept.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn does_one_ask_for_all() {
        let (kept, asked) = (Kept::default(), AtomicU32::new(0));
        let get = || {
            kept.get(|| async {
                tokio::task::yield_now().await;
                Ok((asked.fetch_add(1, Ordering::Relaxed), LONG))
            })
        };
        let answers = futures_util::future::join_all((0..50).map(|_| get())).await;
        assert!(answers.iter().all(|answer| answer.as_deref() == Ok(&0)));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let first = answers[0].clone().unwrap();
        kept.forget(&first);
        let second = get().await.unwrap();
        assert_eq!(*second, 1);
        // Who is late with the news takes nothing away.
        kept.forget(&first);
        assert_eq!(*get().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn do_those_who_waited_for_a_failure_share_it() {
        let (kept, asked) = (Kept::<u32>::default(), AtomicU32::new(0));
        let get = || {
            kept.get(|| async {
                tokio::task::yield_now().await;
                asked.fetch_add(1, Ordering::Relaxed);
                Err("no".to_owned())
            })
        };
        let answers = futures_util::future::join_all((0..50).map(|_| get())).await;
        assert!(answers.iter().all(|answer| answer.as_deref() == Err(&"no".to_owned())));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn does_an_old_answer_serve_those_who_prefer_it_to_none() {
        let kept = Kept::default();
        let fails = || kept.get_or_last(|| async { Err("no".to_owned()) });
        assert_eq!(fails().await.as_deref(), Err(&"no".to_owned()));
        *kept.asking.lock().await = None;
        assert_eq!(kept.get_or_last(|| async { Ok((7, Duration::ZERO)) }).await.as_deref(), Ok(&7));
        {
            let mut asks = std::pin::pin!(kept.get_or_last(std::future::pending));
            assert!(futures_util::poll!(&mut asks).is_pending());
            assert_eq!(fails().await.as_deref(), Ok(&7), "waits for nobody");
        }
        assert_eq!(fails().await.as_deref(), Ok(&7));
        // A failure of a moment ago: nobody is asked.
        assert_eq!(kept.get_or_last(|| async { Ok((8, LONG)) }).await.as_deref(), Ok(&7));
    }

    #[tokio::test]
    async fn does_an_asker_who_leaves_hold_nobody_up() {
        let kept = Kept::default();
        {
            let mut stuck = std::pin::pin!(kept.get(std::future::pending));
            assert!(futures_util::poll!(&mut stuck).is_pending());
        }
        assert_eq!(kept.get(|| async { Ok((7, Duration::ZERO)) }).await.as_deref(), Ok(&7));
        // Not kept for any time: asked for again.
        assert_eq!(kept.get(|| async { Ok((8, LONG)) }).await.as_deref(), Ok(&8));
    }
}
