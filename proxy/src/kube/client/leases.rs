//! Leases (`coordination.k8s.io/v1`): who holds what, renewed by whoever does, taken over when its holder is silent.
//!
//! Two never hold one: every write names the version that was read, and the API takes the first. Whether a holder is
//! silent is judged by [`Watcher`] on the clock of this machine alone, never by a time that another one wrote.

use super::{ApiError, Client};
use crate::percent;
use serde_json::{Value, json};
use std::time::Duration;
use time::{Date, Month, OffsetDateTime};

/// A lease as it was read, or as it is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub namespace: String,
    pub name: String,
    /// Empty: nobody.
    pub holder: String,
    pub duration: Duration,
    /// When the holder came, and when it was heard of last, as it says itself; since 1970.
    pub acquired: Duration,
    pub renewed: Duration,
    pub transitions: u32,
    /// Empty: there is none yet.
    pub version: String,
}

impl Lease {
    fn collection(namespace: &str) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", percent::part(namespace))
    }

    fn path(namespace: &str, name: &str) -> String {
        format!("{}/{}", Lease::collection(namespace), percent::part(name))
    }

    fn object(&self) -> Value {
        let mut metadata = json!({"namespace": self.namespace, "name": self.name});
        if !self.version.is_empty() {
            metadata["resourceVersion"] = self.version.as_str().into();
        }
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.holder,
                // Zero is refused by the API.
                "leaseDurationSeconds": self.duration.as_secs().clamp(1, 1 << 30),
                "acquireTime": micro_time(self.acquired),
                "renewTime": micro_time(self.renewed),
                "leaseTransitions": self.transitions,
            },
        })
    }

    fn read(answer: &Value) -> Result<Lease, ApiError> {
        if answer["kind"] != "Lease" {
            return Err(ApiError::Nonsense("what was asked for a lease is none".into()));
        }
        let text = |at: &str| answer.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let count = |at: &str| answer.pointer(at).and_then(Value::as_u64).unwrap_or(0);
        Ok(Lease {
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            holder: text("/spec/holderIdentity"),
            duration: Duration::from_secs(count("/spec/leaseDurationSeconds")),
            acquired: since_1970(&text("/spec/acquireTime")),
            renewed: since_1970(&text("/spec/renewTime")),
            transitions: u32::try_from(count("/spec/leaseTransitions")).unwrap_or(u32::MAX),
            version: text("/metadata/resourceVersion"),
        })
    }

    /// The same, with `holder` from `now` (since 1970) on: renewed if it is its own, else taken.
    pub fn held_by(&self, holder: &str, duration: Duration, now: Duration) -> Lease {
        let own = self.holder == holder;
        let acquired = if own { self.acquired } else { now };
        // The first holder of all is no transition.
        let transitions = self.transitions.saturating_add(u32::from(!own && !self.version.is_empty()));
        Lease { holder: holder.into(), duration, acquired, renewed: now, transitions, ..self.clone() }
    }

    /// Given back: the next one need not wait.
    pub fn released(&self, now: Duration) -> Lease {
        Lease { holder: String::new(), duration: Duration::from_secs(1), renewed: now, ..self.clone() }
    }
}

impl Client {
    /// `None`: there is none of this name.
    pub async fn lease_of(&self, namespace: &str, name: &str) -> Result<Option<Lease>, ApiError> {
        match self.get(&Lease::path(namespace, name)).await {
            Ok(answer) => Lease::read(&answer).map(Some),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes it, or replaces what it was read from; the answer is what to renew next. `None`: somebody else was faster.
    pub async fn put_lease(&self, lease: &Lease) -> Result<Option<Lease>, ApiError> {
        let told = match lease.version.is_empty() {
            true => self.create(&Lease::collection(&lease.namespace), &lease.object()).await,
            false => self.replace(&Lease::path(&lease.namespace, &lease.name), &lease.object()).await,
        };
        match told {
            Ok(answer) => Lease::read(&answer).map(Some),
            Err(error) if error.code() == Some(409) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the holder of a lease is silent. Pure: `now` is any clock that only goes forward.
#[derive(Clone, Debug, Default)]
pub struct Watcher {
    /// Version and when it was first seen.
    seen: Option<(String, Duration)>,
}

impl Watcher {
    /// Whether `who` may take this lease: it is free, its own, or was not renewed for its whole duration while we looked.
    pub fn may_take(&mut self, lease: &Lease, who: &str, now: Duration) -> bool {
        if self.seen.as_ref().is_none_or(|(version, _)| *version != lease.version) {
            self.seen = Some((lease.version.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        lease.holder.is_empty() || lease.holder == who || now.saturating_sub(since) > lease.duration
    }
}

/// `metav1.MicroTime`: RFC 3339 with six digits of a second, which the API demands.
fn micro_time(since_1970: Duration) -> String {
    let at =
        i64::try_from(since_1970.as_secs()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, hour, minute, second) = (at.date(), at.hour(), at.minute(), at.second());
    let micros = since_1970.subsec_micros();
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// What is no time as the API writes it, or before 1970, is 1970: it decides nothing here.
fn since_1970(text: &str) -> Duration {
    let read = || {
        let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.splitn(3, '-').map(|part| part.parse::<u16>().ok());
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
        let date = Date::from_calendar_date(year.into(), month, u8::try_from(day).ok()?).ok()?;
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let mut clock = clock.splitn(3, ':').map(|part| part.parse::<u8>().ok());
        let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
        let micros = format!("{:0<6}", fraction.get(..fraction.len().min(6))?).parse().ok()?;
        let at = date.with_hms_micro(hour, minute, second, micros).ok()?.assume_utc();
        Duration::try_from(at - OffsetDateTime::UNIX_EPOCH).ok()
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Answer, Fake};
    use super::*;
    use http::StatusCode;
    use proptest::prelude::*;

    const TEN: Duration = Duration::from_secs(10);

    fn free() -> Lease {
        Lease { namespace: "models".into(), name: "autoscaler".into(), ..Lease::default() }
    }

    #[tokio::test]
    async fn who_holds_it_after_each_write() {
        let fake = Fake::start().await;
        let client = Client::new(fake.kubernetes());
        let all = "/apis/coordination.k8s.io/v1/namespaces/models/leases";
        let one = format!("{all}/autoscaler");
        assert_eq!(client.lease_of("models", "autoscaler").await, Ok(None));
        let mine = free().held_by("a", TEN, Duration::from_micros(1_700_000_000_000_007));
        let mut answer = mine.object();
        answer["metadata"]["resourceVersion"] = "5".into();
        fake.tells(all, Answer::Json(StatusCode::CREATED, answer.clone()));
        let held = client.put_lease(&mine).await.unwrap().unwrap();
        assert_eq!(held, Lease { version: "5".into(), ..mine });
        let renewed = held.held_by("a", TEN, held.renewed + TEN);
        assert_eq!((renewed.acquired, renewed.transitions), (held.acquired, 0));
        let conflict = json!({"reason": "Conflict", "message": "the object has been modified", "code": 409});
        fake.tells(&one, Answer::Json(StatusCode::CONFLICT, conflict));
        assert_eq!(client.put_lease(&renewed).await, Ok(None));
        let asked = fake.world.lock().unwrap().asked.pop().unwrap();
        assert_eq!((asked.0.as_str(), &asked.2["metadata"]["resourceVersion"]), ("PUT", &json!("5")));
        assert_eq!(asked.2["spec"]["renewTime"], "2023-11-14T22:13:30.000007Z");
        let taken = held.held_by("b", TEN, held.renewed + TEN);
        assert_eq!((taken.acquired, taken.transitions), (held.renewed + TEN, 1));
        assert_eq!(taken.released(taken.renewed).holder, "");
    }

    #[test]
    fn when_may_a_lease_be_taken() {
        let mut watcher = Watcher::default();
        let second = Duration::from_secs;
        let theirs = |version: &str| Lease { holder: "b".into(), duration: TEN, version: version.into(), ..free() };
        for (lease, now, expected) in [
            (theirs("1"), 0, false),
            (theirs("1"), 10, false),
            // Renewed: all begins anew, whatever time its holder wrote.
            (theirs("2"), 11, false),
            (theirs("2"), 21, false),
            (theirs("2"), 22, true),
            (Lease { holder: "a".into(), ..theirs("3") }, 23, true),
            (Lease { holder: String::new(), ..theirs("4") }, 24, true),
        ] {
            assert_eq!(watcher.may_take(&lease, "a", second(now)), expected, "{lease:?} at {now}");
        }
    }

    proptest! {
        #[test]
        fn is_a_time_read_as_it_was_written(micros in 0u64..4_000_000_000_000_000) {
            let at = Duration::from_micros(micros);
            prop_assert_eq!(since_1970(&micro_time(at)), at);
            prop_assert_eq!(since_1970(&format!("{}Z", &micro_time(at)[..19])), Duration::from_secs(at.as_secs()));
        }

        #[test]
        fn is_any_text_survived(text in ".{0,40}") {
            since_1970(&text);
        }
    }
}
