//! One rule against one request: every field, every pattern, every negation, under every action.

use super::{Request, parse, policy};
use crate::policy::Verdict;
use crate::tls::identity::SpiffeId;

/// Whether one rule matches, asked of all four actions, which must agree.
#[track_caller]
fn matches(rule: &str, request: &Request) -> bool {
    let all = [
        policy("a", &format!("{{action: AUDIT, rules: [{rule}]}}")),
        policy("c", &format!("{{action: CUSTOM, provider: {{name: opa}}, rules: [{rule}]}}")),
        policy("l", &format!("{{rules: [{rule}]}}")),
    ];
    let policies = parse(&all.concat()).unwrap_or_else(|problems| panic!("{rule}: {problems:?}"));
    let decision = policies.evaluate(&request.attributes());
    let allowed = decision.verdict.is_allow();
    let deny = parse(&policy("d", &format!("{{action: DENY, rules: [{rule}]}}"))).unwrap();
    assert_eq!(!deny.evaluate(&request.attributes()).verdict.is_allow(), allowed, "DENY {rule}");
    assert_eq!(!decision.audited.is_empty(), allowed, "AUDIT {rule}");
    assert_eq!(policies.needs_custom(&request.attributes()).len() == 1, allowed, "CUSTOM {rule}");
    allowed
}

fn source(field: &str) -> String {
    format!("{{from: [{{source: {{{field}}}}}]}}")
}

fn operation(field: &str) -> String {
    format!("{{to: [{{operation: {{{field}}}}}]}}")
}

fn when(key: &str, field: &str) -> String {
    format!("{{when: [{{key: \"{key}\", {field}}}]}}")
}

#[test]
fn which_sources_match() {
    let cases = [
        ("principals: [td/ns/prod/sa/gateway]", true),
        ("principals: [cluster.local/ns/prod/sa/gateway]", true),
        ("principals: [old-td/ns/prod/sa/gateway]", true),
        ("principals: [other/ns/prod/sa/gateway]", false),
        ("principals: [td/ns/prod/sa/gatewa]", false),
        ("principals: [TD/ns/prod/sa/gateway]", false),
        ("principals: [td/ns/prod/*]", true),
        ("principals: [cluster.local/ns/prod/sa/*]", true),
        ("principals: [\"*/sa/gateway\"]", true),
        ("principals: [\"*/ns/prod/sa/gateway\"]", true),
        ("principals: [\"*\"]", true),
        ("principals: [x, td/ns/prod/sa/gateway]", true),
        ("notPrincipals: [td/ns/prod/sa/gateway]", false),
        ("notPrincipals: [cluster.local/ns/prod/sa/gateway]", false),
        ("notPrincipals: [td/ns/other/*]", true),
        ("principals: [td/*], notPrincipals: [td/ns/prod/sa/other]", true),
        ("principals: [td/*], notPrincipals: [\"*gateway\"]", false),
        ("namespaces: [prod]", true),
        ("namespaces: [\"pr*\"]", true),
        ("namespaces: [\"*od\"]", true),
        ("namespaces: [\"p*d\"]", true),
        ("namespaces: [\"*\"]", true),
        ("namespaces: [\"*gateway\"]", false),
        ("namespaces: [\"*sa\"]", false),
        ("namespaces: [pro]", false),
        ("notNamespaces: [prod, x]", false),
        ("notNamespaces: [x]", true),
        ("serviceAccounts: [gateway]", true),
        ("serviceAccounts: [prod/gateway]", true),
        ("serviceAccounts: [other/gateway]", false),
        ("serviceAccounts: [prod/gate]", false),
        ("notServiceAccounts: [gateway]", false),
        ("trustDomains: [td]", true),
        ("trustDomains: [cluster.local]", true),
        ("trustDomains: [\"t*\"]", true),
        ("trustDomains: [other]", false),
        ("notTrustDomains: [other]", true),
        ("notTrustDomains: [cluster.local]", false),
        ("requestPrincipals: [https://issuer.test/realms/x/ada]", true),
        ("requestPrincipals: [https://issuer.test/realms/x/*]", true),
        ("requestPrincipals: [https://issuer.test/realms/x/ad*]", true),
        ("requestPrincipals: [https://issuer.test/realms/*]", false),
        ("requestPrincipals: [\"*/ada\"]", true),
        ("requestPrincipals: [\"*/x/ada\"]", true),
        ("requestPrincipals: [\"*da\"]", true),
        ("requestPrincipals: [\"*/bob\"]", false),
        ("requestPrincipals: [\"*\"]", true),
        ("requestPrincipals: [https://issuer.test/realms/x]", false),
        ("notRequestPrincipals: [\"*\"]", false),
        ("notRequestPrincipals: [\"*/bob\"]", true),
        ("ipBlocks: [10.1.2.3]", true),
        ("ipBlocks: [10.0.0.0/8]", true),
        ("ipBlocks: [10.255.255.255/8]", true),
        ("ipBlocks: [10.1.2.0/31]", false),
        ("ipBlocks: [\"::/0\"]", false),
        ("ipBlocks: [\"::ffff:10.0.0.0/104\"]", true),
        ("ipBlocks: [0.0.0.0/0]", true),
        ("ipBlocks: [203.0.113.9]", false),
        ("notIpBlocks: [10.0.0.0/8]", false),
        ("remoteIpBlocks: [203.0.113.0/24]", true),
        ("notRemoteIpBlocks: [10.0.0.0/8]", true),
        ("principals: [], namespaces: [prod]", true),
        ("principals: null, namespaces: [prod]", true),
        ("namespaces: [prod], ipBlocks: [11.0.0.0/8]", false),
    ];
    let request = Request::base();
    for (field, expected) in cases {
        assert_eq!(matches(&source(field), &request), expected, "{field}");
    }
}

#[test]
fn which_operations_match() {
    let cases = [
        ("hosts: [\"model.prod:8080\"]", true),
        ("hosts: [\"MODEL.PROD:8080\"]", true),
        ("hosts: [model.prod]", false),
        ("hosts: [\"model.prod:*\"]", true),
        ("hosts: [\"model.prod*\"]", true),
        ("hosts: [\"*.PROD:8080\"]", true),
        ("hosts: [\"*\"]", true),
        ("notHosts: [\"*.prod:8080\"]", false),
        ("ports: [\"8080\"]", true),
        ("ports: [\"80\", \"8080\"]", true),
        ("ports: [\"80\"]", false),
        ("notPorts: [\"8080\"]", false),
        ("methods: [POST]", true),
        ("methods: [post]", false),
        ("methods: [GET, \"P*\"]", true),
        ("methods: [\"*\"]", true),
        ("notMethods: [GET]", true),
        ("paths: [/v1/chat/completions]", true),
        ("paths: [/v1/chat/completions/]", false),
        ("paths: [/v1/*]", true),
        ("paths: [\"*/completions\"]", true),
        ("paths: [\"*\"]", true),
        ("paths: [/V1/*]", false),
        ("paths: [\"/v1/{*}/completions\"]", true),
        ("paths: [\"/v1/{*}\"]", false),
        ("paths: [\"/{**}\"]", true),
        ("paths: [\"/v1/{**}/completions\"]", true),
        ("paths: [\"/{*}/chat/{**}\"]", true),
        ("paths: [\"/v2/{**}\"]", false),
        ("notPaths: [/v1/*]", false),
        ("notPaths: [\"/v1/{*}\"]", true),
        ("methods: [POST], paths: [/v1/*], notPaths: [/v1/models]", true),
        ("methods: [GET], paths: [/v1/*]", false),
    ];
    let request = Request::base();
    for (field, expected) in cases {
        assert_eq!(matches(&operation(field), &request), expected, "{field}");
    }
}

#[test]
fn which_conditions_match() {
    let cases = [
        ("request.headers[x-team]", "values: [red-1]", true),
        ("request.headers[X-Team]", "values: [\"red*\"]", true),
        ("request.headers[x-team]", "values: [\"*\"]", true),
        ("request.headers[x-team]", "values: [red]", false),
        ("request.headers[x-team]", "notValues: [\"red*\"]", false),
        ("request.headers[x-many]", "values: [\"a,b\"]", true),
        ("request.headers[x-many]", "values: [a]", false),
        ("request.headers[x-empty]", "values: [\"*\"]", true),
        ("request.headers[x-absent]", "values: [\"*\"]", false),
        ("request.headers[x-absent]", "notValues: [\"*\"]", true),
        ("request.headers[host]", "values: [\"model.prod:8080\"]", true),
        ("source.ip", "values: [10.1.0.0/16]", true),
        ("source.ip", "values: [10.1.0.0/16], notValues: [10.1.2.3]", false),
        ("remote.ip", "values: [203.0.113.9]", true),
        ("source.namespace", "values: [prod]", true),
        ("source.serviceAccount", "values: [prod/gateway]", true),
        ("source.trustDomain", "notValues: [td]", false),
        ("source.principal", "values: [cluster.local/ns/prod/sa/gateway]", true),
        ("source.principal", "notValues: [cluster.local/ns/prod/sa/gateway]", false),
        ("request.auth.principal", "values: [https://issuer.test/realms/x/ada]", true),
        ("request.auth.audiences", "values: [other]", true),
        ("request.auth.audiences", "values: [\"ap*\"]", true),
        ("request.auth.audiences", "notValues: [api]", false),
        ("request.auth.presenter", "values: [web]", true),
        ("request.auth.presenter", "values: [app]", false),
        ("request.auth.claims[role]", "values: [admin]", true),
        ("request.auth.claims[role]", "values: [\"*\"]", true),
        ("request.auth.claims[role]", "values: [Admin]", false),
        ("request.auth.claims[groups]", "values: [b, c]", true),
        ("request.auth.claims[groups]", "notValues: [b]", false),
        ("request.auth.claims[nested][level]", "values: [high]", true),
        ("request.auth.claims[nested][deep][er]", "values: [x]", true),
        ("request.auth.claims[nested]", "values: [\"*\"]", false),
        ("request.auth.claims[nested][absent]", "values: [\"*\"]", false),
        ("request.auth.claims[absent]", "notValues: [x]", true),
        ("request.auth.claims[number]", "values: [\"7\"]", false),
        ("request.auth.claims[flag]", "values: [\"true\"]", false),
        ("request.auth.claims[https://names.test/kind]", "values: [robot]", true),
        ("destination.ip", "values: [10.0.0.1]", true),
        ("destination.port", "values: [\"8080\"]", true),
        ("destination.port", "notValues: [\"8080\"]", false),
        ("connection.sni", "values: [\"*.prod.svc\"]", true),
        ("connection.sni", "values: [other]", false),
    ];
    let request = Request::base();
    for (key, field, expected) in cases {
        assert_eq!(matches(&when(key, field), &request), expected, "{key} {field}");
    }
}

#[test]
fn how_do_parts_of_a_rule_join() {
    let (yes, no) = ("source: {namespaces: [prod]}", "source: {namespaces: [x]}");
    let (post, get) = ("operation: {methods: [POST]}", "operation: {methods: [GET]}");
    let red = "{key: \"request.headers[x-team]\", values: [red-1]}";
    let blue = "{key: \"request.headers[x-team]\", values: [blue]}";
    let cases = [
        ("{}".to_owned(), true),
        (format!("{{from: [{{{no}}}, {{{yes}}}]}}"), true),
        (format!("{{from: [{{{no}}}]}}"), false),
        (format!("{{from: [{{{yes}}}], to: [{{{get}}}]}}"), false),
        (format!("{{from: [{{{yes}}}], to: [{{{get}}}, {{{post}}}]}}"), true),
        (format!("{{to: [{{{post}}}], when: [{red}]}}"), true),
        (format!("{{when: [{red}, {blue}]}}"), false),
        (format!("{{from: null, to: [{{{post}}}], when: null}}"), true),
        (format!("{{from: [{{{no}}}]}}, {{to: [{{{post}}}]}}"), true),
    ];
    for (rule, expected) in cases {
        assert_eq!(matches(&rule, &Request::base()), expected, "{rule}");
    }
}

#[test]
fn what_matches_a_stranger() {
    let stranger = Request {
        peer: None,
        token: None,
        sni: None,
        remote_ip: "::1".into(),
        source_ip: "::ffff:10.1.2.3".into(),
        ..Request::base()
    };
    let cases = [
        (source("principals: [\"*\"]"), false),
        (source("notPrincipals: [\"*\"]"), true),
        (source("namespaces: [\"*\"]"), false),
        (source("notNamespaces: [prod]"), true),
        (source("serviceAccounts: [gateway]"), false),
        (source("trustDomains: [\"*\"]"), false),
        (source("requestPrincipals: [\"*\"]"), false),
        (source("notRequestPrincipals: [\"*\"]"), true),
        (when("request.auth.claims[role]", "values: [\"*\"]"), false),
        (when("request.auth.claims[role]", "notValues: [admin]"), true),
        (when("request.auth.audiences", "values: [\"*\"]"), false),
        (when("connection.sni", "values: [\"*\"]"), false),
        (source("ipBlocks: [10.1.2.0/24]"), true),
        (source("remoteIpBlocks: [\"::/127\"]"), true),
        (source("remoteIpBlocks: [0.0.0.0/0]"), false),
    ];
    for (rule, expected) in cases {
        assert_eq!(matches(&rule, &stranger), expected, "{rule}");
    }
}

#[test]
fn what_matches_names_of_other_shapes() {
    let with = |id: &str| Request { peer: Some(SpiffeId::parse(id).unwrap()), ..Request::base() };
    let cases = [
        ("spiffe://td/region/eu/ns/prod/sa/gateway", "namespaces: [prod]", true),
        ("spiffe://td/region/eu/ns/prod/pod/x/sa/gateway/v/1", "serviceAccounts: [prod/gateway]", true),
        ("spiffe://td/ns/prod", "namespaces: [prod]", false),
        ("spiffe://td/sa/gateway/ns/prod/x/y", "serviceAccounts: [prod/gateway]", false),
        ("spiffe://td", "principals: [td]", true),
        ("spiffe://td", "namespaces: [\"*\"]", false),
    ];
    for (id, field, expected) in cases {
        assert_eq!(matches(&source(field), &with(id)), expected, "{id} {field}");
    }
    let mut nobody = Request::base();
    nobody.token.as_mut().unwrap().subject = String::new();
    for pattern in ["*", "https://issuer.test/realms/x/*", "https://issuer.test/realms/x/"] {
        assert!(!matches(&source(&format!("requestPrincipals: [\"{pattern}\"]")), &nobody), "{pattern}");
    }
}

#[test]
fn which_paths_a_template_matches() {
    let cases = [
        ("/foo/{*}", &["/foo/bar"][..], &["/foo", "/foo/", "/foo/bar/baz", "/foo/bar/", "/fo/bar"][..]),
        ("/foo/{**}/", &["/foo/bar/", "/foo/bar/baz.txt/", "/foo//"], &["/foo/bar", "/foo/", "/foo"]),
        ("/foo/{*}/bar/{**}", &["/foo/buzz/bar/", "/foo/buzz/bar/baz"], &["/foo/bar/baz", "/foo/buzz/bar"]),
        ("/{**}/cart", &["/a/cart", "/a/b/cart", "//cart"], &["/cart", "/a/cart/", "/acart"]),
        ("/{*}", &["/a"], &["/", "/a/b"]),
    ];
    for (pattern, good, bad) in cases {
        let rule = operation(&format!("paths: [\"{pattern}\"]"));
        for (paths, expected) in [(good, true), (bad, false)] {
            for path in paths {
                let request = Request { path: (*path).into(), ..Request::base() };
                assert_eq!(matches(&rule, &request), expected, "{pattern} {path}");
            }
        }
    }
}

#[test]
fn what_matches_a_connection_without_http() {
    let cases = [
        // (rule, an ALLOW policy allows, a DENY policy denies)
        ("{}".to_owned(), true, true),
        (source("namespaces: [prod]"), true, true),
        (source("namespaces: [x]"), false, false),
        (source("notPrincipals: [td/*]"), false, false),
        (operation("ports: [\"8080\"]"), true, true),
        (operation("methods: [GET]"), false, true),
        (operation("notMethods: [GET]"), false, true),
        (operation("ports: [\"8080\"], methods: [GET]"), false, true),
        (operation("ports: [\"80\"], methods: [GET]"), false, false),
        (operation("paths: [/x]"), false, true),
        (operation("hosts: [x]"), false, true),
        (source("requestPrincipals: [\"*\"]"), false, true),
        (source("notRequestPrincipals: [\"*\"]"), false, true),
        (when("request.headers[x]", "values: [y]"), false, true),
        (when("request.auth.claims[x]", "notValues: [y]"), false, true),
        (when("request.headers[host]", "values: [y]"), false, true),
        (when("connection.sni", "values: [model.prod.svc]"), true, true),
        (when("destination.ip", "values: [10.0.0.2]"), false, false),
        ("{to: [{operation: {ports: [\"8080\"]}}, {operation: {methods: [GET]}}]}".to_owned(), false, true),
    ];
    let request = Request::base();
    for (rule, allows, denies) in cases {
        let allow = parse(&policy("l", &format!("{{rules: [{rule}]}}"))).unwrap();
        let deny = parse(&policy("d", &format!("{{action: DENY, rules: [{rule}]}}"))).unwrap();
        let custom =
            parse(&policy("c", &format!("{{action: CUSTOM, provider: {{name: p}}, rules: [{rule}]}}"))).unwrap();
        assert_eq!(allow.evaluate_connection(&request.connection()).verdict.is_allow(), allows, "ALLOW {rule}");
        assert_eq!(!deny.evaluate_connection(&request.connection()).verdict.is_allow(), denies, "DENY {rule}");
        assert_eq!(custom.connection_needs_custom(&request.connection()).len() == 1, denies, "CUSTOM {rule}");
    }
}

#[test]
fn who_speaks_first() {
    let mine = "{from: [{source: {namespaces: [prod]}}]}";
    let other = "{from: [{source: {namespaces: [x]}}]}";
    let allow = |rules: &str| policy("allow", &format!("{{action: ALLOW, rules: [{rules}]}}"));
    let deny = |rules: &str| policy("deny", &format!("{{action: DENY, rules: [{rules}]}}"));
    let nothing = policy("nothing", "{}");
    let cases = [
        (String::new(), "allow"),
        (allow(mine), "allow prod/allow rules[0]"),
        (allow(&format!("{other}, {mine}")), "allow prod/allow rules[1]"),
        (allow(other), "deny"),
        (deny(mine), "deny prod/deny rules[0]"),
        (deny(other), "allow"),
        (allow(mine) + &deny(mine), "deny prod/deny rules[0]"),
        (allow(mine) + &deny(other), "allow prod/allow rules[0]"),
        (nothing.clone(), "deny"),
        (nothing + &allow(mine), "allow prod/allow rules[0]"),
        (policy("none", "{action: ALLOW, rules: []}"), "deny"),
        (policy("void", "{action: ALLOW, rules: null}"), "deny"),
        (policy("all", "{action: ALLOW, rules: [{}]}"), "allow prod/all rules[0]"),
        (policy("nospec", "null"), "deny"),
        (policy("audit", "{action: AUDIT, rules: [{}]}"), "allow"),
        (policy("audit", "{action: AUDIT}"), "allow"),
    ];
    for (text, expected) in cases {
        let policies = parse(&text).unwrap();
        let words = match policies.evaluate(&Request::base().attributes()).verdict {
            Verdict::Allow(hit) => format!("allow {}", hit.map(|hit| hit.to_string()).unwrap_or_default()),
            Verdict::Deny(hit) => format!("deny {}", hit.map(|hit| hit.to_string()).unwrap_or_default()),
        };
        assert_eq!(words.trim_end(), expected, "{text}");
    }
}

#[test]
fn which_external_authorizers_are_asked() {
    let custom = |name: &str, provider: &str, rules: &str| {
        policy(name, &format!("{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{rules}]}}"))
    };
    let text = custom("b", "opa", "{}")
        + &custom("a", "opa", "{}")
        + &custom("c", "other", "{}")
        + &custom("d", "never", "{to: [{operation: {methods: [GET]}}]}");
    let asked = parse(&text).unwrap().needs_custom(&Request::base().attributes());
    let words: Vec<String> = asked.iter().map(|custom| format!("{} for {}", custom.provider, custom.hit)).collect();
    assert_eq!(words, ["opa for prod/a rules[0]", "other for prod/c rules[0]"]);
}

#[test]
fn what_would_dry_runs_have_done() {
    let dry = |name: &str, spec: &str| {
        policy(name, spec).replace("namespace: prod", "namespace: prod, annotations: {istio.io/dry-run: \"true\"}")
    };
    let get = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    let cases = [
        (dry("d", "{action: DENY, rules: [{}]}"), vec!["prod/d denies Some(0)"]),
        (dry("d", &format!("{{action: DENY, {get}}}")), vec![]),
        (dry("l", "{rules: [{}]}"), vec!["prod/l allows Some(0)"]),
        (dry("l", &format!("{{{get}}}")), vec!["prod/l denies None"]),
        (dry("l", &format!("{{{get}}}")) + &policy("real", "{rules: [{}]}"), vec![]),
        (dry("l", &format!("{{{get}}}")) + &dry("m", "{rules: [{}]}"), vec!["prod/m allows Some(0)"]),
        (dry("x", "{action: AUDIT, rules: [{}]}"), vec![]),
        (dry("x", "{action: CUSTOM, provider: {name: p}, rules: [{}]}"), vec![]),
    ];
    for (text, expected) in cases {
        let policies = parse(&text).unwrap();
        let decision = policies.evaluate(&Request::base().attributes());
        assert!(decision.verdict.is_allow() && decision.audited.is_empty(), "{text}");
        assert!(policies.needs_custom(&Request::base().attributes()).is_empty());
        let words: Vec<String> = decision
            .shadow
            .iter()
            .map(|s| format!("{} {} {:?}", s.policy, if s.allows { "allows" } else { "denies" }, s.rule))
            .collect();
        assert_eq!(words, expected, "{text}");
    }
}
