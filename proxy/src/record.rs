//! What is kept of an exchange: one access-log line and one set of measurements, written when the record is dropped,
//! whatever ended the exchange.
//!
//! Never holds a credential, a prompt or an answer. Owns the clock and the ids of exchanges.

pub mod json;
mod lines;

pub use lines::Lines;

use crate::admission::Permit;
use crate::auth::audit::Audit;
use crate::chance::mix;
use crate::error::Verdict;
use crate::metrics::Metrics;
use crate::tls::Peer;
use json::Object;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

/// Time since 1970.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A new id for an exchange: 32 hexadecimal digits, unlike any other of this or another process.
pub fn draw_id() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| {
        let mut bytes = [0; 8];
        let drawn = crate::tls::provider().secure_random.fill(&mut bytes);
        drawn.map_or_else(|_| unix_now().as_nanos() as u64, |()| u64::from_le_bytes(bytes))
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Mixed, so that ids tell nobody how many requests there were.
    let mixed = mix(PROCESS.rotate_left(32).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)));
    format!("{:016x}{mixed:016x}", *PROCESS)
}

/// Where records go.
pub struct Journal {
    pub metrics: Metrics,
    pub lines: Lines,
}

/// One exchange in the making. Fields are filled as they become known.
pub struct Record {
    journal: Arc<Journal>,
    began: Instant,
    began_unix: Duration,
    /// The caller's, if it is sane, else ours.
    pub request_id: String,
    pub traceparent: Option<String>,
    pub peer: Option<Arc<Peer>>,
    pub protocol: &'static str,
    pub method: String,
    pub path: String,
    pub subject: Option<String>,
    pub dialect: &'static str,
    pub operation: &'static str,
    pub model: Option<String>,
    pub status: u16,
    pub label: &'static str,
    /// What was refused and why, in words that are not for the caller.
    pub reason: Option<String>,
    /// AUDIT policies that matched, and what dry-run policies would have done.
    pub audited: Vec<Arc<str>>,
    pub shadow: Vec<String>,
    /// External authorizers that were asked, and what came of it.
    pub authorizers: Vec<String>,
    /// Who decided that the caller may, or may not, and why.
    pub auth: Option<Audit>,
    auth_took: Option<Duration>,
    pub request_bytes: usize,
    pub response_bytes: usize,
    /// LLM tokens: prompt, completion.
    pub usage: (u64, u64),
    pub queue_wait: Option<Duration>,
    /// Of the queue it waited in.
    pub band: u8,
    pub first_byte: Option<Duration>,
    pub first_token: Option<Duration>,
    pub tries: u32,
    pub generation: u64,
}

impl Record {
    pub fn open(journal: Arc<Journal>) -> Self {
        journal.metrics.in_flight.inc();
        Record {
            journal,
            began: Instant::now(),
            began_unix: unix_now(),
            request_id: String::new(),
            traceparent: None,
            peer: None,
            protocol: "h1",
            method: String::new(),
            path: String::new(),
            subject: None,
            dialect: "none",
            operation: "none",
            model: None,
            // Stays so only if the exchange is dropped before anything was decided.
            status: 499,
            label: "cut",
            reason: None,
            audited: Vec::new(),
            shadow: Vec::new(),
            authorizers: Vec::new(),
            auth: None,
            auth_took: None,
            request_bytes: 0,
            response_bytes: 0,
            usage: (0, 0),
            queue_wait: None,
            band: 0,
            first_byte: None,
            first_token: None,
            tries: 0,
            generation: 0,
        }
    }

    pub fn unix_seconds(&self) -> u64 {
        self.began_unix.as_secs()
    }

    /// Bytes of the answer's body went out.
    pub fn sent(&mut self, bytes: usize) {
        self.response_bytes += bytes;
        if bytes > 0 && self.first_byte.is_none() {
            self.first_byte = Some(self.began.elapsed());
        }
    }

    /// Text was generated.
    pub fn token(&mut self) {
        if self.first_token.is_none() {
            self.first_token = Some(self.began.elapsed());
        }
    }

    /// Who may or may not, decided since the head was read: the stages before cost next to nothing.
    pub fn decided(&mut self, audit: Audit) {
        self.auth_took = audit.measured.then(|| self.began.elapsed());
        self.auth = Some(audit);
    }

    /// It is its turn, perhaps again.
    pub fn admitted(&mut self, permit: &Permit) {
        self.band = permit.place().class.band;
        *self.queue_wait.get_or_insert_default() += permit.waited;
        self.generation = permit.generation();
    }

    pub fn refused(&mut self, verdict: &Verdict, reason: String) {
        (self.status, self.label, self.reason) = (verdict.status, verdict.label, Some(reason));
    }

    fn measure(&self, took: Duration) {
        let m = &self.journal.metrics;
        let asked = [self.dialect, self.operation];
        m.in_flight.dec();
        m.requests.with_label_values(&[asked[0], asked[1], status_text(self.status), self.label]).inc();
        m.request_seconds.with_label_values(&asked).observe(took.as_secs_f64());
        if let Some(auth) = &self.auth {
            m.auth.decided(auth, self.auth_took);
        }
        if let Some(first) = self.first_token {
            m.first_token_seconds.with_label_values(&asked).observe(first.as_secs_f64());
        }
        if let Some(waited) = self.queue_wait {
            m.queue.waited(self.band, waited);
        }
        for (kind, count) in [("input", self.usage.0), ("output", self.usage.1)] {
            if count > 0 {
                m.tokens.with_label_values(&[kind]).inc_by(count);
            }
        }
        m.body_bytes.with_label_values(&["request"]).inc_by(self.request_bytes as u64);
        m.body_bytes.with_label_values(&["response"]).inc_by(self.response_bytes as u64);
    }

    fn line(&self, took: Duration) -> String {
        let trace = self.traceparent.as_deref().and_then(trace_ids);
        let mut line = Object::open();
        line.text("time", rfc3339(self.began_unix).as_deref());
        line.text("kind", Some("access"));
        line.text("request_id", Some(&self.request_id));
        line.text("trace_id", trace.map(|ids| ids.0));
        line.text("span_id", trace.map(|ids| ids.1));
        if let Some(peer) = &self.peer {
            line.text("address", Some(&peer.address.to_string()));
            line.boolean("tls", peer.tls);
            line.text("peer", peer.spiffe.as_ref().map(|id| id.as_str()));
        }
        line.text("subject", self.subject.as_deref());
        line.text("protocol", Some(self.protocol));
        line.text("method", Some(&self.method));
        line.text("path", Some(&self.path));
        line.text("dialect", Some(self.dialect));
        line.text("operation", Some(self.operation));
        line.text("model", self.model.as_deref());
        line.number("status", self.status);
        line.text("label", Some(self.label));
        line.text("reason", self.reason.as_deref());
        line.list("audited", &self.audited);
        line.list("shadow", &self.shadow);
        line.list("authorizers", &self.authorizers);
        if let Some(auth) = &self.auth {
            line.object("auth", |line| auth.write(line));
        }
        line.number("request_bytes", self.request_bytes as u64);
        line.number("response_bytes", self.response_bytes as u64);
        line.number("prompt_tokens", self.usage.0);
        line.number("completion_tokens", self.usage.1);
        line.seconds("queue_wait_seconds", self.queue_wait);
        line.seconds("first_byte_seconds", self.first_byte);
        line.seconds("first_token_seconds", self.first_token);
        line.seconds("seconds", Some(took));
        line.number("tries", self.tries);
        line.number("generation", self.generation);
        line.close()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.measure(took);
        if self.journal.lines.wanted() {
            self.journal.lines.write(self.line(took));
        }
    }
}

/// A closed set for the metric: what is not in the table of verdicts is told by its class.
pub(crate) fn status_text(status: u16) -> &'static str {
    const KNOWN: &[(u16, &str)] = &[
        (200, "200"),
        (204, "204"),
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (408, "408"),
        (413, "413"),
        (415, "415"),
        (422, "422"),
        (429, "429"),
        (499, "499"),
        (500, "500"),
        (501, "501"),
        (502, "502"),
        (503, "503"),
        (504, "504"),
    ];
    let known = KNOWN.iter().find(|(code, _)| *code == status).map(|(_, text)| *text);
    known.unwrap_or(match status / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    })
}

/// Trace and parent ids of a `traceparent` (W3C Trace Context §3.2), if it is well formed.
fn trace_ids(traceparent: &str) -> Option<(&str, &str)> {
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut fields = traceparent.split('-');
    let (version, trace, span) = (fields.next()?, fields.next()?, fields.next()?);
    let sane = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16);
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    (sane && !zero(trace) && !zero(span)).then_some((trace, span))
}

thread_local! {
    /// The last second that was put into words, and those: `2026-01-31T23:59:59`.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

pub(crate) fn rfc3339(unix: Duration) -> Option<String> {
    SECOND.with_borrow_mut(|(second, words)| {
        if *second != unix.as_secs() {
            let whole = in_full(Duration::from_secs(unix.as_secs()))?;
            (*second, *words) = (unix.as_secs(), whole.trim_end_matches('Z').to_owned());
        }
        let mut text = String::with_capacity(words.len() + 8);
        text.push_str(words);
        let mut buffer = itoa::Buffer::new();
        // A million more, for the zeros in front.
        let micros = &buffer.format(1_000_000 + unix.subsec_micros())[1..];
        text.push('.');
        text.push_str(micros);
        text.push('Z');
        Some(text)
    })
}

fn in_full(unix: Duration) -> Option<String> {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(unix.as_nanos() as i128).ok()?;
    time.format(&time::format_description::well_known::Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::sync::Mutex;

    #[test]
    fn is_a_record_written_whatever_ends_the_exchange() {
        let journal = Arc::new(Journal { metrics: Metrics::new(), lines: Lines::Kept(Mutex::default()) });
        let mut record = Record::open(journal.clone());
        record.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
        assert_eq!(journal.metrics.in_flight.get(), 1);
        drop(record);
        assert_eq!(journal.metrics.in_flight.get(), 0);
        let Lines::Kept(kept) = &journal.lines else { unreachable!() };
        let line: Value = serde_json::from_str(&kept.lock().unwrap()[0]).unwrap();
        assert_eq!((line["status"].as_u64(), line["label"].as_str()), (Some(499), Some("cut")));
        assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn which_trace_headers_are_believed() {
        for bad in [
            "",
            "00-xyz",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_ids(bad), None, "{bad}");
        }
    }

    #[test]
    fn are_drawn_ids_unlike() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| draw_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
