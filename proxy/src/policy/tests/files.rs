//! Which documents apply to whom, and what is wrong with the others.

use super::{Request, parse, policy, workload};
use crate::auth::credential::Location;
use crate::policy::{KeySource, PeerMode, Policies};

fn document(kind: &str, metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {spec}\n")
}

#[test]
fn which_policies_apply_to_the_workload() {
    let deny = "action: DENY, rules: [{}]";
    let cases = [
        ("name: a, namespace: prod", "", true),
        ("name: a", "", true),
        ("name: a, namespace: istio-system", "", true),
        ("name: a, namespace: other", "", false),
        ("name: a, namespace: prod", "selector: {matchLabels: {app: model}}, ", true),
        ("name: a, namespace: prod", "selector: {matchLabels: {app: model, tier: gpu}}, ", true),
        ("name: a, namespace: prod", "selector: {matchLabels: {app: model, tier: cpu}}, ", false),
        ("name: a, namespace: prod", "selector: {matchLabels: {absent: x}}, ", false),
        ("name: a, namespace: istio-system", "selector: {matchLabels: {app: model}}, ", true),
        ("name: a, namespace: istio-system", "selector: {matchLabels: {app: x}}, ", false),
        ("name: a, namespace: other", "selector: {matchLabels: {app: model}}, ", false),
        ("name: a, namespace: prod", "selector: {matchLabels: {}}, ", true),
        ("name: a, namespace: prod", "selector: {}, ", true),
        ("name: a, namespace: prod", "targetRefs: [{kind: Gateway, name: g}], ", false),
        ("name: a, namespace: prod", "targetRef: {kind: Gateway, name: g}, ", false),
    ];
    for (metadata, selector, expected) in cases {
        let text = document("AuthorizationPolicy", metadata, &format!("{{{selector}{deny}}}"));
        let policies = parse(&text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_eq!(!policies.evaluate(&Request::base().attributes()).verdict.is_allow(), expected, "{text}");
        assert_eq!(policies.count(), usize::from(expected), "{text}");
        assert_eq!(policies.notes().len(), usize::from(selector.starts_with("target")), "{text}");
    }
}

#[test]
fn which_mode_has_a_port() {
    use PeerMode::*;
    let peer = |metadata: &str, spec: &str| document("PeerAuthentication", metadata, spec);
    let root = |mode: &str| peer("name: root, namespace: istio-system", &format!("{{mtls: {{mode: {mode}}}}}"));
    let namespace = |mode: &str| peer("name: ns, namespace: prod", &format!("{{mtls: {{mode: {mode}}}}}"));
    let own = |more: &str| {
        peer("name: own, namespace: prod", &format!("{{selector: {{matchLabels: {{app: model}}}}, {more}}}"))
    };
    let cases = [
        (String::new(), [None, None]),
        (root("STRICT"), [Some(Strict), Some(Strict)]),
        (root("UNSET"), [None, None]),
        (root("STRICT") + &namespace("PERMISSIVE"), [Some(Permissive), Some(Permissive)]),
        (root("STRICT") + &namespace("UNSET"), [Some(Strict), Some(Strict)]),
        (namespace("STRICT") + &own("mtls: {mode: DISABLE}"), [Some(Disable), Some(Disable)]),
        (namespace("STRICT") + &own("mtls: {}"), [Some(Strict), Some(Strict)]),
        (own("mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}"), [Some(Disable), Some(Strict)]),
        (own("portLevelMtls: {\"8080\": {mode: STRICT}}"), [Some(Strict), None]),
        (namespace("STRICT") + &own("portLevelMtls: {8080: {mode: UNSET}}"), [Some(Strict), Some(Strict)]),
        (peer("name: o, namespace: other", "{mtls: {mode: STRICT}}"), [None, None]),
        (peer("name: o, namespace: prod", "{selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}"), [None, None]),
        (
            peer("name: o, namespace: istio-system", "{selector: {matchLabels: {app: model}}, mtls: {mode: STRICT}}"),
            [None, None],
        ),
        (
            peer("name: a, namespace: prod, creationTimestamp: 2026-02-01T00:00:00Z", "{mtls: {mode: STRICT}}")
                + &peer("name: b, namespace: prod, creationTimestamp: 2026-01-01T00:00:00Z", "{mtls: {mode: DISABLE}}")
                + &peer("name: c, namespace: prod", "{mtls: {mode: PERMISSIVE}}"),
            [Some(Disable), Some(Disable)],
        ),
    ];
    for (text, expected) in cases {
        let policies = parse(&text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_eq!([policies.peer_mode(8080), policies.peer_mode(9090)], expected, "{text}");
    }
}

#[test]
fn what_is_read_of_a_request_authentication() {
    let spec = "{selector: {matchLabels: {app: model}}, jwtRules: [
        {issuer: https://a.test, audiences: [x], jwksUri: https://a.test/keys, fromHeaders: [{name: X-Jwt, prefix: 'T '}],
         fromParams: [t], fromCookies: [c], outputPayloadToHeader: X-Payload, forwardOriginalToken: true, timeout: 200ms,
         outputClaimToHeaders: [{header: x-role, claim: nested.role}], spaceDelimitedClaims: [groups]},
        {issuer: b, jwks: '{}'}, {issuer: https://c.test/}]}";
    let policies = parse(&document("RequestAuthentication", "name: r, namespace: prod", spec)).unwrap();
    let [a, b, c] = policies.jwt_rules() else { panic!("three rules") };
    assert_eq!((&*a.policy, a.index, a.issuer.as_str(), a.forward), ("prod/r", 0, "https://a.test", true));
    assert_eq!(a.keys, KeySource::Uri("https://a.test/keys".into()));
    let header = Location::Header("x-jwt".parse().unwrap(), "T ".into());
    assert_eq!(a.locations, [header, Location::Parameter("t".into()), Location::Cookie("c".into())]);
    assert_eq!(a.claim_headers, [("x-role".parse().unwrap(), vec!["nested".to_owned(), "role".to_owned()])]);
    assert_eq!((a.timeout.as_millis(), a.space_delimited_claims.len()), (200, 1));
    assert_eq!(b.keys, KeySource::Inline("{}".into()));
    assert_eq!(b.locations, [Location::Bearer, Location::Parameter("access_token".into())]);
    assert_eq!((c.keys.clone(), c.index), (KeySource::Discovery("https://c.test/".into()), 2));
    let elsewhere =
        document("RequestAuthentication", "name: r, namespace: other", "{jwtRules: [{issuer: b, jwks: '{}'}]}");
    assert!(parse(&elsewhere).unwrap().jwt_rules().is_empty());
}

#[test]
fn which_documents_are_not_ours() {
    let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n---\n---\n# nothing\n";
    let linkerd = "---\napiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nspec: {anything: x}\n";
    let text = format!("{config_map}{linkerd}{}", policy("d", "{action: DENY, rules: [{}]}"));
    let policies = parse(&text).unwrap();
    assert_eq!((policies.count(), policies.notes().len()), (1, 2), "{:?}", policies.notes());
    let beta = policy("d", "{action: DENY, rules: [{}]}").replace("/v1", "/v1beta1");
    assert_eq!(parse(&beta).unwrap().count(), 1);
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: security.istio.io/v1\n  kind: AuthorizationPolicy\n  \
         metadata: {name: x, namespace: prod, resourceVersion: \"7\"}\n  spec: {action: DENY, rules: [{}]}\n";
    assert_eq!(parse(list).unwrap().count(), 1);
    assert_eq!(Policies::parse(&[], &workload()).unwrap().count(), 0);
}

#[test]
fn what_is_wrong_and_where() {
    let source = |fields: &str| policy("p", &format!("{{rules: [{{from: [{{source: {{{fields}}}}}]}}]}}"));
    let operation = |fields: &str| policy("p", &format!("{{rules: [{{to: [{{operation: {{{fields}}}}}]}}]}}"));
    let when = |fields: &str| policy("p", &format!("{{rules: [{{when: [{{{fields}}}]}}]}}"));
    let peer = |spec: &str| document("PeerAuthentication", "name: p, namespace: prod", spec);
    let request = |rule: &str| {
        document("RequestAuthentication", "name: p, namespace: prod", &format!("{{jwtRules: [{{{rule}}}]}}"))
    };
    let cases = [
        (policy("p", "{rule: [{}]}"), "spec.rule: is not a field here"),
        (policy("p", "{action: ALOW, rules: [{}]}"), "spec.action: is none of"),
        (policy("p", "{action: DENY}"), "spec.action: DENY without rules"),
        (policy("p", "{action: DENY, rules: []}"), "spec.action: DENY without rules"),
        (policy("p", "{action: CUSTOM, rules: [{}]}"), "spec.action: CUSTOM needs"),
        (policy("p", "{action: CUSTOM, provider: {}, rules: [{}]}"), "spec.provider: has no name"),
        (policy("p", "{provider: {name: x}, rules: [{}]}"), "spec.provider: belongs to action CUSTOM"),
        (policy("p", "{rules: {}}"), "spec.rules: is not a list"),
        (policy("p", "{rules: [null]}"), "spec.rules[0]: is not an object"),
        (policy("p", "{rules: [{form: []}]}"), "spec.rules[0].form: is not a field here"),
        (policy("p", "{rules: [{from: []}]}"), "spec.rules[0].from: is empty"),
        (policy("p", "{rules: [{to: []}]}"), "spec.rules[0].to: is empty"),
        (policy("p", "{rules: [{from: [{}]}]}"), "spec.rules[0].from[0]: has no `source`"),
        (policy("p", "{rules: [{to: [{operation: {}}]}]}"), "spec.rules[0].to[0].operation: asks for nothing"),
        (policy("p", "{rules: [{from: [{sauce: {}}]}]}"), "spec.rules[0].from[0].sauce: is not a field here"),
        (source("principals: []"), "source: asks for nothing"),
        (source("principal: [a]"), "source.principal: is not a field here"),
        (source("principals: a"), "source.principals: is not a list"),
        (source("principals: [\"\"]"), "source.principals[0]: is empty"),
        (source("principals: [spiffe://td/x]"), "source.principals[0]: leave `spiffe://` off"),
        (source("ipBlocks: [10.0.0.0/33]"), "source.ipBlocks[0]: is neither an address"),
        (source("ipBlocks: [10.0.0.0/+8]"), "source.ipBlocks[0]: is neither an address"),
        (source("remoteIpBlocks: [host]"), "source.remoteIpBlocks[0]: is neither an address"),
        (source("serviceAccounts: [\"a/*\"]"), "source.serviceAccounts[0]: is not `<service account>`"),
        (source("serviceAccounts: [a], namespaces: [b]"), "source: names service accounts beside"),
        (operation("ports: [8080]"), "operation.ports[0]: is not text; put it in quotes"),
        (operation("ports: [\"0\"]"), "operation.ports[0]: is not a port"),
        (operation("ports: [\"http\"]"), "operation.ports[0]: is not a port"),
        (operation("paths: [\"/a{*}\"]"), "operation.paths[0]: in a path template"),
        (operation("paths: [\"/{**}/{*}\"]"), "operation.paths[0]: no operator may follow"),
        (operation("paths: [\"a/{*}\"]"), "operation.paths[0]: a path template begins with a slash"),
        (operation("paths: [\"/*/{*}\"]"), "operation.paths[0]: in a path template"),
        (when("key: source.up, values: [a]"), "when[0].key: is not a key"),
        (when("key: source.ip"), "when[0]: has neither values nor notValues"),
        (when("values: [a]"), "when[0]: has no key"),
        (when("key: source.ip, values: [x]"), "when[0].values[0]: is neither an address"),
        (when("key: destination.port, notValues: [x]"), "when[0].notValues[0]: is not a port"),
        (when("key: \"request.headers[]\", values: [x]"), "when[0].key: has no name in brackets"),
        (when("key: \"request.headers[:path]\", values: [x]"), "when[0].key: names no header"),
        (when("key: request.headers, values: [x]"), "when[0].key: has no name in brackets"),
        (when("key: \"request.auth.claims[a][]\", values: [x]"), "when[0].key: is not as request.auth.claims[a][b]"),
        (when("key: experimental.envoy.filters.x, values: [x]"), "when[0].key: asks for the state of an Envoy filter"),
        (policy("p", "{selector: {matchLabel: {}}}"), "spec.selector.matchLabel: is not a field here"),
        (policy("p", "{selector: {matchLabels: {a: 1}}}"), "spec.selector.matchLabels.a: is not text"),
        (policy("p", "{selector: {}, targetRefs: []}"), "spec.targetRefs: stands beside a selector"),
        (policy("p", "{}").replace("spec:", "sepc:"), "sepc: is not a field here"),
        (policy("p", "{}").replace("name: p, ", ""), "has no metadata.name"),
        (
            policy("p", "{}").replace("AuthorizationPolicy", "AuthorisationPolicy"),
            "kind AuthorisationPolicy is none of",
        ),
        (policy("p", "{}").replace("/v1", "/v2"), "apiVersion security.istio.io/v2 is not read"),
        (policy("p", "{}") + &policy("p", "{}"), "is already in test.yaml"),
        (policy("p", "{}").replace("name: p", "name: p, annotations: {istio.io/dry-run: \"yes\"}"), "istio.io/dry-run"),
        ("a: b".to_owned(), "has no kind"),
        ("- a".to_owned(), "has no kind"),
        ("a: [".to_owned(), "is not YAML"),
        (policy("p", "{rules: [], rules: [{}]}"), "is not YAML"),
        (peer("{mtls: {mode: STRIKT}}"), "spec.mtls.mode: is none of"),
        (peer("{mtls: {mod: STRICT}}"), "spec.mtls.mod: is not a field here"),
        (peer("{mtls: STRICT}"), "spec.mtls: is not an object"),
        (peer("{portLevelMtls: {8080: {mode: STRICT}}}"), "spec.portLevelMtls: needs a selector"),
        (peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {}}}"), "portLevelMtls.http: is not a port"),
        (request("jwks: '{}'"), "spec.jwtRules[0]: has no issuer"),
        (request("issuer: a"), "spec.jwtRules[0]: has neither jwks nor jwksUri"),
        (request("issuer: a, jwks: x, jwksUri: https://x"), "spec.jwtRules[0]: has jwks and jwksUri"),
        (request("issuer: a, jwksUri: ftp://x"), "spec.jwtRules[0].jwksUri: begins with neither"),
        (request("issuer: a, jwks: x, timeout: soon"), "spec.jwtRules[0].timeout: is not a time"),
        (request("issuer: a, jwks: x, forwardOriginalToken: \"yes\""), "forwardOriginalToken: is neither true"),
        (request("issuer: a, jwks: x, fromHeaders: [{prefix: x}]"), "fromHeaders[0]: has no name"),
        (request("issuer: a, jwks: x, outputPayloadToHeader: \"a b\""), "outputPayloadToHeader: cannot be"),
        (request("issuer: a, jwks: x, outputClaimToHeaders: [{header: x}]"), "outputClaimToHeaders[0]: needs both"),
    ];
    for (text, expected) in cases {
        let problems = parse(&text).expect_err(&text);
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(words[0].starts_with("test.yaml: ") && words[0].contains(expected), "{text}\n{words:?}");
    }
}

#[test]
fn are_the_examples_good() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/policies");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<(String, String)> =
        names.map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect();
    let policies = Policies::parse(&files, &workload()).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!((files.len(), policies.count(), policies.jwt_rules().len()), (3, 3, 1));
    assert_eq!(
        (policies.peer_mode(80), policies.peer_mode(9090)),
        (Some(PeerMode::Strict), Some(PeerMode::Permissive))
    );
    assert!(policies.notes().is_empty(), "{:?}", policies.notes());
}

#[test]
fn are_all_problems_told_at_once() {
    let files = [("a.yaml", "{rules: [{x: 1}, {y: 2}]}"), ("b.yaml", "{action: NO}")];
    let files = files.map(|(name, spec)| (name.to_owned(), policy(&name[..1], spec)));
    let problems = Policies::parse(&files, &workload()).unwrap_err();
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    assert!(words[0].starts_with("a.yaml: AuthorizationPolicy prod/a: spec.rules[0].x: "), "{}", words[0]);
    assert!(words[2].starts_with("b.yaml: AuthorizationPolicy prod/b: spec.action: "), "{}", words[2]);
}
