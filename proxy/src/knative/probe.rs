//! Knative's probes, word for word as queue-proxy answers them. Pure.

use crate::message::Part;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const PROBE: &str = "k-network-probe";
const HASH: &str = "k-network-hash";
/// Set where something between a kubelet and us changes its user agent.
const KUBELET: &str = "k-kubelet-probe";
/// What an activator and a kubelet ask of a pod.
const QUEUE: &str = "queue";
/// What an ingress asks, to see which of its configurations leads here.
const INGRESS: &str = "probe";
/// Whoever calls itself so, asks only how we are.
const AGENTS: [&str; 2] = ["Knative-Activator-Probe", "Knative-Autoscaling-Probe"];

/// Which probe a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Queue,
    /// With the hash that is to be given back.
    Ingress(Option<HeaderValue>),
    /// One that is for somebody else, with what it says; empty where an activator says nothing.
    Other(String),
}

/// An answer's status, headers and body.
#[derive(Clone, Debug, PartialEq)]
pub struct Words {
    pub status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Kind {
    /// `None` for a request that is no probe.
    ///
    /// A kubelet's own probe of the app, which comes without `K-Network-Probe`, is none: it goes where all requests go,
    /// for a user agent is anybody's word and must open no way around authorization.
    pub fn of(headers: &HeaderMap) -> Option<Kind> {
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        match text(PROBE).filter(|value| !value.is_empty()) {
            Some(value) if value == QUEUE => Some(Kind::Queue),
            Some(value) if value == INGRESS && !headers.contains_key(KUBELET) => {
                Some(Kind::Ingress(headers.get(HASH).filter(|hash| !hash.is_empty()).cloned()))
            }
            Some(value) => Some(Kind::Other(value.chars().take(64).collect())),
            None => {
                let agent = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
                AGENTS.iter().any(|known| agent.starts_with(known.as_bytes())).then(|| Kind::Other(String::new()))
            }
        }
    }

    pub fn asks_for_the_app(&self) -> bool {
        *self == Kind::Queue
    }

    pub fn answer(self, ready: bool) -> Words {
        match self {
            Kind::Queue if ready => Words::plain(StatusCode::OK, QUEUE.into()),
            // Go writes this one without a word and without a type.
            Kind::Queue => {
                Words { status: StatusCode::SERVICE_UNAVAILABLE, headers: HeaderMap::new(), body: "".into() }
            }
            Kind::Ingress(Some(hash)) => {
                let headers = [(HeaderName::from_static(HASH), hash)].into_iter().collect();
                Words { status: StatusCode::OK, headers, body: String::new() }
            }
            Kind::Ingress(None) => {
                let words = "a probe request must contain a non-empty \"K-Network-Hash\" header";
                Words::error(StatusCode::BAD_REQUEST, words)
            }
            Kind::Other(value) => {
                Words::error(StatusCode::BAD_REQUEST, &format!("unexpected probe header value: {value}"))
            }
        }
    }
}

impl Words {
    pub fn shutting_down() -> Words {
        Words::error(StatusCode::SERVICE_UNAVAILABLE, "shutting down")
    }

    fn plain(status: StatusCode, body: String) -> Words {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        Words { status, headers: [(CONTENT_TYPE, kind)].into_iter().collect(), body }
    }

    /// As Go's `http.Error` writes one.
    fn error(status: StatusCode, words: &str) -> Words {
        let mut told = Words::plain(status, format!("{words}\n"));
        told.headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        told
    }

    pub fn parts(self) -> Vec<Part> {
        let Words { status, mut headers, body } = self;
        headers.insert(CONTENT_LENGTH, body.len().into());
        vec![Part::Head { status, headers }, Part::Body(body.into()), Part::End(None)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_each_probe_told() {
        let hash = "a probe request must contain a non-empty \"K-Network-Hash\" header\n";
        let agent = ("user-agent", "Knative-Activator-Probe");
        type Case<'a> = (&'a [(&'a str, &'a str)], bool, Option<(u16, &'a str)>);
        let cases: [Case<'_>; 14] = [
            (&[("K-Network-Probe", "queue")], true, Some((200, "queue"))),
            (&[("K-Network-Probe", "queue"), agent], true, Some((200, "queue"))),
            (&[("K-Network-Probe", "queue"), ("user-agent", "kube-probe/1.33")], true, Some((200, "queue"))),
            (&[("K-Network-Probe", "queue")], false, Some((503, ""))),
            (&[("K-Network-Probe", "activator")], true, Some((400, "unexpected probe header value: activator\n"))),
            (&[("K-Network-Probe", "Queue")], false, Some((400, "unexpected probe header value: Queue\n"))),
            (&[agent], true, Some((400, "unexpected probe header value: \n"))),
            (&[("user-agent", "Knative-Autoscaling-Probe/1")], true, Some((400, "unexpected probe header value: \n"))),
            (&[("K-Network-Probe", "probe"), ("K-Network-Hash", "h")], true, Some((200, ""))),
            (&[("K-Network-Probe", "probe"), ("K-Network-Hash", "h")], false, Some((200, ""))),
            (&[("K-Network-Probe", "probe")], true, Some((400, hash))),
            (&[("K-Network-Probe", "probe"), ("K-Network-Hash", "")], true, Some((400, hash))),
            (&[("user-agent", "kube-probe/1.33")], true, None),
            (&[("K-Network-Probe", "")], true, None),
        ];
        for (lines, ready, want) in cases {
            let told = Kind::of(&headers(lines)).map(|kind| kind.answer(ready));
            let told = told.as_ref().map(|words| (words.status.as_u16(), words.body.as_str()));
            assert_eq!(told, want, "{lines:?} ready={ready}");
        }
    }

    #[test]
    fn is_the_hash_given_back_as_it_came() {
        let words =
            Kind::of(&headers(&[("k-network-probe", "probe"), ("k-network-hash", "ab12")])).unwrap().answer(true);
        let Part::Head { headers, .. } = &words.parts()[0] else { unreachable!() };
        assert_eq!(headers[HASH], "ab12");
    }

    #[test]
    fn are_errors_written_as_go_writes_them() {
        let parts = Words::shutting_down().parts();
        let Part::Head { status, headers } = &parts[0] else { unreachable!() };
        assert_eq!(status.as_u16(), 503);
        assert_eq!(headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(parts[1], Part::Body("shutting down\n".into()));
    }

    proptest! {
        #[test]
        fn does_any_value_get_an_answer_of_bounded_size(value in prop::collection::vec(32u8..=255, 0..300)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let headers = [(HeaderName::from_static(PROBE), value)].into_iter().collect();
            if let Some(kind) = Kind::of(&headers) {
                prop_assert!(kind.answer(true).body.len() < 512);
            }
        }
    }
}
