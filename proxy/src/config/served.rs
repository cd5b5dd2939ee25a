//! Where gateways are answered (`ext_authz_server`), and the file of a process that does nothing else.

use super::audit::{Audit, RawAudit};
use super::auth::RawAuth;
use super::kubernetes::RawKubernetes;
use super::quantity::Quantity;
use super::raw::Problems;
use super::tls::RawTls;
use super::{Auth, Error, Tls};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The `ext_authz_server` section.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// At least one of the two.
    pub grpc: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub tls: ServedTls,
    pub threads: usize,
    pub connections_max: usize,
    /// On one HTTP/2 connection.
    pub streams_max: u32,
    /// In flight, over all connections.
    pub checks_max: usize,
    /// Of a question over gRPC.
    pub message_bytes_max: usize,
    /// Of a question over HTTP.
    pub body_bytes_max: usize,
    /// Of a decision.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedTls {
    Disable,
    /// Only we show a certificate.
    Simple,
    /// The gateway must show one of a trusted domain.
    Mutual,
}

impl ServedTls {
    fn name(self) -> &'static str {
        match self {
            ServedTls::Disable => "disable",
            ServedTls::Simple => "simple",
            ServedTls::Mutual => "mutual",
        }
    }
}

/// A process that only answers gateways.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorizer {
    pub admin: SocketAddr,
    pub tls: Option<Tls>,
    pub auth: Auth,
    pub audit: Option<Audit>,
    pub served: Served,
    /// What is in flight this long after SIGTERM is cut.
    pub drain_timeout: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServed {
    grpc: Option<String>,
    http: Option<String>,
    tls: Option<String>,
    threads: Option<usize>,
    connections_max: Option<usize>,
    streams_max: Option<u32>,
    checks_max: Option<usize>,
    message_bytes_max: Option<Quantity>,
    body_bytes_max: Option<Quantity>,
    timeout: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuthorizer {
    admin: Option<String>,
    tls: Option<RawTls>,
    #[serde(default)]
    kubernetes: RawKubernetes,
    auth: RawAuth,
    audit: Option<RawAudit>,
    ext_authz_server: RawServed,
    drain_timeout: Option<Quantity>,
}

const HERE: &str = "ext_authz_server";

impl RawServed {
    pub(super) fn validate(self, p: &mut Problems) -> Served {
        let at = |name: &str| format!("{HERE}.{name}");
        let mut address =
            |name: &str, given: &Option<String>| given.as_ref().map(|_| p.address(&at(name), given, "127.0.0.1:0"));
        let (grpc, http) = (address("grpc", &self.grpc), address("http", &self.http));
        if grpc.is_none() && http.is_none() {
            p.add(HERE, "name an address for `grpc`, for `http`, or for both");
        }
        if grpc.is_some_and(|grpc| grpc.port() != 0 && http == Some(grpc)) {
            p.add(&at("http"), "must not be the address of `grpc`");
        }
        let tls = match self.tls.as_deref() {
            None | Some("disable") => ServedTls::Disable,
            Some("simple") => ServedTls::Simple,
            Some("mutual") => ServedTls::Mutual,
            Some(other) => {
                p.add(&at("tls"), format!("`{other}` is none of disable, simple, mutual"));
                ServedTls::Mutual
            }
        };
        let streams_max = self.streams_max.unwrap_or(1000);
        if streams_max == 0 {
            p.add(&at("streams_max"), "must be at least 1");
        }
        Served {
            grpc,
            http,
            tls,
            // A check is some ten microseconds; more threads are for those who verify many new tokens.
            threads: p.count(&at("threads"), self.threads, 1),
            // A gateway keeps one or two for each of its threads.
            connections_max: p.count(&at("connections_max"), self.connections_max, 1000),
            streams_max,
            checks_max: p.count(&at("checks_max"), self.checks_max, 10_000),
            // As gRPC has it, for gateways that send bodies along.
            message_bytes_max: p.size(&at("message_bytes_max"), &self.message_bytes_max, 4 << 20),
            // As Authorino has it.
            body_bytes_max: p.size(&at("body_bytes_max"), &self.body_bytes_max, 8 << 10),
            // Envoy waits 200 ms unless told otherwise: whoever is told to wait longer than this has an odd issuer.
            timeout: p.duration(&at("timeout"), &self.timeout, Duration::from_secs(5)),
        }
    }
}

impl Served {
    pub(super) fn check_identity(&self, there_is_one: bool, p: &mut Problems) {
        if self.tls != ServedTls::Disable && !there_is_one {
            p.add(&format!("{HERE}.tls"), "needs an identity; name a source of one under `tls`");
        }
    }

    pub(super) fn dump(&self) -> Value {
        json!({
            "grpc": self.grpc.map(|address| address.to_string()),
            "http": self.http.map(|address| address.to_string()),
            "tls": self.tls.name(),
            "threads": self.threads,
            "connections_max": self.connections_max,
            "streams_max": self.streams_max,
            "checks_max": self.checks_max,
            "message_bytes_max": self.message_bytes_max,
            "body_bytes_max": self.body_bytes_max,
            "timeout_seconds": self.timeout.as_secs_f64(),
        })
    }
}

impl Authorizer {
    /// Reads and validates a file; relative paths in it are relative to the folder it is in.
    pub fn load(path: &Path) -> Result<Authorizer, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.into(), source })?;
        Authorizer::parse(&text, path.parent().unwrap_or(Path::new("")), path)
    }

    /// Validates a text; `base` is what relative paths are relative to, `path` only names it in errors.
    pub fn parse(text: &str, base: &Path, path: &Path) -> Result<Authorizer, Error> {
        let raw: RawAuthorizer = serde_yaml_ng::from_str(text)
            .map_err(|error| Error::Shape { path: path.into(), words: error.to_string() })?;
        let mut problems = Problems::default();
        let p = &mut problems;
        let kubernetes = raw.kubernetes.validate(base, p);
        let authorizer = Authorizer {
            // On the loopback: who can read metrics must already be on the machine; probes ask from outside, see there.
            admin: p.address("admin", &raw.admin, "127.0.0.1:8081"),
            tls: raw.tls.map(|tls| tls.validate(base, p)),
            auth: raw.auth.validate(base, &kubernetes, p),
            audit: raw.audit.map(|audit| audit.validate(base, p)),
            served: raw.ext_authz_server.validate(p),
            drain_timeout: p.duration("drain_timeout", &raw.drain_timeout, Duration::from_secs(5)),
        };
        let identity = authorizer.tls.as_ref().is_some_and(|tls| tls.source.is_some());
        authorizer.served.check_identity(identity, p);
        match problems.0.is_empty() {
            true => Ok(authorizer),
            false => Err(Error::Contradictions { path: path.into(), problems: problems.0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Authorizer, String> {
        Authorizer::parse(text, Path::new("/base"), Path::new("authorizer.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_an_authorizer_needs_and_what_contradicts_itself() {
        let auth = "auth: {methods: [{anonymous: {}}]}\n";
        let good = parse(&format!("{auth}ext_authz_server: {{grpc: '0.0.0.0:50051', http: '0.0.0.0:5001'}}")).unwrap();
        assert_eq!(good.served.http, Some("0.0.0.0:5001".parse().unwrap()));
        assert_eq!((good.served.body_bytes_max, good.served.tls), (8192, ServedTls::Disable));
        for (section, words) in [
            ("{}", "name an address for `grpc`"),
            ("{grpc: here}", "ext_authz_server.grpc: `here` is no address"),
            ("{grpc: '127.0.0.1:1', http: '127.0.0.1:1'}", "ext_authz_server.http: must not be the address of `grpc`"),
            ("{grpc: '127.0.0.1:1', tls: simple}", "ext_authz_server.tls: needs an identity"),
            ("{grpc: '127.0.0.1:1', tls: always}", "none of disable, simple, mutual"),
            ("{grpc: '127.0.0.1:1', streams_max: 0, checks_max: 0}", "ext_authz_server.checks_max: must be at least 1"),
            ("{grpc: '127.0.0.1:1', htpp: '127.0.0.1:2'}", "unknown field `htpp`"),
        ] {
            let error = parse(&format!("{auth}ext_authz_server: {section}")).unwrap_err();
            assert!(error.contains(words), "{section}: {error}");
        }
    }

    #[test]
    fn are_the_examples_as_they_are_without_a_word() {
        let plain = parse(
            "auth: {methods: [{anonymous: {}}]}\next_authz_server: {grpc: '0.0.0.0:50051', http: '0.0.0.0:5001'}",
        );
        let plain = plain.unwrap();
        let file = parse(include_str!("../../../config/authorizer.yaml")).unwrap();
        assert_eq!((&file.served, file.admin, file.drain_timeout), (&plain.served, plain.admin, plain.drain_timeout));
        let proxy = include_str!("../../../config/proxy.yaml");
        let section = proxy[proxy.find("# ext_authz_server:").unwrap()..].lines();
        let section: String = section.map_while(|line| Some(line.strip_prefix("# ")?.to_owned() + "\n")).collect();
        let section = parse(&format!("auth: {{methods: [{{anonymous: {{}}}}]}}\n{section}")).unwrap();
        assert_eq!(section.served, plain.served);
    }
}
