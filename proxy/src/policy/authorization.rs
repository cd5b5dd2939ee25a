//! The `spec` of an AuthorizationPolicy, from YAML to compiled rules.
//!
//! What Istio's webhook refuses is refused here too: no cluster stands between these files and us.

use super::document::Node;
use super::matchers::{Account, Caller, Cidr, Glob, Path, Text};
use super::rule::{Check, Rule, Test};
use super::trust::TrustDomains;
use http::HeaderName;

/// What a policy does with the requests it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    Audit,
    /// Asks this provider.
    Custom(String),
}

/// What rules mean depends on whose they are.
pub struct Context<'a> {
    /// Of the policy, for service accounts without one.
    pub namespace: &'a str,
    pub trust: &'a TrustDomains,
}

/// `None`: with problems.
pub fn action(action: Option<&Node<'_>>, provider: Option<&Node<'_>>, rules: Option<&Node<'_>>) -> Option<Action> {
    let text = action.map_or(Some("ALLOW"), Node::text)?;
    let named = provider.and_then(|provider| {
        let [name] = provider.fields(["name"]);
        if name.is_none() {
            provider.problem("has no name; write the name of the external authorizer");
        }
        name?.text()
    });
    if let Some(provider) = provider.filter(|_| text != "CUSTOM") {
        provider.problem(format!("belongs to action CUSTOM, and the action is {text}"));
    }
    let place = action.filter(|_| rules.is_none_or(|rules| rules.count() == 0));
    if let Some(place) = place.filter(|_| matches!(text, "DENY" | "CUSTOM")) {
        place.problem(format!("{text} without rules matches nothing; write `rules: [{{}}]` to match everything"));
    }
    match (text, named) {
        ("ALLOW", _) => Some(Action::Allow),
        ("DENY", _) => Some(Action::Deny),
        ("AUDIT", _) => Some(Action::Audit),
        ("CUSTOM", Some(name)) => Some(Action::Custom(name.to_owned())),
        ("CUSTOM", None) => {
            action.filter(|_| provider.is_none())?.problem("CUSTOM needs `provider: {name: …}`");
            None
        }
        _ => {
            action?.problem("is none of ALLOW, DENY, AUDIT, CUSTOM");
            None
        }
    }
}

pub fn rules(node: &Node<'_>, context: &Context<'_>) -> Vec<Rule> {
    node.items().iter().map(|item| rule(item, context)).collect()
}

/// `{}` matches everything. An empty list is a problem: whoever wrote one meant "nobody" and would get "everybody".
fn rule(node: &Node<'_>, context: &Context<'_>) -> Rule {
    let [from, to, when] = node.fields(["from", "to", "when"]);
    Rule {
        from: listed(from).iter().map(|item| group(item, "source", |node| source(node, context))).collect(),
        to: listed(to).iter().map(|item| group(item, "operation", operation)).collect(),
        when: listed(when).iter().flat_map(|item| condition(item, context)).collect(),
    }
}

fn listed<'a>(node: Option<Node<'a>>) -> Vec<Node<'a>> {
    let Some(node) = node else { return Vec::new() };
    if node.count() == 0 {
        node.problem("is empty; leave it out to ask for nothing");
    }
    node.items()
}

fn group<'a>(item: &Node<'a>, name: &str, read: impl Fn(&Node<'a>) -> Vec<Check>) -> Vec<Check> {
    let [inner] = item.fields([name]);
    let Some(inner) = inner else {
        item.problem(format!("has no `{name}`"));
        return Vec::new();
    };
    let checks = read(&inner);
    if checks.is_empty() {
        inner.problem("asks for nothing; name at least one field with a value");
    }
    checks
}

/// The check of one field, or none if it has no values: an empty list is as absent, as in Istio.
fn check<T>(
    node: Option<Node<'_>>,
    negated: bool,
    make: impl Fn(&str) -> Result<T, String>,
    test: impl Fn(Vec<T>) -> Test,
) -> Option<Check> {
    let node = node?;
    let values = node.each(make);
    // Values that were problems leave no list either, but then nothing of the file is used.
    (!values.is_empty()).then(|| Check { test: test(values), negated })
}

fn text(pattern: &str) -> Result<Text, String> {
    Ok(Text::new(pattern))
}

fn block(text: &str) -> Result<Cidr, String> {
    Cidr::parse(text).ok_or_else(|| "is neither an address nor a block such as 10.0.0.0/8".into())
}

fn port(text: &str) -> Result<u16, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port > 0).ok_or_else(|| "is not a port, 1 to 65535".into())
}

fn path(text: &str) -> Result<Path, String> {
    Path::parse(text).map_err(str::to_owned)
}

fn principals(node: Option<Node<'_>>, negated: bool, context: &Context<'_>) -> Option<Check> {
    let make = |text: &str| match text.starts_with("spiffe://") {
        true => Err("leave `spiffe://` off: with it this would match nobody".to_owned()),
        false => Ok(context.trust.principals(text)),
    };
    check(node, negated, make, |names| Test::Principal(names.concat().iter().map(|name| Text::new(name)).collect()))
}

fn trust_domains(node: Option<Node<'_>>, negated: bool, context: &Context<'_>) -> Option<Check> {
    let make = |text: &str| Ok(context.trust.names(text));
    check(node, negated, make, |names| Test::TrustDomain(names.concat().iter().map(|name| Text::new(name)).collect()))
}

fn accounts(node: Option<Node<'_>>, negated: bool, context: &Context<'_>) -> Option<Check> {
    let make = |text: &str| {
        let (namespace, name) = text.split_once('/').unwrap_or((context.namespace, text));
        if text.contains('*') || namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err("is not `<service account>` or `<namespace>/<service account>`; stars are not read here".into());
        }
        Ok(Account { namespace: namespace.into(), name: name.into() })
    };
    check(node, negated, make, Test::ServiceAccount)
}

const SOURCE: [&str; 14] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];

fn source(node: &Node<'_>, context: &Context<'_>) -> Vec<Check> {
    let mut fields = node.fields(SOURCE);
    let full = |at: usize| fields[at].as_ref().is_some_and(|list| list.count() > 0);
    if (full(6) || full(7)) && [0, 1, 4, 5].into_iter().any(full) {
        node.problem("names service accounts beside principals or namespaces; put them in another `from`");
    }
    let mut checks = Vec::new();
    for (at, name) in SOURCE.iter().enumerate() {
        let (list, negated) = (fields[at].take(), name.starts_with("not"));
        checks.extend(match at / 2 {
            0 => principals(list, negated, context),
            1 => check(list, negated, |text| Ok(Caller::new(text)), Test::RequestPrincipal),
            2 => check(list, negated, |text| Ok(Glob::new(text)), Test::Namespace),
            3 => accounts(list, negated, context),
            4 => trust_domains(list, negated, context),
            5 => check(list, negated, block, Test::SourceIp),
            _ => check(list, negated, block, Test::RemoteIp),
        });
    }
    checks
}

const OPERATION: [&str; 8] = ["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"];

fn operation(node: &Node<'_>) -> Vec<Check> {
    let mut fields = node.fields(OPERATION);
    let mut checks = Vec::new();
    for (at, name) in OPERATION.iter().enumerate() {
        let (list, negated) = (fields[at].take(), name.starts_with("not"));
        checks.extend(match at / 2 {
            0 => check(list, negated, text, Test::Host),
            1 => check(list, negated, port, Test::Port),
            2 => check(list, negated, text, Test::Method),
            _ => check(list, negated, path, Test::Path),
        });
    }
    checks
}

/// One line of `when`: up to two checks, of `values` and of `notValues`.
fn condition(node: &Node<'_>, context: &Context<'_>) -> Vec<Check> {
    let [key, values, not_values] = node.fields(["key", "values", "notValues"]);
    let Some(key) = key else {
        node.problem("has no key");
        return Vec::new();
    };
    let Some(name) = key.text() else { return Vec::new() };
    let mut checks = Vec::new();
    for (list, negated) in [(values, false), (not_values, true)] {
        match attribute(name, list, negated, context) {
            Ok(check) => checks.extend(check),
            Err(message) => {
                key.problem(message);
                return Vec::new();
            }
        }
    }
    if checks.is_empty() {
        node.problem("has neither values nor notValues");
    }
    checks
}

fn attribute(
    name: &str,
    list: Option<Node<'_>>,
    negated: bool,
    context: &Context<'_>,
) -> Result<Option<Check>, String> {
    if let Some(bracketed) = name.strip_prefix("request.headers") {
        let header = one_name(bracketed)?.to_ascii_lowercase();
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| "names no header; for :authority, :method and :path write `to`".to_owned())?;
        return Ok(check(list, negated, text, |values| Test::Header(header.clone(), values)));
    }
    if let Some(bracketed) = name.strip_prefix("request.auth.claims") {
        let path = names(bracketed)?;
        return Ok(check(list, negated, text, |values| Test::Claim(path.clone(), values)));
    }
    Ok(match name {
        "source.ip" => check(list, negated, block, Test::SourceIp),
        "remote.ip" => check(list, negated, block, Test::RemoteIp),
        "source.namespace" => check(list, negated, |text| Ok(Glob::new(text)), Test::Namespace),
        "source.serviceAccount" => accounts(list, negated, context),
        "source.trustDomain" => trust_domains(list, negated, context),
        "source.principal" => principals(list, negated, context),
        "request.auth.principal" => check(list, negated, |text| Ok(Caller::new(text)), Test::RequestPrincipal),
        "request.auth.audiences" => check(list, negated, text, Test::Audience),
        "request.auth.presenter" => check(list, negated, text, Test::Presenter),
        "destination.ip" => check(list, negated, block, Test::DestinationIp),
        "destination.port" => check(list, negated, port, Test::Port),
        "connection.sni" => check(list, negated, text, Test::Sni),
        _ if name.starts_with("experimental.envoy.filters.") => {
            return Err("asks for the state of an Envoy filter, and there is no Envoy here".into());
        }
        _ => return Err("is not a key that can be asked for".into()),
    })
}

/// `[name]`
fn one_name(text: &str) -> Result<&str, String> {
    let name = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| "has no name in brackets, such as request.headers[x-name]".into())
}

/// `[a][b]`
fn names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = one_name(text)?.split("][").map(str::to_owned).collect();
    if names.iter().any(|name| name.is_empty() || name.contains(['[', ']'])) {
        return Err("is not as request.auth.claims[a][b]".into());
    }
    Ok(names)
}
