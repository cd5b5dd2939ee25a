//! How callers come in and what stands behind: interception, policy, a foreign server; the file's shape and its meaning.

use super::TlsMode;
use super::providers::{self, Provider, RawProvider};
use super::quantity::Quantity;
use super::raw::Problems;
use super::sleep::{RawSleep, Sleep};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `listen` is what a redirect points at.
#[derive(Clone, Debug, PartialEq)]
pub struct Interception {
    /// Callers meant another port than the one they reached: the kernel is asked which (SO_ORIGINAL_DST).
    pub inbound: bool,
    /// A caller silent for so long speaks a protocol in which the server speaks first: its bytes are passed as they are.
    pub detect_timeout: Duration,
}

/// A foreign server that requests are handed to untouched.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    pub to: Destination,
    pub protocol: Protocol,
    /// Requests it is given at once; `None`: as many as come.
    pub concurrency: Option<usize>,
    pub connect_timeout: Duration,
    /// A connection to it that is not used for so long is closed.
    pub idle_timeout: Duration,
    /// Between two pieces of an answer, and before the first. `None`: as long as it takes.
    pub response_timeout: Option<Duration>,
    /// How long it may take to take its first connection.
    pub start_timeout: Duration,
    /// `None`: it is always there, or somebody else says when.
    pub sleep: Option<Sleep>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// Where the caller was going, at this host or at the one it named.
    Original(Option<IpAddr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC as h2c, everything else as HTTP/1.1: what every server of either kind understands.
    Auto,
    Http1,
    H2c,
}

/// Istio's policies, from files.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub folder: PathBuf,
    /// Whose policies apply: this workload's.
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub root_namespace: String,
    /// Names the trust domain had before.
    pub trust_domain_aliases: Vec<String>,
    /// Whom an issuer's key server must be certified by; the machine's own authorities unless told otherwise.
    pub jwks_authorities: Option<PathBuf>,
    /// External authorizers, by the names that CUSTOM policies give them.
    pub providers: BTreeMap<String, Provider>,
}

/// What becomes of `x-forwarded-client-cert`, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xfcc {
    Sanitize,
    SanitizeSet,
    ForwardOnly,
    AppendForward,
    AlwaysForwardOnly,
}

impl Protocol {
    /// As the file spells it.
    pub fn name(self) -> &'static str {
        PROTOCOLS.iter().find(|(_, protocol)| *protocol == self).expect("the table has them all").0
    }
}

const PROTOCOLS: &[(&str, Protocol)] = &[("auto", Protocol::Auto), ("http1", Protocol::Http1), ("h2c", Protocol::H2c)];

impl Xfcc {
    /// As the file spells it.
    pub fn name(self) -> &'static str {
        XFCC.iter().find(|(_, xfcc)| *xfcc == self).expect("the table has them all").0
    }
}

const XFCC: &[(&str, Xfcc)] = &[
    ("sanitize", Xfcc::Sanitize),
    ("sanitize_set", Xfcc::SanitizeSet),
    ("forward_only", Xfcc::ForwardOnly),
    ("append_forward", Xfcc::AppendForward),
    ("always_forward_only", Xfcc::AlwaysForwardOnly),
];

/// The entry of this name, or the names there are.
fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T, String> {
    let found = table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let names = || table.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("`{name}` is none of {}", names()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInterception {
    #[serde(default)]
    inbound: bool,
    detect_timeout: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawForward {
    to: String,
    protocol: Option<String>,
    concurrency: Option<usize>,
    connect_timeout: Option<Quantity>,
    idle_timeout: Option<Quantity>,
    response_timeout: Option<Quantity>,
    start_timeout: Option<Quantity>,
    sleep: Option<RawSleep>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    folder: PathBuf,
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// The downward API's file of labels, in a pod.
    labels_file: Option<PathBuf>,
    root_namespace: Option<String>,
    #[serde(default)]
    trust_domain_aliases: Vec<String>,
    jwks_authorities: Option<PathBuf>,
    #[serde(default)]
    providers: BTreeMap<String, RawProvider>,
}

impl RawInterception {
    pub(super) fn validate(self, p: &mut Problems) -> Interception {
        let path = "interception.detect_timeout";
        // As long as a caller on a slow link may take to say its first word, as short as a database client waits.
        let detect_timeout = p.duration(path, &self.detect_timeout, Duration::from_secs(1));
        Interception { inbound: self.inbound, detect_timeout }
    }
}

impl RawForward {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Forward {
        let seconds = Duration::from_secs;
        let to = destination(&self.to, base).unwrap_or_else(|words| {
            p.add("forward.to", words);
            Destination::Original(None)
        });
        let protocol = protocol("forward.protocol", self.protocol.as_deref(), p);
        if self.concurrency == Some(0) {
            p.add("forward.concurrency", "must be at least 1; leave it out for no limit");
        }
        let sleep = self.sleep.and_then(|sleep| sleep.validate(&to, p));
        Forward {
            to,
            protocol,
            concurrency: self.concurrency,
            connect_timeout: p.duration("forward.connect_timeout", &self.connect_timeout, seconds(5)),
            // uvicorn, and vLLM with it, closes idle connections after five seconds: whoever is later meets a reset.
            idle_timeout: p.duration("forward.idle_timeout", &self.idle_timeout, seconds(4)),
            // The first token of a long prompt may take minutes, and who has waited enough is the caller's to say.
            response_timeout: p.optional("forward.response_timeout", &self.response_timeout, None),
            start_timeout: p.duration("forward.start_timeout", &self.start_timeout, seconds(60)),
            sleep,
        }
    }
}

pub(super) fn protocol(path: &str, text: Option<&str>, p: &mut Problems) -> Protocol {
    named(PROTOCOLS, text.unwrap_or("auto")).unwrap_or_else(|words| {
        p.add(path, words);
        Protocol::Auto
    })
}

/// `127.0.0.1:8080`, `unix:/run/app.sock`, `original`, `127.0.0.1:original`.
fn destination(text: &str, base: &Path) -> Result<Destination, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = base.join(path);
        // sun_path is 108 bytes with its final NUL (unix(7)).
        return match path.as_os_str().len() {
            ..=107 => Ok(Destination::Unix(path)),
            _ => Err(format!("{} is longer than the 107 bytes a socket's path may have", path.display())),
        };
    }
    if text == "original" {
        return Ok(Destination::Original(None));
    }
    let host = text.strip_suffix(":original").map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    if let Some(Ok(host)) = host.map(str::parse) {
        return Ok(Destination::Original(Some(host)));
    }
    text.parse().map(Destination::Tcp).map_err(|_| {
        format!(
            "`{text}` is no destination; write `127.0.0.1:8080`, `unix:app.sock`, `original` or `127.0.0.1:original`"
        )
    })
}

impl RawPolicy {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Policy {
        let mut labels = self.labels;
        if let Some(file) = self.labels_file {
            let file = base.join(file);
            match std::fs::read_to_string(&file) {
                Ok(text) => labels.extend(downward_labels(&text)),
                Err(error) => p.add("policy.labels_file", format!("cannot read {}: {error}", file.display())),
            }
        }
        Policy {
            folder: base.join(self.folder),
            namespace: self.namespace.unwrap_or_else(|| "default".into()),
            labels,
            root_namespace: self.root_namespace.unwrap_or_else(|| "istio-system".into()),
            trust_domain_aliases: self.trust_domain_aliases,
            jwks_authorities: self.jwks_authorities.map(|path| base.join(path)),
            providers: providers::validate(self.providers, p),
        }
    }
}

/// Lines of `key="value"`, the value as Go quotes strings.
fn downward_labels(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect()
}

/// By default what a caller says of itself is worth nothing, and what we saw is told.
pub(super) fn xfcc(text: Option<&str>, p: &mut Problems) -> Xfcc {
    named(XFCC, text.unwrap_or("sanitize_set")).unwrap_or_else(|words| {
        p.add("xfcc", words);
        Xfcc::Sanitize
    })
}

pub(super) fn mode(path: &str, text: &str, p: &mut Problems) -> TlsMode {
    const MODES: &[(&str, TlsMode)] = &[
        ("permissive", TlsMode::Permissive),
        ("strict", TlsMode::Strict),
        ("simple", TlsMode::Simple),
        ("disable", TlsMode::Disable),
    ];
    named(MODES, text).unwrap_or_else(|words| {
        p.add(path, words);
        TlsMode::Disable
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_destinations_are_understood() {
        let of = |text: &str| destination(text, Path::new("/etc/o"));
        assert_eq!(of("127.0.0.1:8080"), Ok(Destination::Tcp("127.0.0.1:8080".parse().unwrap())));
        assert_eq!(of("unix:app.sock"), Ok(Destination::Unix("/etc/o/app.sock".into())));
        assert_eq!(of("original"), Ok(Destination::Original(None)));
        assert_eq!(of("[::1]:original"), Ok(Destination::Original(Some("::1".parse().unwrap()))));
        for bad in ["", "8080", "localhost:8080", "http://127.0.0.1:8080", "x:original"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn what_labels_does_the_downward_api_tell() {
        let labels = downward_labels("app=\"model\"\nversion=\"v1\"\n\n");
        assert_eq!(labels.get("app").map(String::as_str), Some("model"));
        assert_eq!(labels.len(), 2);
    }
}
