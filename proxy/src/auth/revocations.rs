//! Rights that end before their time: told to every exchange that still runs on them.
//!
//! Bounded: who has not looked for so long that what it missed is forgotten takes its rights for revoked.

use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Revocations that are remembered.
const RECENT_MAX: usize = 4096;

/// Whose rights end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    All,
    Subject(String),
    Issuer(String),
    /// SHA-256 of the credential that was shown.
    Credential([u8; 32]),
    /// `jti` of the token that was shown.
    TokenId(String),
}

/// Where revocations are told.
pub struct Revocations {
    /// How many there were.
    count: watch::Sender<u64>,
    recent: Mutex<VecDeque<Revoked>>,
}

impl Default for Revocations {
    fn default() -> Revocations {
        Revocations { count: watch::Sender::new(0), recent: Mutex::default() }
    }
}

impl Revocations {
    pub fn revoke(&self, revoked: Revoked) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(revoked);
        self.count.send_modify(|count| *count += 1);
    }

    pub fn count(&self) -> u64 {
        *self.count.borrow()
    }

    /// From now on; what was told before does not concern who begins now.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let receiver = self.count.subscribe();
        let seen = *receiver.borrow();
        Watch { revocations: self.clone(), receiver, seen, whose: Vec::new() }
    }
}

/// One caller's rights.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Whose {
    pub subject: String,
    pub issuer: String,
    pub claims: Arc<Value>,
    /// Hashed only when somebody revokes one.
    pub credential: Option<Box<str>>,
}

/// One exchange that looks out for the end of its caller's rights.
pub struct Watch {
    revocations: Arc<Revocations>,
    receiver: watch::Receiver<u64>,
    seen: u64,
    /// A caller may have shown more than one thing.
    whose: Vec<Whose>,
}

impl Watch {
    pub fn of(&mut self, whose: Whose) {
        self.whose.push(whose);
    }

    /// Looks once.
    pub fn is_revoked(&mut self) -> bool {
        *self.receiver.borrow() != self.seen && self.concerns()
    }

    /// Waits until it is.
    pub async fn revoked(&mut self) {
        loop {
            if self.is_revoked() {
                return;
            }
            if self.receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn concerns(&mut self) -> bool {
        let recent = self.revocations.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted under the lock that they are told under: neither more nor fewer than were missed are looked at.
        let count = self.revocations.count();
        let missed = usize::try_from(count - self.seen).unwrap_or(usize::MAX);
        let concerns = missed > recent.len() || recent.iter().rev().take(missed).any(|it| self.matches(it));
        drop(recent);
        if !concerns {
            self.seen = count;
        }
        concerns
    }

    fn matches(&self, revoked: &Revoked) -> bool {
        self.whose.iter().any(|whose| match revoked {
            Revoked::All => true,
            Revoked::Subject(subject) => *subject == whose.subject,
            Revoked::Issuer(issuer) => *issuer == whose.issuer,
            Revoked::TokenId(id) => whose.claims.get("jti").and_then(Value::as_str) == Some(id.as_str()),
            Revoked::Credential(hash) => {
                whose.credential.as_ref().is_some_and(|it| digest(&SHA256, it.as_bytes()).as_ref() == hash)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn watch(revocations: &Arc<Revocations>) -> Watch {
        let mut watch = revocations.watch();
        watch.of(Whose {
            subject: "ada".into(),
            issuer: "https://issuer".into(),
            claims: Arc::new(serde_json::json!({"jti": "1"})),
            credential: Some("a.b.c".into()),
        });
        watch
    }

    #[test]
    fn whom_does_a_revocation_concern() {
        let hash = |text: &str| <[u8; 32]>::try_from(digest(&SHA256, text.as_bytes()).as_ref()).unwrap();
        for (revoked, concerns) in [
            (Revoked::All, true),
            (Revoked::Subject("ada".into()), true),
            (Revoked::Subject("eve".into()), false),
            (Revoked::Issuer("https://issuer".into()), true),
            (Revoked::Issuer("https://other".into()), false),
            (Revoked::TokenId("1".into()), true),
            (Revoked::TokenId("2".into()), false),
            (Revoked::Credential(hash("a.b.c")), true),
            (Revoked::Credential(hash("a.b.d")), false),
        ] {
            let revocations = Arc::new(Revocations::default());
            revocations.revoke(Revoked::All);
            let mut watch = watch(&revocations);
            assert!(!watch.is_revoked() && watch.revoked().now_or_never().is_none(), "told before it began");
            revocations.revoke(Revoked::Subject("bob".into()));
            revocations.revoke(revoked.clone());
            assert_eq!(watch.revoked().now_or_never().is_some(), concerns, "{revoked:?}");
            assert_eq!(watch.is_revoked(), concerns, "{revoked:?}");
        }
    }

    #[test]
    fn what_if_more_is_revoked_than_is_remembered() {
        let revocations = Arc::new(Revocations::default());
        let (mut idle, mut looks) = (watch(&revocations), watch(&revocations));
        for number in 0..2 * RECENT_MAX {
            revocations.revoke(Revoked::Subject(number.to_string()));
            assert!(number % 1000 != 0 || !looks.is_revoked());
        }
        assert!(idle.is_revoked() && !looks.is_revoked());
        assert!(revocations.recent.lock().unwrap().len() <= RECENT_MAX);
    }
}
