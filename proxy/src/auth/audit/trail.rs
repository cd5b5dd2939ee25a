//! The audit trail: one line for each decision about a caller, whoever asked for it: who, by which rule, why.
//!
//! A stream of its own beside the access log, for those who keep it longer and read it otherwise. Holds what was decided
//! and of which request: no header, no query, no body, and so no secret. Owns no clock: the time is the request's.

use super::Audit;
use crate::auth::Request;
use crate::config::audit::Audit as To;
use crate::record::json::Object;
use crate::record::{Lines, rfc3339};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where the lines go.
pub struct Trail {
    lines: Lines,
}

/// What is told of a request, kept until it is decided.
pub struct Entry {
    trail: Arc<Trail>,
    facts: Facts,
}

struct Facts {
    time_unix: u64,
    request_id: String,
    address: SocketAddr,
    peer: Option<String>,
    method: String,
    host: String,
    path: String,
}

/// Of a caller's own words, each.
const TEXT_MAX: usize = 2048;

fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

impl Facts {
    fn of(request: &Request<'_>) -> Facts {
        Facts {
            time_unix: request.now_unix,
            request_id: cut(&request.head.request_id),
            address: request.peer.address,
            peer: request.peer.spiffe.as_ref().map(|id| id.as_str().to_owned()),
            method: request.head.method.to_string(),
            host: cut(request.host),
            path: cut(&request.head.path),
        }
    }
}

impl Entry {
    pub fn write(&self, audit: &Audit) {
        let facts = &self.facts;
        let mut line = Object::open();
        line.text("time", rfc3339(Duration::from_secs(facts.time_unix)).as_deref());
        line.text("kind", Some("audit"));
        line.text("request_id", Some(&facts.request_id));
        line.text("address", Some(&facts.address.to_string()));
        line.text("peer", facts.peer.as_deref());
        // Apart: the decision has a `method` of its own.
        line.object("request", |line| {
            line.text("method", Some(&facts.method));
            line.text("host", Some(&facts.host));
            line.text("path", Some(&facts.path));
        });
        audit.write(&mut line);
        self.trail.lines.write(line.close());
    }
}

impl Trail {
    pub fn new(lines: Lines) -> Trail {
        Trail { lines }
    }

    /// `None` for `None`.
    pub fn open(to: Option<&To>) -> io::Result<Option<Arc<Trail>>> {
        let lines = match to {
            None => return Ok(None),
            Some(To::Stderr) => Lines::stderr(),
            Some(To::File(path)) => Lines::file(path).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot append to {}: {error}", path.display()))
            })?,
        };
        Ok(Some(Arc::new(Trail::new(lines))))
    }

    pub fn begin(self: &Arc<Self>, request: &Request<'_>) -> Entry {
        Entry { trail: self.clone(), facts: Facts::of(request) }
    }

    /// Lines that nobody took in time.
    pub fn dropped(&self) -> u64 {
        self.lines.dropped()
    }

    /// Waits, not for ever, until what was written is out.
    pub fn flush(&self) {
        self.lines.flush();
    }

    #[cfg(test)]
    pub fn kept(&self) -> Vec<String> {
        let Lines::Kept(kept) = &self.lines else { return Vec::new() };
        kept.lock().unwrap().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Authenticator;
    use crate::config::authconfig::{AuthConfig, Compat, Documents};
    use crate::message::Head;
    use crate::tls::identity::Peer;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use serde_json::{Value, json};
    use std::sync::Mutex;

    const POLICY: &str = "
apiVersion: authorino.kuadrant.io/v1beta3
kind: AuthConfig
metadata: {name: keys, namespace: talks}
spec:
  hosts: [keys.test]
  authentication:
    friends: {apiKey: {selector: {matchLabels: {group: friends}}}, credentials: {customHeader: {name: x-key}}}
  authorization:
    readers: {patternMatching: {patterns: [{selector: request.method, operator: eq, value: GET}]}}
";
    const SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: ada, namespace: talks, labels: {group: friends}}, \
                          stringData: {api_key: hunter2}}";

    fn authenticator(folder: &std::path::Path) -> (Authenticator, Arc<Trail>) {
        for (name, text) in [("policies", POLICY), ("secrets", SECRET)] {
            std::fs::create_dir(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join("a.yaml"), text).unwrap();
        }
        let config = AuthConfig {
            policies: Documents::Folder(folder.join("policies")),
            secrets: Some(Documents::Folder(folder.join("secrets"))),
            namespace: "talks".into(),
            compat: Compat::default(),
            audiences: Vec::new(),
            authorities: None,
            keep_credentials: false,
            hosts: Vec::new(),
            timeout: Duration::from_secs(5),
            certificate_peers: Vec::new(),
            kubernetes: crate::config::Kubernetes::in_cluster(None),
        };
        let trail = Arc::new(Trail::new(Lines::Kept(Mutex::default())));
        (Authenticator::of_policies(&config).unwrap().with_trail(Some(trail.clone())), trail)
    }

    async fn ask(authenticator: &Authenticator, method: &str, host: &str, key: Option<&str>) {
        let value = key.map(|key| (HeaderName::from_static("x-key"), HeaderValue::from_str(key).unwrap()));
        let head = Head {
            method: method.parse().unwrap(),
            path: "/v1/models".into(),
            query: Some("token=hunter2".into()),
            headers: value.into_iter().collect::<HeaderMap>(),
            version: http::Version::HTTP_11,
            request_id: "id-7".into(),
            arrived_unix_seconds: 1_800_000_000,
        };
        let peer = Peer::plaintext(([10, 1, 2, 3], 4).into());
        let destination = "10.0.0.1:8443".parse().unwrap();
        let request = Request { head: &head, peer: &peer, host, destination, now_unix: 1_800_000_000, extra: None };
        if let Ok(caller) = authenticator.identify(request).await
            && let Err(caller) = caller.settle()
        {
            let _ = authenticator.authorize(*caller, request.now_unix).await;
        }
    }

    #[tokio::test]
    async fn is_there_one_line_for_each_decision_and_no_secret_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (authenticator, trail) = authenticator(folder.path());
        let cases = [
            ("GET", "keys.test", Some("hunter2"), "allowed", "authorization", Some("ada"), None),
            ("POST", "keys.test", Some("hunter2"), "unauthorized", "authorization", Some("ada"), Some("readers")),
            ("GET", "keys.test", Some("hunter3"), "unauthenticated", "authentication", None, None),
            ("GET", "keys.test", None, "unauthenticated", "authentication", None, None),
            ("GET", "other.test", Some("hunter2"), "unknown_host", "authentication", None, None),
        ];
        for (at, (method, host, key, outcome, phase, subject, by)) in cases.into_iter().enumerate() {
            ask(&authenticator, method, host, key).await;
            let lines = trail.kept();
            assert_eq!(lines.len(), at + 1, "one line for each");
            assert!(!lines[at].contains("hunter"), "{}", lines[at]);
            let line: Value = serde_json::from_str(&lines[at]).unwrap();
            let text = |name: &str| line[name].as_str();
            assert_eq!((text("kind"), text("time")), (Some("audit"), Some("2027-01-15T08:00:00Z")));
            assert_eq!((text("outcome"), text("phase")), (Some(outcome), Some(phase)), "{line}");
            assert_eq!((text("subject"), text("decided_by")), (subject, by), "{line}");
            assert_eq!(line["request"], json!({"method": method, "host": host, "path": "/v1/models"}));
            assert_eq!((text("request_id"), text("address")), (Some("id-7"), Some("10.1.2.3:4")));
            assert!(outcome == "allowed" || text("reason").is_some(), "{line}");
        }
    }
}
