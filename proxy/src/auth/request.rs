//! RequestAuthentication: tokens where a policy says they are, checked against the keys it names, and what the server
//! behind us is told of them.
//!
//! No token is no error: whether one is needed, an AuthorizationPolicy says. A bad one is, always. Never waits for keys,
//! never reads a clock, and never lets a caller set a header that only we may set.
//!
//! Stricter than Istio: a token must end (`exp`), two different tokens are refused and not the first of them taken, and
//! while an issuer's keys were never fetched its tokens are refused with a reason of their own.

use super::Reason;
use super::barred::{Barred, Looked};
use super::cache::Cache;
use super::credential::{Location, take};
use super::jwks::KeySet;
use super::jwks_fetch::{RemoteKeys, Wanted};
use super::jwt::{Expected, Verified, unverified_issuer, verify};
use super::keys::Keys;
use crate::message::Head;
use crate::policy::{JwtRule, KeySource, Problem, RequestPrincipal};
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use std::sync::Arc;

/// Claims that hold words in one string (RFC 8693, section 4.2), whatever the rule says.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// All rules of a workload, ready to check tokens.
pub struct RequestAuthenticator {
    rules: Vec<Rule>,
    /// Every place of a token, with the rules that look there.
    places: Vec<(Location, Vec<usize>)>,
    /// Headers only we may set.
    outputs: Arc<[HeaderName]>,
    cache: Cache<Accepted>,
    barred: Arc<Barred>,
}

struct Rule {
    rule: JwtRule,
    expected: Expected,
    keys: Keys,
}

/// A token that was checked, with everything that follows from it.
struct Accepted {
    rule: usize,
    /// With which keys; the verdict ends with them.
    keys: Arc<KeySet>,
    verified: Verified,
    principal: RequestPrincipal,
    headers: Vec<(HeaderName, HeaderValue)>,
    looked: Looked,
}

/// A change to the head before it is sent on. Strips come first.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    Strip(HeaderName),
    StripParameter(String),
    StripCookie(String),
    Set(HeaderName, HeaderValue),
}

/// A request whose tokens, if any, are good.
#[derive(Clone)]
pub struct Authenticated {
    accepted: Option<Arc<Accepted>>,
    outputs: Arc<[HeaderName]>,
    /// Where the token was, if the server behind us is not to see it.
    consumed: Vec<Location>,
}

impl RequestAuthenticator {
    /// Registers the sources of keys; whoever runs `remote` fetches them.
    pub fn new(
        rules: &[JwtRule],
        remote: &RemoteKeys,
        barred: Arc<Barred>,
    ) -> Result<RequestAuthenticator, Vec<Problem>> {
        let (mut ready, mut problems) = (Vec::with_capacity(rules.len()), Vec::new());
        for rule in rules {
            let keys = match &rule.keys {
                KeySource::Inline(text) => match KeySet::parse(text.as_bytes()) {
                    Ok((keys, _)) => Keys::Fixed(Arc::new(keys)),
                    Err(message) => {
                        problems.push(problem(rule, &message));
                        continue;
                    }
                },
                source => Keys::Remote(remote.want(&Wanted::new(source.clone(), rule.timeout))),
            };
            let issuer = Some(rule.issuer.clone());
            let audiences = rule.audiences.clone();
            let expected = Expected { issuer, audiences, subject_required: false, ..Expected::default() };
            ready.push(Rule { rule: rule.clone(), expected, keys });
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut places: Vec<(Location, Vec<usize>)> = Vec::new();
        let mut outputs: Vec<HeaderName> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            for location in &rule.locations {
                match places.iter_mut().find(|(known, _)| known == location) {
                    Some((_, rules)) => rules.push(index),
                    None => places.push((location.clone(), vec![index])),
                }
            }
            outputs.extend(rule.payload_header.iter().chain(rule.claim_headers.iter().map(|(name, _)| name)).cloned());
        }
        outputs.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        outputs.dedup();
        Ok(RequestAuthenticator { rules: ready, places, outputs: outputs.into(), cache: Cache::new(), barred })
    }

    /// Whether there is anything to do at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Checks the token of a request. `Ok` without a principal: there is none.
    pub fn authenticate(&self, head: &Head, now_unix: u64) -> Result<Authenticated, Reason> {
        let mut found: Option<(&str, &[usize])> = None;
        let mut consumed = Vec::new();
        for (location, rules) in &self.places {
            let Some(token) = take(head, location)? else { continue };
            if found.is_some_and(|(other, _)| other != token) {
                return Err(Reason::Ambiguous);
            }
            found.get_or_insert((token, rules));
            consumed.push(location.clone());
        }
        let accepted = match found {
            Some((token, rules)) => Some(self.accept(token, rules, now_unix)?),
            None => None,
        };
        if accepted.as_ref().is_none_or(|accepted| self.rules[accepted.rule].rule.forward) {
            consumed.clear();
        }
        Ok(Authenticated { accepted, outputs: self.outputs.clone(), consumed })
    }

    fn accept(&self, token: &str, rules: &[usize], now_unix: u64) -> Result<Arc<Accepted>, Reason> {
        if let Some(accepted) = self.cache.get(token)
            && rules.contains(&accepted.rule)
            && self.rules[accepted.rule].keys.are(&accepted.keys, now_unix)
        {
            accepted.verified.check_time(now_unix)?;
            return self.unless_barred(token, accepted);
        }
        let issuer = unverified_issuer(token)?;
        let mut refused = Reason::Issuer;
        let mut tried = false;
        for index in rules.iter().copied().filter(|index| self.rules[*index].rule.issuer == issuer) {
            match self.check(token, index, now_unix) {
                Ok(accepted) => {
                    let accepted = Arc::new(accepted);
                    self.cache.put(token, accepted.clone());
                    return self.unless_barred(token, accepted);
                }
                // Of two rules' reasons the later check says more.
                Err(reason) => refused = if tried { refused.max(reason) } else { reason },
            }
            tried = true;
        }
        Err(refused)
    }

    fn unless_barred(&self, token: &str, accepted: Arc<Accepted>) -> Result<Arc<Accepted>, Reason> {
        match self.barred.has(token, &accepted.verified, &accepted.looked) {
            true => Err(Reason::Rejected),
            false => Ok(accepted),
        }
    }

    fn check(&self, token: &str, index: usize, now_unix: u64) -> Result<Accepted, Reason> {
        let Rule { rule, expected, keys: source } = &self.rules[index];
        let keys = source.current(now_unix).ok_or(Reason::KeysUnavailable)?;
        let verified = verify(token, &keys, expected, now_unix).inspect_err(|reason| {
            if let (Reason::UnknownKey, Keys::Remote(remote)) = (reason, source) {
                remote.hurry();
            }
        })?;
        let principal = RequestPrincipal::of(split(&verified.claims, &rule.space_delimited_claims), verified.ends_unix);
        let headers = headers(rule, token, &verified.claims);
        Ok(Accepted { rule: index, keys, verified, principal, headers, looked: Looked::default() })
    }
}

fn problem(rule: &JwtRule, message: &str) -> Problem {
    Problem {
        file: String::new(),
        document: format!("RequestAuthentication {}", rule.policy),
        path: format!("spec.jwtRules[{}].jwks", rule.index),
        message: message.into(),
    }
}

/// The claims with those that hold words split into lists, as Envoy hands them to policies.
fn split(claims: &Arc<Value>, more: &[String]) -> Arc<Value> {
    let mut split = claims.clone();
    for name in SPACE_DELIMITED.into_iter().chain(more.iter().map(String::as_str)) {
        let Some(Value::String(words)) = claims.get(name) else { continue };
        let words = words.split_whitespace().map(|word| Value::String(word.to_owned())).collect();
        if let Some(place) = Arc::make_mut(&mut split).get_mut(name) {
            *place = Value::Array(words);
        }
    }
    split
}

/// What the server behind us is told. A claim that is an object or a list, or cannot be a header, is left out.
fn headers(rule: &JwtRule, token: &str, claims: &Value) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    let payload = token.split('.').nth(1).and_then(|payload| HeaderValue::from_str(payload).ok());
    headers.extend(rule.payload_header.clone().zip(payload));
    for (name, path) in &rule.claim_headers {
        // A claim's own name may have dots in it (`https://issuer/role`); the whole name goes first.
        let whole = claims.get(path.join("."));
        let found = whole.or_else(|| path.iter().try_fold(claims, |object, name| object.as_object()?.get(name)));
        let text = match found {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
            _ => continue,
        };
        headers.extend(HeaderValue::from_bytes(text.as_bytes()).ok().map(|value| (name.clone(), value)));
    }
    headers
}

impl Authenticated {
    pub fn principal(&self) -> Option<&RequestPrincipal> {
        self.accepted.as_ref().map(|accepted| &accepted.principal)
    }

    /// What to change before the request is sent on. Headers that only we may set are stripped without a token too.
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits: Vec<Edit> = self.outputs.iter().cloned().map(Edit::Strip).collect();
        edits.extend(self.consumed.iter().map(Edit::strip_of));
        let set = self.accepted.iter().flat_map(|accepted| &accepted.headers);
        edits.extend(set.map(|(name, value)| Edit::Set(name.clone(), value.clone())));
        edits
    }

    /// Does the edits.
    pub fn apply(&self, head: &mut Head) {
        apply(&self.edits(), head);
    }
}

impl Edit {
    /// What takes a credential from its place.
    pub fn strip_of(location: &Location) -> Edit {
        match location {
            Location::Bearer => Edit::Strip(http::header::AUTHORIZATION),
            Location::Header(name, _) => Edit::Strip(name.clone()),
            Location::Parameter(name) => Edit::StripParameter(name.clone()),
            Location::Cookie(name) => Edit::StripCookie(name.clone()),
        }
    }
}

/// Does edits to the head that stages after this one see.
pub fn apply(edits: &[Edit], head: &mut Head) {
    for edit in edits {
        match edit {
            Edit::Strip(name) => drop(head.headers.remove(name)),
            Edit::Set(name, value) => drop(head.headers.insert(name, value.clone())),
            Edit::StripParameter(name) => strip_parameter(head, name),
            Edit::StripCookie(name) => strip_cookie(head, name),
        }
    }
}

fn strip_parameter(head: &mut Head, name: &str) {
    let Some(query) = &head.query else { return };
    let kept: Vec<&str> =
        query.split('&').filter(|pair| pair.split_once('=').is_none_or(|(key, _)| key != name)).collect();
    head.query = Some(kept.join("&")).filter(|query| !query.is_empty());
}

fn strip_cookie(head: &mut Head, name: &str) {
    let lines = head.headers.get_all(http::header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).map(str::trim).filter(|pair| !pair.is_empty());
    let kept: Vec<&str> = pairs.filter(|pair| pair.split_once('=').is_none_or(|(key, _)| key != name)).collect();
    match HeaderValue::from_str(&kept.join("; ")) {
        Ok(value) if !value.is_empty() => drop(head.headers.insert(http::header::COOKIE, value)),
        _ => drop(head.headers.remove(http::header::COOKIE)),
    }
}

#[cfg(test)]
mod tests;
