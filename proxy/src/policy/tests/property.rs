//! Generated policies and requests against an evaluator too slow and too plain to be wrong: it walks the YAML itself
//! for every request, and knows nothing of compiled rules.

use super::{Request, workload};
use crate::policy::{Policies, Verdict};
use crate::tls::identity::SpiffeId;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// Exact, `a*`, `*a`, `*`: by letters.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    match pattern.as_slice() {
        ['*'] => !text.is_empty(),
        ['*', rest @ ..] => text.len() >= rest.len() && text[text.len() - rest.len()..] == *rest,
        [rest @ .., '*'] => text.len() >= rest.len() && text[..rest.len()] == *rest,
        all => text == all,
    }
}

/// `cluster.local`, `td` and `old-td` are one.
fn principal_fits(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('/').collect();
    let ours = ["cluster.local", "td", "old-td"];
    if parts.len() == 5 && ours.contains(&parts[0]) {
        return ["td", "old-td"].iter().any(|own| fits(&format!("{own}/{}", parts[1..].join("/")), name));
    }
    fits(pattern, name)
}

/// Address by address, bit by bit; IPv4 only.
fn block_fits(block: &str, address: &str) -> bool {
    let bits = |text: &str| -> String {
        text.split('.').map(|part| format!("{:08b}", part.parse::<u8>().expect("an IPv4 address"))).collect()
    };
    let (network, prefix) = block.split_once('/').unwrap_or((block, "32"));
    let prefix: usize = prefix.parse().expect("a number");
    bits(network)[..prefix] == bits(address)[..prefix]
}

fn template_fits(pattern: &str, path: &str) -> bool {
    if let Some((before, after)) = pattern.split_once("{**}") {
        // Every way to cut the path in three.
        return (0..=path.len())
            .any(|i| (i..=path.len()).any(|j| template_fits_plain(before, &path[..i]) && path[j..] == *after));
    }
    if pattern.contains("{*}") { template_fits_plain(pattern, path) } else { fits(pattern, path) }
}

fn template_fits_plain(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(p, s)| if *p == "{*}" { !s.is_empty() } else { p == s })
}

fn namespace(request: &Request) -> Option<String> {
    request.peer.as_ref().and_then(|peer| peer.namespace()).map(str::to_owned)
}

/// One value against a field. `None`: the field needs HTTP, and there is none.
fn value_fits(field: &str, value: &str, request: &Request, http: bool) -> Option<bool> {
    let peer = request.peer.as_ref();
    let needs_http = !matches!(
        field,
        "principals"
            | "source.principal"
            | "namespaces"
            | "source.namespace"
            | "serviceAccounts"
            | "ipBlocks"
            | "source.ip"
            | "remoteIpBlocks"
            | "ports"
            | "destination.port"
            | "connection.sni"
    );
    if needs_http && !http {
        return None;
    }
    let token = request.token.as_ref();
    Some(match field {
        "principals" | "source.principal" => {
            peer.is_some_and(|peer| principal_fits(value, peer.as_str().trim_start_matches("spiffe://")))
        }
        "namespaces" | "source.namespace" => namespace(request).is_some_and(|namespace| fits(value, &namespace)),
        "serviceAccounts" => {
            let whole = if value.contains('/') { value.to_owned() } else { format!("prod/{value}") };
            let account = peer.and_then(|peer| peer.service_account()).unwrap_or_default();
            namespace(request).is_some_and(|namespace| format!("{namespace}/{account}") == whole)
        }
        "ipBlocks" | "source.ip" => block_fits(value, &request.source_ip),
        "remoteIpBlocks" => block_fits(value, &request.remote_ip),
        "ports" | "destination.port" => value == request.port.to_string(),
        "connection.sni" => fits(value, request.sni.as_deref().unwrap_or_default()),
        "hosts" => fits(&value.to_lowercase(), &request.host.to_lowercase()),
        "methods" => fits(value, &request.method),
        "paths" => template_fits(value, &request.path),
        "requestPrincipals" => token.is_some_and(|token| fits(value, &format!("{}/{}", token.issuer, token.subject))),
        "request.auth.claims[groups]" => token.is_some_and(|token| {
            let groups = &token.claims["groups"];
            let many = groups.as_array().cloned().unwrap_or_else(|| vec![groups.clone()]);
            many.iter().any(|one| fits(value, one.as_str().unwrap()))
        }),
        "request.headers[x-team]" => match request.headers.get("x-team") {
            Some(team) => value == "*" || fits(value, team.to_str().unwrap()),
            None => false,
        },
        other => panic!("{other} is not generated"),
    })
}

/// One field with its list, `not` or not.
fn field_holds(name: &str, list: &Value, request: &Request, http: bool) -> Option<bool> {
    let (field, negated) = match name.strip_prefix("not") {
        Some(rest) => (rest[..1].to_lowercase() + &rest[1..], true),
        None => (name.to_owned(), false),
    };
    let list = list.as_array().unwrap();
    if list.is_empty() {
        return Some(true);
    }
    let mut any = false;
    for value in list {
        any |= value_fits(&field, value.as_str().unwrap(), request, http)?;
    }
    Some(any != negated)
}

fn group_holds(group: &Value, request: &Request, http: bool, missing: &mut bool) -> bool {
    let mut all = true;
    for (name, list) in group.as_object().unwrap() {
        let held = field_holds(name, list, request, http);
        *missing |= held.is_none();
        all &= held.unwrap_or(true);
    }
    all
}

fn rule_holds(rule: &Value, request: &Request, http: bool, allows: bool) -> bool {
    let mut missing = false;
    let mut part = |name: &str, inner: &str| {
        let Some(list) = rule[name].as_array() else { return true };
        let held: Vec<bool> = list.iter().map(|item| group_holds(&item[inner], request, http, &mut missing)).collect();
        held.contains(&true)
    };
    let (from, to) = (part("from", "source"), part("to", "operation"));
    let mut when = true;
    for condition in rule["when"].as_array().into_iter().flatten() {
        let key = condition["key"].as_str().unwrap();
        for (list, negated) in [("values", false), ("notValues", true)] {
            let Some(list) = condition.get(list) else { continue };
            match field_holds(key, list, request, http) {
                Some(held) => when &= held != negated,
                None => missing = true,
            }
        }
    }
    from && to && when && !(allows && missing)
}

fn expected(policies: &[Value], request: &Request, http: bool) -> bool {
    let matched = |action: &str| -> Vec<bool> {
        let mine = policies.iter().filter(|policy| policy["action"] == action);
        let allows = action == "ALLOW";
        let held = |policy: &Value| {
            policy["rules"].as_array().into_iter().flatten().any(|rule| rule_holds(rule, request, http, allows))
        };
        mine.map(held).collect()
    };
    if matched("DENY").contains(&true) {
        return false;
    }
    let allow = matched("ALLOW");
    allow.is_empty() || allow.contains(&true)
}

/// What each field may hold, so that matches are as frequent as misses.
fn values(field: &str) -> Vec<&'static str> {
    match field {
        "principals" | "source.principal" => {
            vec![
                "*",
                "td/ns/prod/sa/a",
                "cluster.local/ns/prod/sa/a",
                "old-td/ns/dev/sa/*",
                "*/sa/b",
                "x/ns/prod/sa/a",
                "td/*",
            ]
        }
        "namespaces" | "source.namespace" => vec!["prod", "dev", "p*", "*v", "*"],
        "serviceAccounts" => vec!["a", "dev/b", "prod/b"],
        "ipBlocks" | "source.ip" | "remoteIpBlocks" => {
            vec!["10.0.0.0/8", "10.1.0.0/15", "10.1.2.3", "0.0.0.0/0", "10.1.2.2/31"]
        }
        "ports" | "destination.port" => vec!["80", "8080"],
        "connection.sni" => vec!["a.b", "a.*", "*.b", "*"],
        "hosts" => vec!["a.test", "A.*", "*.test:80", "*"],
        "methods" => vec!["GET", "P*", "*"],
        "paths" => vec!["/", "/a/b", "/a/*", "*/b", "/{*}", "/a/{*}", "/a/{**}", "/{**}/b", "/{*}/{**}/", "/a/{*}/c"],
        "requestPrincipals" => vec!["*", "iss/ada", "iss/a*", "*/bob"],
        "request.auth.claims[groups]" => vec!["x", "y*", "*"],
        "request.headers[x-team]" => vec!["red", "r*", "*d", "*"],
        other => panic!("{other}"),
    }
}

fn list(field: &'static str) -> impl Strategy<Value = Value> {
    subsequence(values(field), 1..=2).prop_map(|values| json!(values))
}

fn group(fields: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let one = select(fields).prop_flat_map(|field| (Just(field), list(field), any::<bool>()));
    prop::collection::vec(one, 1..=3).prop_map(|chosen| {
        let mut group = Map::new();
        for (field, values, negated) in chosen {
            let name = if negated { format!("not{}{}", field[..1].to_uppercase(), &field[1..]) } else { field.into() };
            group.insert(name, values);
        }
        // Service accounts stand alone beside principals and namespaces.
        if group.keys().any(|name| name.to_lowercase().ends_with("serviceaccounts")) {
            group.retain(|name, _| !name.to_lowercase().ends_with("principals") || name.contains("equest"));
            group.retain(|name, _| !name.to_lowercase().ends_with("namespaces"));
        }
        Value::Object(group)
    })
}

const SOURCE: &[&str] =
    &["principals", "namespaces", "serviceAccounts", "ipBlocks", "remoteIpBlocks", "requestPrincipals"];
const OPERATION: &[&str] = &["hosts", "ports", "methods", "paths"];
const WHEN: &[&str] = &[
    "source.principal",
    "source.namespace",
    "source.ip",
    "destination.port",
    "connection.sni",
    "request.auth.claims[groups]",
    "request.headers[x-team]",
];

fn condition() -> impl Strategy<Value = Value> {
    let parts = select(WHEN).prop_flat_map(|key| (Just(key), list(key), list(key), 0..3));
    parts.prop_map(|(key, values, not_values, which)| match which {
        0 => json!({"key": key, "values": values}),
        1 => json!({"key": key, "notValues": not_values}),
        _ => json!({"key": key, "values": values, "notValues": not_values}),
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let from = prop::option::of(prop::collection::vec(group(SOURCE), 1..3));
    let to = prop::option::of(prop::collection::vec(group(OPERATION), 1..3));
    let when = prop::option::of(prop::collection::vec(condition(), 1..3));
    (from, to, when).prop_map(|(from, to, when)| {
        let mut rule = Map::new();
        let wrap = |name: &str, groups: Vec<Value>| groups.into_iter().map(|group| json!({ name: group })).collect();
        from.map(|groups| rule.insert("from".into(), wrap("source", groups)));
        to.map(|groups| rule.insert("to".into(), wrap("operation", groups)));
        when.map(|conditions| rule.insert("when".into(), Value::Array(conditions)));
        Value::Object(rule)
    })
}

fn policies() -> impl Strategy<Value = Vec<Value>> {
    let one = (select(&["ALLOW", "ALLOW", "DENY"][..]), prop::collection::vec(rule(), 1..3))
        .prop_map(|(action, rules)| json!({"action": action, "rules": rules}));
    prop::collection::vec(one, 0..4)
}

fn request() -> impl Strategy<Value = Request> {
    let peers = [
        None,
        Some("td/ns/prod/sa/a"),
        Some("td/ns/dev/sa/b"),
        Some("old-td/ns/dev/sa/b"),
        Some("x/ns/prod/sa/a"),
        Some("td"),
    ];
    let connection = (select(peers.to_vec()), select(&["10.1.2.3", "10.9.0.1", "192.0.2.1"][..]), any::<bool>());
    let head = (
        select(&["GET", "POST", "PUT"][..]),
        select(&["a.test", "A.Test:80", "b"][..]),
        select(&["/", "/a", "/a/b", "/a/b/", "/a/b/c", "/b", "/a//b", "/x/y/"][..]),
        select(&[None, Some("red"), Some("bad")][..]),
        select(&[None, Some("ada"), Some("bob")][..]),
    );
    (connection, head).prop_map(|((peer, ip, other), (method, host, path, team, subject))| {
        let mut request = Request::base();
        request.peer = peer.map(|peer| SpiffeId::parse(&format!("spiffe://{peer}")).unwrap());
        request.source_ip = ip.into();
        request.remote_ip = if other { "10.1.2.2".into() } else { ip.into() };
        request.port = if other { 80 } else { 8080 };
        request.sni = other.then(|| "a.b".into());
        (request.method, request.host, request.path) = (method.into(), host.into(), path.into());
        request.headers.clear();
        team.map(|team| request.headers.insert("x-team", team.parse().unwrap()));
        request.token = subject.map(|subject| {
            let claims =
                json!({"iss": "iss", "sub": subject, "groups": if other { json!(["x", "yy"]) } else { json!("x") }});
            crate::policy::RequestPrincipal::of(std::sync::Arc::new(claims), 0)
        });
        request
    })
}

proptest! {
    #[test]
    fn is_it_what_the_slow_evaluator_says(specs in policies(), requests in prop::collection::vec(request(), 1..8)) {
        let files: Vec<(String, String)> = specs.iter().enumerate().map(|(i, spec)| {
            let document = json!({
                "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"name": format!("p{i}"), "namespace": "prod"}, "spec": spec,
            });
            (format!("{i}.yaml"), document.to_string())
        }).collect();
        let policies = Policies::parse(&files, &workload());
        prop_assert!(policies.is_ok(), "{:?}", policies.err());
        let policies = policies.unwrap();
        for request in &requests {
            let http = policies.evaluate(&request.attributes()).verdict;
            prop_assert_eq!(matches!(http, Verdict::Allow(_)), expected(&specs, request, true));
            let plain = policies.evaluate_connection(&request.connection()).verdict;
            prop_assert_eq!(matches!(plain, Verdict::Allow(_)), expected(&specs, request, false));
        }
    }

    #[test]
    fn does_no_text_make_it_panic(text in ".{0,300}", pattern in "[a/*{}]{0,12}", path in "/[a/*{}]{0,12}") {
        let _ = super::parse(&text);
        let _ = super::parse(&super::policy("p", &text));
        let spec = json!({"rules": [{"to": [{"operation": {"paths": [pattern.as_str()]}}]}]}).to_string();
        if let Ok(policies) = super::parse(&super::policy("p", &spec)) {
            let request = Request { path, ..Request::base() };
            let allowed = policies.evaluate(&request.attributes()).verdict.is_allow();
            let valid = template_fits(&pattern, &request.path);
            prop_assert_eq!(allowed, valid, "{} {}", pattern, request.path);
        }
    }
}
