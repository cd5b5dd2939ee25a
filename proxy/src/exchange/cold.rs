//! Callers who are held while nothing is answered yet: kept alive where their dialect has a way, and never answered later
//! than on this connection.

use super::{Exchange, Floor};
use crate::admission::{Outlook, Permit, Ticket};
use crate::dialects::Note;
use crate::error::Error;
use crate::message::Head;
use serde_json::json;
use std::pin::pin;
use std::time::Duration;

impl Exchange {
    /// Waits for a place with whoever wants one.
    ///
    /// Whoever was promised a stream gets its head after a while, and then a sign of life at an interval; what fails after
    /// that is an error within the stream, for the status is said. All others wait in silence.
    pub(super) async fn held(&self, ticket: Ticket, floor: &mut Floor<'_>) -> Result<Permit, Error> {
        let mut admitted = pin!(self.admission.admit(ticket));
        let mut patience = self.cold.after;
        while let Some(limit) = patience {
            let waiting = pin!(async { Ok(tokio::time::timeout(limit, admitted.as_mut()).await) });
            if let Ok(answered) = floor.unless_over(waiting).await? {
                return answered;
            }
            let note = note(&self.admission.outlook(), self.cold.events);
            let heard = floor.keep_alive(&note).await?;
            patience = heard.then_some(self.cold.every);
        }
        floor.unless_over(admitted).await
    }
}

fn note(outlook: &Outlook, events: bool) -> Note {
    if !events {
        return Note::Comment(words(outlook));
    }
    let seconds = |duration: Duration| (duration.as_secs_f64() * 10.0).round() / 10.0;
    let stage = outlook.stage.map_or("queued", |stage| stage.name());
    let told = json!({
        "stage": stage,
        "share": outlook.share.map(|share| (f64::from(share) * 100.0).round() / 100.0),
        "elapsed_seconds": seconds(outlook.elapsed),
        "remaining_seconds": outlook.remaining.map(seconds),
    });
    Note::Progress(told.to_string())
}

/// `waking, loading weights 40 %, about 12 s more`.
fn words(outlook: &Outlook) -> String {
    let Some(stage) = outlook.stage else { return "queued".into() };
    let mut words = format!("waking, {}", stage.words());
    if let Some(share) = outlook.share {
        words.push_str(&format!(" {:.0} %", f64::from(share) * 100.0));
    }
    if let Some(remaining) = outlook.remaining {
        words.push_str(&format!(", about {} s more", remaining.as_secs() + 1));
    }
    words
}

/// `Prefer: respond-async` (RFC 7240 §4.1) asks for an answer that is fetched later. A server may ignore a preference, but
/// whoever is prepared to be told 202 may not be prepared to wait: it is told at once that it will have to.
///
/// # Errors
/// [`Error::Unsupported`], if it is asked for.
pub(super) fn must_be_answered_now(head: &Head) -> Result<(), Error> {
    let fields = head.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut names = fields.flat_map(|field| field.split(',')).filter_map(|one| one.split([';', '=']).next());
    if names.any(|name| name.trim().eq_ignore_ascii_case("respond-async")) {
        let feature = "`Prefer: respond-async` (an answer that is fetched later; leave it out and wait, or stream)";
        return Err(Error::Unsupported { feature: feature.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::progress::Stage;
    use http::{HeaderMap, HeaderValue, Method, Version};

    fn head(prefer: &[&str]) -> Head {
        let mut headers = HeaderMap::new();
        for value in prefer {
            headers.append("prefer", HeaderValue::from_str(value).unwrap());
        }
        let (path, request_id) = ("/".into(), String::new());
        let version = Version::HTTP_11;
        Head { method: Method::POST, path, query: None, headers, version, request_id, arrived_unix_seconds: 0 }
    }

    #[test]
    fn which_preferences_cannot_be_met() {
        for refused in [
            &["respond-async"][..],
            &["Respond-Async"],
            &["wait=10, respond-async"],
            &["return=minimal", "respond-async; foo=bar"],
            &["respond-async=true"],
        ] {
            let error = must_be_answered_now(&head(refused)).unwrap_err();
            assert_eq!(error.verdict().status, 400, "{refused:?}");
            assert!(error.to_string().contains("respond-async"));
        }
        for ignored in [&[][..], &["return=minimal"], &["wait=10"], &["x-respond-async"]] {
            assert!(must_be_answered_now(&head(ignored)).is_ok(), "{ignored:?}");
        }
    }

    #[test]
    fn what_is_said_to_whoever_waits() {
        let second = Duration::from_secs(1);
        let queued = Outlook { stage: None, share: None, elapsed: Duration::ZERO, remaining: None };
        let loading = Outlook {
            stage: Some(Stage::Loading),
            share: Some(0.4),
            elapsed: second * 8,
            remaining: Some(Duration::from_millis(11_500)),
        };
        assert_eq!(words(&queued), "queued");
        assert_eq!(words(&loading), "waking, loading weights 40 %, about 12 s more");
        let Note::Progress(told) = note(&loading, true) else { panic!("events are wanted") };
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let expected = json!({"stage": "loading", "share": 0.4, "elapsed_seconds": 8.0, "remaining_seconds": 11.5});
        assert_eq!(told, expected);
    }
}
