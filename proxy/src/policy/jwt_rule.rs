//! RequestAuthentication as data: which tokens are taken, from where, and what the server behind us is told of them.
//!
//! Never verifies anything: `auth::request` does.

use super::document::Node;
use crate::auth::credential::Location;
use http::HeaderName;
use std::sync::Arc;
use std::time::Duration;

/// How long a fetch of keys may take (Istio's default).
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// One of `jwtRules`.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// `namespace/name` of the policy.
    pub policy: Arc<str>,
    /// Its place in the policy.
    pub index: usize,
    pub issuer: String,
    /// One of these must be in `aud`; empty: any will do, a token made for another service too.
    pub audiences: Vec<String>,
    pub keys: KeySource,
    /// Where tokens are looked for; never empty.
    pub locations: Vec<Location>,
    /// The token's payload, base64url, goes here.
    pub payload_header: Option<HeaderName>,
    /// Header and claim, the claim as the names of objects and what is in the innermost.
    pub claim_headers: Vec<(HeaderName, Vec<String>)>,
    /// Whether the server behind us sees the token.
    pub forward: bool,
    pub timeout: Duration,
    /// Claims that hold several words, beside `scope` and `permission`.
    pub space_delimited_claims: Vec<String>,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySource {
    /// A JSON Web Key Set, as it is.
    Inline(String),
    /// Where one is fetched.
    Uri(String),
    /// An issuer whose OpenID configuration says where.
    Discovery(String),
}

const FIELDS: [&str; 12] = [
    "issuer",
    "audiences",
    "jwks",
    "jwksUri",
    "fromHeaders",
    "fromParams",
    "fromCookies",
    "outputPayloadToHeader",
    "outputClaimToHeaders",
    "forwardOriginalToken",
    "timeout",
    "spaceDelimitedClaims",
];

pub fn jwt_rules(node: &Node<'_>, policy: &Arc<str>) -> Vec<JwtRule> {
    let rule = |(index, item): (usize, &Node<'_>)| jwt_rule(item, policy, index);
    node.items().iter().enumerate().filter_map(rule).collect()
}

fn jwt_rule(node: &Node<'_>, policy: &Arc<str>, index: usize) -> Option<JwtRule> {
    let [
        issuer,
        audiences,
        jwks,
        uri,
        headers,
        parameters,
        cookies,
        payload_header,
        claim_headers,
        forward,
        timeout,
        space_delimited,
    ] = node.fields(FIELDS);
    if issuer.is_none() {
        node.problem("has no issuer; write what the tokens carry as `iss`");
    }
    let texts = |node: Option<Node<'_>>| node.map(|node| node.texts()).unwrap_or_default();
    let audiences_given = texts(audiences);
    let issuer = issuer.and_then(|node| node.text().map(str::to_owned));
    let keys = key_source(jwks, uri, issuer.as_deref(), node);
    let mut locations: Vec<Location> =
        headers.iter().flat_map(|node| node.items()).filter_map(|item| from_header(&item)).collect();
    locations.extend(texts(parameters).into_iter().map(Location::Parameter));
    locations.extend(texts(cookies).into_iter().map(Location::Cookie));
    if locations.is_empty() {
        locations = vec![Location::Bearer, Location::Parameter("access_token".into())];
    }
    Some(JwtRule {
        policy: policy.clone(),
        index,
        issuer: issuer?,
        audiences: audiences_given,
        keys: keys?,
        locations,
        payload_header: payload_header.and_then(|node| header_name(&node)),
        claim_headers: claim_headers.iter().flat_map(|node| node.items()).filter_map(|i| claim_header(&i)).collect(),
        forward: forward.and_then(|node| node.boolean()).unwrap_or(false),
        timeout: timeout.and_then(|node| duration(&node)).unwrap_or(TIMEOUT_DEFAULT),
        space_delimited_claims: texts(space_delimited),
    })
}

fn key_source(
    jwks: Option<Node<'_>>,
    uri: Option<Node<'_>>,
    issuer: Option<&str>,
    rule: &Node<'_>,
) -> Option<KeySource> {
    let is_http = |uri: &str| uri.starts_with("https://") || uri.starts_with("http://");
    match (jwks, uri) {
        (Some(_), Some(_)) => {
            rule.problem("has jwks and jwksUri; only one of them can be right");
            None
        }
        (Some(jwks), None) => Some(KeySource::Inline(jwks.text()?.to_owned())),
        (None, Some(uri)) => match uri.text()? {
            text if is_http(text) => Some(KeySource::Uri(text.to_owned())),
            _ => {
                uri.problem("begins with neither https:// nor http://");
                None
            }
        },
        (None, None) => match issuer? {
            issuer if is_http(issuer) => Some(KeySource::Discovery(issuer.to_owned())),
            _ => {
                rule.problem(
                    "has neither jwks nor jwksUri, and the issuer is no address where keys could be asked for",
                );
                None
            }
        },
    }
}

fn header_name(node: &Node<'_>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(node.text()?.as_bytes());
    if name.is_err() {
        node.problem("cannot be the name of a header");
    }
    name.ok()
}

fn from_header(node: &Node<'_>) -> Option<Location> {
    let [name, prefix] = node.fields(["name", "prefix"]);
    if name.is_none() {
        node.problem("has no name");
    }
    let name = header_name(&name?)?;
    let prefix = prefix.and_then(|node| node.text().map(str::to_owned)).unwrap_or_default();
    // The very same as the default: taken with its care for case and for doubled headers.
    if name == http::header::AUTHORIZATION && prefix.trim_end().eq_ignore_ascii_case("bearer") {
        return Some(Location::Bearer);
    }
    Some(Location::Header(name, prefix))
}

fn claim_header(node: &Node<'_>) -> Option<(HeaderName, Vec<String>)> {
    let [header, claim] = node.fields(["header", "claim"]);
    if header.is_none() || claim.is_none() {
        node.problem("needs both header and claim");
    }
    let (header, claim) = (header_name(&header?)?, claim?.text()?.split('.').map(str::to_owned).collect());
    Some((header, claim))
}

/// `5s`, `0.5s`, `200ms`, `1m`.
fn duration(node: &Node<'_>) -> Option<Duration> {
    let text = node.text()?;
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match &text[at..] {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let seconds = unit.and_then(|unit| Some(text[..at].parse::<f64>().ok()? * unit));
    let seconds = seconds.filter(|seconds| (0.001..=60.0).contains(seconds));
    if seconds.is_none() {
        node.problem("is not a time of 1ms to 1m, such as 5s");
    }
    seconds.map(Duration::from_secs_f64)
}
