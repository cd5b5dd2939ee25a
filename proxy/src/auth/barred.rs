//! Tokens that an operator ended before their time: whoever verifies tokens by itself asks here too, for nobody else
//! would say that one of them is good no more.
//!
//! Bounded, and by keyed hashes: neither a token nor a name is in memory. What is full says so and forgets nothing, for
//! what was barred must not come back by itself. Pure: time is an argument. Lives as long as the process.

use super::jwt::Verified;
use super::verdicts::{Which, sha256};
use ring::hmac;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Some 60 bytes each.
const ENTRIES_MAX: usize = 65_536;

type Digest = [u8; 32];

/// Nothing more can be barred until something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

pub struct Barred {
    key: hmac::Key,
    entries: Mutex<HashMap<Digest, Entry>>,
    /// How often something was barred: who looked since need not look again.
    count: AtomicU64,
}

#[derive(Clone, Copy)]
struct Entry {
    since_unix: u64,
    /// By then all that it bars has ended; unknown at first.
    until_unix: Option<u64>,
}

/// Of a token that was verified: when it was last looked for here.
#[derive(Debug, Default)]
pub struct Looked(AtomicU64);

impl Default for Barred {
    fn default() -> Barred {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new())
            .expect("the operating system gives random bytes");
        // A token that nobody looked for has seen 0 of them.
        Barred { key, entries: Mutex::default(), count: AtomicU64::new(1) }
    }
}

impl Barred {
    /// From now on, and until then if somebody knows when it ends anyway. A subject's tokens of later issue are good.
    /// All tokens, or an issuer's, are nothing that is barred: what is remembered of them is forgotten, no more.
    pub fn bar(&self, which: &Which, now_unix: u64, until_unix: Option<u64>) -> Result<(), Full> {
        let digest = match which {
            Which::Credential(sha256) => self.digest("credential", sha256),
            Which::TokenId(id) => self.digest("jti", id.as_bytes()),
            Which::Subject(subject) => self.digest("sub", subject.as_bytes()),
            Which::All | Which::Issuer(_) => return Ok(()),
        };
        let mut entries = self.entries();
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&digest) {
            entries.retain(|_, entry| entry.until_unix.is_none_or(|until| now_unix < until));
            if entries.len() >= ENTRIES_MAX {
                return Err(Full);
            }
        }
        entries.insert(digest, Entry { since_unix: now_unix, until_unix });
        // After it is in, and under the lock: who counts this one finds it.
        self.count.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Costs one load where nothing was barred since this token was last looked for.
    pub fn has(&self, token: &str, verified: &Verified, looked: &Looked) -> bool {
        let count = self.count.load(Ordering::Acquire);
        if looked.0.load(Ordering::Relaxed) == count {
            return false;
        }
        let has = self.finds(token, verified);
        if !has {
            looked.0.store(count, Ordering::Relaxed);
        }
        has
    }

    fn finds(&self, token: &str, verified: &Verified) -> bool {
        if self.is_empty() {
            return false;
        }
        let id = verified.claims.get("jti").and_then(Value::as_str);
        let credential = self.digest("credential", &sha256(token.as_bytes()));
        let own = [Some(credential), id.map(|id| self.digest("jti", id.as_bytes()))];
        let subject = self.digest("sub", verified.subject.as_bytes());
        let mut entries = self.entries();
        for digest in own.into_iter().flatten() {
            if let Some(entry) = entries.get_mut(&digest) {
                // Now it is known when it ends.
                entry.until_unix = Some(verified.ends_unix.max(entry.until_unix.unwrap_or_default()));
                return true;
            }
        }
        // Without a time of issue it may be older than that.
        let issued = verified.claims.get("iat").and_then(Value::as_f64);
        entries.get(&subject).is_some_and(|entry| issued.is_none_or(|issued| issued <= entry.since_unix as f64))
    }

    pub fn len(&self) -> usize {
        self.entries().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn digest(&self, kind: &str, name: &[u8]) -> Digest {
        let mut whole = hmac::Context::with_key(&self.key);
        whole.update(kind.as_bytes());
        whole.update(&[0]);
        whole.update(name);
        whole.sign().as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    const NOW: u64 = 1_800_000_000;
    const TOKEN: &str = "a.b.c";

    fn verified(claims: Value) -> Verified {
        let subject = claims["sub"].as_str().unwrap_or_default().to_owned();
        let claims = Arc::new(claims);
        Verified { subject, issuer: "https://issuer".into(), claims, begins_unix: 0, ends_unix: NOW + 100 }
    }

    #[test]
    fn which_tokens_are_barred() {
        let ada = || verified(json!({"sub": "ada", "jti": "1", "iat": NOW - 10}));
        for (which, token, expected) in [
            (Which::Credential(sha256(b"a.b.c")), ada(), true),
            (Which::Credential(sha256(b"a.b.d")), ada(), false),
            (Which::TokenId("1".into()), ada(), true),
            (Which::TokenId("2".into()), ada(), false),
            (Which::TokenId("1".into()), verified(json!({"sub": "ada", "jti": 1})), false),
            (Which::Subject("ada".into()), ada(), true),
            (Which::Subject("1".into()), ada(), false),
            (Which::Subject("ada".into()), verified(json!({"sub": "ada"})), true),
            (Which::Subject("ada".into()), verified(json!({"sub": "ada", "iat": NOW})), true),
            (Which::Subject("ada".into()), verified(json!({"sub": "ada", "iat": NOW as f64 + 0.5})), false),
            (Which::Subject("ada".into()), verified(json!({"sub": "ada", "iat": NOW + 1})), false),
            (Which::Subject("ada".into()), verified(json!({"sub": "eve", "iat": NOW - 1})), false),
            (Which::Issuer("https://issuer".into()), ada(), false),
            (Which::All, ada(), false),
        ] {
            let (barred, looked) = (Barred::default(), Looked::default());
            assert!(!barred.has(TOKEN, &token, &looked));
            barred.bar(&which, NOW, None).unwrap();
            // Also of a token that was looked for before.
            for _ in 0..2 {
                assert_eq!(barred.has(TOKEN, &token, &looked), expected, "{which:?} {:?}", token.claims);
                assert_eq!(barred.has(TOKEN, &token, &Looked::default()), expected);
            }
        }
    }

    #[test]
    fn what_becomes_of_a_full_list() {
        let barred = Barred::default();
        let id = |number: usize| Which::TokenId(number.to_string());
        for number in 0..ENTRIES_MAX {
            barred.bar(&id(number), NOW, (number % 2 == 0).then_some(NOW + 60)).unwrap();
        }
        assert_eq!(barred.bar(&id(ENTRIES_MAX), NOW, None), Err(Full));
        assert_eq!(barred.bar(&id(1), NOW, None), Ok(()), "it is in already");
        let token = |jti: &str| verified(json!({"sub": "x", "jti": jti}));
        assert!(barred.has(TOKEN, &token("0"), &Looked::default()));
        // Half of it has ended, but for the one that was seen and ends later.
        barred.bar(&id(ENTRIES_MAX), NOW + 60, None).unwrap();
        assert_eq!(barred.len(), ENTRIES_MAX / 2 + 2);
        for (jti, expected) in [("0", true), ("1", true), ("2", false), (&*ENTRIES_MAX.to_string(), true)] {
            assert_eq!(barred.has(TOKEN, &token(jti), &Looked::default()), expected, "{jti}");
        }
    }
}
