//! A compiled rule: who (any of `from`), what (any of `to`) and on which conditions (all of `when`).
//!
//! Never allocates for a request, but for a header that came in several lines.

use super::attributes::{Attributes, Facts, RequestPrincipal};
use super::matchers::{Account, Caller, Cidr, Glob, Path, Text, has_namespace};
use crate::tls::identity::SpiffeId;
use http::{HeaderMap, HeaderName};
use serde_json::Value;

/// One rule of a policy. An empty list asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub from: Vec<Vec<Check>>,
    pub to: Vec<Vec<Check>>,
    pub when: Vec<Check>,
}

/// A field with its values, or the `not` form of it.
#[derive(Clone, Debug)]
pub struct Check {
    pub test: Test,
    pub negated: bool,
}

/// A field, and the values of which one must match.
#[derive(Clone, Debug)]
pub enum Test {
    Principal(Vec<Text>),
    TrustDomain(Vec<Text>),
    Namespace(Vec<Glob>),
    ServiceAccount(Vec<Account>),
    SourceIp(Vec<Cidr>),
    RemoteIp(Vec<Cidr>),
    DestinationIp(Vec<Cidr>),
    Port(Vec<u16>),
    Sni(Vec<Text>),
    Method(Vec<Text>),
    Host(Vec<Text>),
    Path(Vec<Path>),
    Header(HeaderName, Vec<Text>),
    RequestPrincipal(Vec<Caller>),
    Audience(Vec<Text>),
    Presenter(Vec<Text>),
    /// The claim's name, and of the objects below it.
    Claim(Vec<String>, Vec<Text>),
}

impl Test {
    /// Whether it can be answered only where there is HTTP.
    fn needs_http(&self) -> bool {
        match self {
            Test::Principal(_) | Test::TrustDomain(_) | Test::Namespace(_) | Test::ServiceAccount(_) => false,
            Test::SourceIp(_) | Test::RemoteIp(_) | Test::DestinationIp(_) | Test::Port(_) | Test::Sni(_) => false,
            Test::Method(_) | Test::Host(_) | Test::Path(_) | Test::Header(..) => true,
            Test::RequestPrincipal(_) | Test::Audience(_) | Test::Presenter(_) | Test::Claim(..) => true,
        }
    }

    fn matches(&self, facts: Facts<'_>) -> bool {
        let connection = facts.connection;
        match self {
            Test::SourceIp(blocks) => blocks.iter().any(|block| block.contains(connection.source_ip)),
            Test::RemoteIp(blocks) => blocks.iter().any(|block| block.contains(connection.remote_ip)),
            Test::DestinationIp(blocks) => blocks.iter().any(|block| block.contains(connection.destination_ip)),
            Test::Port(ports) => ports.contains(&connection.destination_port),
            Test::Sni(names) => any(names, connection.sni.unwrap_or_default()),
            _ => match facts.request {
                Some(request) if self.needs_http() => self.matches_request(request),
                _ => connection.peer.is_some_and(|peer| self.matches_peer(peer)),
            },
        }
    }

    fn matches_peer(&self, peer: &SpiffeId) -> bool {
        // Policies leave the scheme off.
        let name = peer.as_str().strip_prefix("spiffe://").unwrap_or(peer.as_str());
        match self {
            Test::Principal(names) => any(names, name),
            Test::TrustDomain(names) => any(names, peer.trust_domain()),
            Test::Namespace(globs) => has_namespace(peer, |namespace| globs.iter().any(|g| g.matches(namespace))),
            Test::ServiceAccount(accounts) => accounts.iter().any(|account| account.matches(peer)),
            _ => false,
        }
    }

    fn matches_request(&self, request: &Attributes<'_>) -> bool {
        match self {
            Test::Method(names) => any(names, request.method),
            Test::Host(names) => host(names, request.host),
            Test::Path(paths) => paths.iter().any(|path| path.matches(request.path)),
            // Envoy keeps `Host` under `:authority`; with h2 there may be no such header at all.
            Test::Header(name, values) if *name == http::header::HOST => host(values, request.host),
            Test::Header(name, values) => header(name, values, request.headers),
            _ => request.token.is_some_and(|token| self.matches_token(token)),
        }
    }

    fn matches_token(&self, token: &RequestPrincipal) -> bool {
        match self {
            Test::RequestPrincipal(callers) => callers.iter().any(|c| c.matches(&token.issuer, &token.subject)),
            Test::Audience(names) => token.audiences.iter().any(|audience| any(names, audience)),
            Test::Presenter(names) => any(names, &token.presenter),
            Test::Claim(path, values) => claim(path, values, &token.claims),
            _ => false,
        }
    }
}

fn any(patterns: &[Text], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text.as_bytes()))
}

fn host(patterns: &[Text], host: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches_any_case(host.as_bytes()))
}

/// Several lines of one header are compared as one, joined by commas (RFC 9110, section 5.3; so does Envoy). `*` asks
/// only whether it is there.
fn header(name: &HeaderName, patterns: &[Text], headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(name).iter();
    let Some(first) = lines.next() else { return false };
    let one = |value: &[u8]| patterns.iter().any(|pattern| *pattern == Text::NonEmpty || pattern.matches(value));
    if lines.next().is_none() {
        return one(first.as_bytes());
    }
    let all: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    one(&all.join(&b','))
}

/// A claim that is text, or a list with such text in it. Numbers and booleans match nothing, as in Envoy.
fn claim(path: &[String], patterns: &[Text], claims: &Value) -> bool {
    let found = path.iter().try_fold(claims, |object, name| object.as_object()?.get(name));
    match found {
        Some(Value::String(text)) => any(patterns, text),
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).any(|text| any(patterns, text)),
        _ => false,
    }
}

impl Check {
    /// Without HTTP there is no answer to some questions. What forbids counts them as met and so forbids more; what
    /// allows never gets here, see [`Rule::matches`].
    fn holds(&self, facts: Facts<'_>) -> bool {
        if facts.request.is_none() && self.test.needs_http() { true } else { self.test.matches(facts) != self.negated }
    }
}

impl Rule {
    /// `allows`: of an ALLOW policy, where a rule that asks for HTTP anywhere allows no plain connection.
    pub(super) fn matches(&self, facts: Facts<'_>, allows: bool) -> bool {
        if allows && facts.request.is_none() && self.needs_http() {
            return false;
        }
        let all = |checks: &[Check]| checks.iter().all(|check| check.holds(facts));
        let one_of = |groups: &[Vec<Check>]| groups.is_empty() || groups.iter().any(|group| all(group));
        one_of(&self.from) && one_of(&self.to) && all(&self.when)
    }

    fn needs_http(&self) -> bool {
        let groups = self.from.iter().chain(&self.to).flatten();
        groups.chain(&self.when).any(|check| check.test.needs_http())
    }
}
