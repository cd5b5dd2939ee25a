//! Policies as others write them, and what they decide.

use super::*;
use crate::auth::Request;
use crate::auth::pipeline::Allowed;
use crate::message::Head;
use crate::tls::identity::Peer;
use http::{HeaderName, HeaderValue};
use serde_json::json;
use std::path::Path;

mod others;

const NOW: u64 = 1_800_000_000;

fn setting(compat: Compat) -> Setting {
    Setting {
        compat,
        namespace: "talks".into(),
        client: Client::new(Trust::default()),
        tools: Tools::new(),
        authorities: None,
        audiences: Vec::new(),
        keep_credentials: false,
        hosts: Vec::new(),
        timeout: None,
        kubernetes: Kubernetes::in_cluster(None),
        certificate_peers: Vouchers::Anybody,
        callbacks: Callbacks::new(Default::default()),
        tally: Arc::default(),
    }
}

fn golden(name: &str) -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/authconfig").join(name);
    (name.into(), std::fs::read_to_string(path).unwrap())
}

fn words(problems: Vec<Problem>) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn index(files: &[File], compat: Compat) -> Result<Index, String> {
    let secrets = Store::parse(&[golden("secrets.yaml")], "talks").map_err(words)?;
    load(files, &secrets, &setting(compat)).map_err(words)
}

fn goldens() -> Index {
    let files = ["anonymous.yaml", "api_key.yaml", "features.yaml", "patterns.yaml", "responses.yaml"].map(golden);
    index(&files, Compat::default()).unwrap_or_else(|words| panic!("{words}"))
}

type Told = Result<Allowed, (u16, http::HeaderMap, String)>;

/// `GET keys.test/a?b` and headers.
async fn ask(index: &Index, line: &str, headers: &[(&str, &str)]) -> Told {
    ask_for(index, line, headers, None).await
}

/// The same by a gateway, which says more.
async fn ask_for(index: &Index, line: &str, headers: &[(&str, &str)], extra: Option<&Value>) -> Told {
    let (method, url) = line.split_once(' ').unwrap();
    let (host, target) = url.split_at(url.find('/').unwrap());
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let headers = headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()));
    let head = Head {
        method: method.parse().unwrap(),
        path: path.into(),
        query,
        headers: headers.collect(),
        version: http::Version::HTTP_11,
        request_id: "id".into(),
        arrived_unix_seconds: NOW,
    };
    let peer = Peer::plaintext(([127, 0, 0, 1], 1).into());
    let destination = "10.0.0.1:8443".parse().unwrap();
    let request = Request { head: &head, peer: &peer, host, destination, now_unix: NOW, extra };
    let pipeline = index.find(host).expect("a policy of the goldens has the host");
    pipeline.run(request).await.map_err(|refusal| {
        let refusal = refusal.refused.refusal();
        let body = String::from_utf8(refusal.body.to_vec()).unwrap();
        (refusal.status.as_u16(), refusal.headers, body)
    })
}

#[tokio::test]
async fn who_passes_and_who_does_not() {
    let index = goldens();
    const ADA: (&str, &str) = ("authorization", "APIKEY key-of-ada");
    const EVE: (&str, &str) = ("authorization", "APIKEY key-of-eve");
    type Case = (&'static str, &'static [(&'static str, &'static str)], u16);
    let cases: &[Case] = &[
        ("GET open.test/", &[], 200),
        ("GET half-open.test/", &[], 200),
        ("POST half-open.test/", &[], 403),
        ("POST half-open.test/", &[ADA], 200),
        // A credential that is no good makes nobody a stranger.
        ("GET half-open.test/", &[("authorization", "APIKEY wrong")], 401),
        ("GET keys.test/", &[], 401),
        ("GET keys.test/", &[ADA], 200),
        ("GET keys.test:8080/", &[ADA], 200),
        ("GET KEYS.test/", &[ADA], 200),
        ("GET a.b.keys.test/", &[ADA], 200),
        ("GET keys.test/", &[("authorization", "apikey key-of-ada")], 401),
        ("GET keys.test/", &[("authorization", "Bearer key-of-ada")], 401),
        ("GET keys.test/", &[("authorization", "APIKEY key-of-mallory")], 401),
        ("GET keys.test/", &[("x-api-key", "key-of-eve")], 200),
        ("GET keys.test/?key=key-of-eve", &[], 200),
        ("GET keys.test/?key=key-of-ada&key=key-of-eve", &[], 401),
        ("GET keys.test/", &[("cookie", "a=b; APIKEY=key-of-eve")], 200),
        ("GET basic.test/", &[("authorization", "Basic Z3JhY2U6aG9wcGVy")], 200),
        ("GET basic.test/", &[("authorization", "Basic Z3JhY2U6d3Jvbmc=")], 401),
        ("GET patterns.test/", &[EVE], 200),
        ("GET patterns.test/admin/x", &[EVE], 404),
        ("GET patterns.test/admin/x", &[ADA], 200),
        ("GET patterns.test/administrators", &[EVE], 200),
        ("PUT patterns.test/", &[ADA], 404),
        ("DELETE patterns.test/", &[ADA], 404),
        ("DELETE patterns.test/", &[ADA, ("x-sure", "yes")], 200),
        // The policy does not speak of it.
        ("OPTIONS patterns.test/admin", &[], 200),
        ("GET login.test/a", &[], 302),
        ("GET login.test/a", &[("cookie", "TOKEN=key-of-ada")], 200),
        ("POST rego.test/talks/ada/1", &[("authorization", "Bearer key-of-ada")], 200),
        ("POST rego.test/talks/ada/1", &[("authorization", "Bearer key-of-eve")], 403),
        ("GET rego.test/talks/ada/1", &[("authorization", "Bearer key-of-eve")], 200),
        ("GET any.other.test/", &[], 200),
        ("POST any.other.test/", &[], 403),
    ];
    for (line, headers, expected) in cases {
        let status = ask(&index, line, headers).await.map_or_else(|(status, ..)| status, |_| 200);
        assert_eq!(status, *expected, "{line} {headers:?}");
    }
}

#[tokio::test]
async fn what_are_those_told_who_do_not_pass() {
    let index = goldens();
    let (_, headers, _) = ask(&index, "GET keys.test/", &[]).await.unwrap_err();
    assert_eq!(headers["x-ext-auth-reason"], "credential not found");
    let challenges: Vec<_> = headers.get_all("www-authenticate").iter().map(|it| it.to_str().unwrap()).collect();
    for challenge in [
        "APIKEY realm=\"by-header\"",
        "X-API-Key realm=\"by-custom-header\"",
        "key realm=\"by-query\"",
        "APIKEY realm=\"by-cookie\"",
    ] {
        assert!(challenges.contains(&challenge), "{challenge}: {challenges:?}");
    }
    let (_, headers, _) = ask(&index, "GET login.test/a/b", &[]).await.unwrap_err();
    assert_eq!(headers["location"], "http://login.test/in?back=%2Fa%2Fb");
    assert!(!headers.contains_key("www-authenticate"));
    let eve = [("authorization", "APIKEY key-of-eve")];
    let (_, headers, body) = ask(&index, "GET patterns.test/admin", &eve).await.unwrap_err();
    assert_eq!((headers["x-ext-auth-reason"].as_bytes(), headers["x-who"].as_bytes()), (&b"Not here"[..], &b"eve"[..]));
    assert_eq!(body, "nothing at /admin");
    let eve = [("authorization", "Bearer key-of-eve")];
    let (_, headers, _) = ask(&index, "POST rego.test/talks/ada", &eve).await.unwrap_err();
    assert_eq!(headers["x-ext-auth-reason"], "Unauthorized");
}

#[tokio::test]
async fn what_is_the_server_behind_told() {
    let index = goldens();
    let told = |allowed: &Allowed| -> String {
        let headers = allowed.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        headers.collect::<Vec<_>>().join("\n")
    };
    let ada = [("authorization", "APIKEY key-of-ada")];
    let allowed = ask(&index, "GET responses.test/a?b", &ada).await.unwrap();
    let data = r#"x-data: {"path":"/a","roles":["speaker"],"since":2024}"#;
    assert_eq!(told(&allowed), format!("{data}\nx-only-chairs: true\nx-user: ada\nx-late: ada!"));
    assert_eq!(Value::Object(allowed.dynamic_metadata), json!({"caller": {"name": "ada"}}));
    assert_eq!(allowed.identity.subject, "ada");
    assert!(allowed.identity.claims.pointer("/data").is_none(), "no secret is part of an identity");
    let allowed = ask(&index, "GET responses.test/", &[]).await.unwrap();
    let data = r#"x-data: {"path":"/","roles":["reader"],"since":2024}"#;
    assert_eq!(told(&allowed), format!("{data}\nx-user: reader\nx-late: reader!"));
    let allowed = ask(&index, "GET any.test/", &[]).await.unwrap();
    assert_eq!(Value::Object(allowed.dynamic_metadata), json!({"identity": {"anonymous": true}}));
}

#[tokio::test]
async fn what_do_policies_make_of_what_a_gateway_says() {
    let index = goldens();
    let verified = |roles: Value| json!({"metadata": {"filter_metadata": {"envoy.filters.http.jwt_authn": {"verified": {"roles": roles}}}}});
    let review = |namespace: &str, groups: Value, spec: Value| {
        let object = json!({"metadata": {"namespace": namespace}, "spec": spec});
        let body = json!({"request": {"userInfo": {"username": "ada", "groups": groups}, "object": object}});
        json!({"request": {"body": body.to_string()}})
    };
    let (none, keys, open) = (json!({}), json!({"a": {"apiKey": {}}}), json!({"a": {"anonymous": {"b": 1}}}));
    let spec = |authentication: &Value| json!({"authentication": authentication});
    let cached = |ttl: u64| json!({"authentication": {"a": {"jwt": {}}}, "metadata": {"m": {"cache": {"ttl": ttl}}}});
    for (line, extra, expected) in [
        ("GET before-us.test/", verified(json!(["editor"])), 200),
        ("GET before-us.test/", verified(json!(["reader"])), 403),
        ("GET before-us.test/", json!({}), 401),
        ("POST webhook.test/", review("theirs", json!([]), spec(&none)), 403),
        ("POST webhook.test/", review("theirs", json!([]), spec(&open)), 403),
        ("POST webhook.test/", review("theirs", json!(["admins"]), spec(&keys)), 200),
        ("POST webhook.test/", review("theirs", json!(["users"]), spec(&keys)), 403),
        ("POST webhook.test/", review("theirs", json!([]), cached(300)), 200),
        ("POST webhook.test/", review("theirs", json!([]), cached(299)), 403),
        ("POST webhook.test/", review("ours", json!([]), spec(&none)), 200),
        // Whose it is cannot be said, and so the policy speaks of it.
        ("POST webhook.test/", json!({}), 401),
        ("POST webhook.test/", json!({"request": {"body": "{"}}), 401),
    ] {
        let status = ask_for(&index, line, &[], Some(&extra)).await.map_or_else(|(status, ..)| status, |_| 200);
        assert_eq!(status, expected, "{line} {extra}");
    }
}

/// One policy with these parts of a `spec`.
fn policy(spec: &str) -> File {
    let text = format!(
        "apiVersion: authorino.kuadrant.io/v1beta3\nkind: AuthConfig\nmetadata: {{name: p}}\nspec:\n  hosts: [p.test]\n{spec}"
    );
    ("p.yaml".into(), text)
}

#[tokio::test]
async fn where_is_authorino_more_lenient() {
    let open = "  authentication: {all: {anonymous: {}}}\n";
    let keys = "apiKey: {selector: {matchLabels: {audience: speakers}}}";
    let forgiving = format!("  authentication: {{all: {{anonymous: {{}}}}, keys: {{{keys}}}}}\n");
    let bad_when = "[{predicate: \"request.headers['x-absent'] == 'a'\"}]";
    let pattern = "patternMatching: {patterns: [{selector: request.method, operator: eq, value: PUT}]}";
    for (spec, strict, lenient) in [
        // A rule whose condition is at fault.
        (format!("{open}  authorization: {{no: {{when: {bad_when}, {pattern}}}}}\n"), 403, 200),
        // A policy whose condition is at fault.
        (format!("{open}  when: {bad_when}\n  authorization: {{no: {{{pattern}}}}}\n"), 403, 200),
        // An attribute that is not there is unlike any other.
        (
            format!(
                "{open}  authorization: {{no: {{patternMatching: {{patterns: [{{selector: auth.identity.banned, operator: neq, value: \"true\"}}]}}}}}}\n"
            ),
            403,
            200,
        ),
        // A credential that is no good, where strangers are let in.
        (forgiving, 401, 200),
        // Nor is a way in open because of what is not there.
        (
            format!(
                "  authentication: {{all: {{when: [{{selector: request.headers.x-absent, operator: neq, value: a}}], anonymous: {{}}}}}}\n"
            ),
            401,
            200,
        ),
        // But a rule is asked: to both, who has no roles has not that one.
        (
            format!(
                "{open}  authorization: {{no: {{when: [{{selector: auth.identity.roles, operator: excl, value: admin}}], {pattern}}}}}\n"
            ),
            403,
            403,
        ),
        // And what is denied by both.
        (format!("{open}  authorization: {{no: {{{pattern}}}}}\n"), 403, 403),
    ] {
        for (compat, expected) in [(Compat::default(), strict), (Compat::AUTHORINO, lenient)] {
            let index = index(&[policy(&spec)], compat).unwrap_or_else(|words| panic!("{words}"));
            let wrong = [("authorization", "Bearer wrong")];
            let status = ask(&index, "GET p.test/", &wrong).await.map_or_else(|(status, ..)| status, |_| 200);
            assert_eq!(status, expected, "{compat:?}\n{spec}");
        }
    }
}

#[test]
fn which_policies_are_refused_and_why() {
    let open = "  authentication: {all: {anonymous: {}}}\n";
    for (spec, expected) in [
        (String::new(), "spec.authentication: is needed"),
        ("  authentication: {a: {}}\n".into(), "spec.authentication.a: must have exactly one field"),
        ("  authentication: {a: {anonymous: {}, plain: {}}}\n".into(), "has anonymous, plain"),
        ("  authentication: {a: {anonymos: {}}}\n".into(), "`anonymos` is nothing that is known"),
        ("  authentication: {a: {anonymous: {}, priority: high}}\n".into(), "spec.authentication.a.priority"),
        ("  authentication: {a: {jwt: {}}}\n".into(), "exactly one of issuerUrl and jwksUrl"),
        ("  authentication: {a: {jwt: {issuerURL: x}}}\n".into(), "unknown field"),
        ("  authentication: {a: {apiKey: {selector: {}}}}\n".into(), "selects every Secret"),
        (
            "  authentication: {a: {oauth2Introspection: {endpoint: 'https://a', credentialsRef: {name: absent}}}}\n"
                .into(),
            "the Secret talks/absent has no text as \"clientID\"",
        ),
        (format!("{open}  authorisation: {{}}\n"), "unknown field `authorisation`"),
        (format!("{open}  authorization: {{a: {{spicedb: {{}}}}}}\n"), "`spicedb` is nothing that is known"),
        (format!("{open}  authorization: {{a: {{opa: {{rego: 'allow {{'}}}}}}\n"), "spec.authorization.a.opa"),
        (format!("{open}  when: [{{patternRef: absent}}]\n"), "spec.when[0]"),
        (format!("{open}  response: {{unauthorized: {{code: 200}}}}\n"), "spec.response.unauthorized.code"),
        (
            format!("{open}  response: {{unauthorized: {{headers: {{content-length: {{value: '1'}}}}}}}}\n"),
            "for the connection",
        ),
        (
            format!("{open}  response: {{success: {{headers: {{'a b': {{plain: {{value: x}}}}}}}}}}\n"),
            "names no header",
        ),
    ] {
        let refused = index(&[policy(&spec)], Compat::default()).err().unwrap_or_default();
        assert!(refused.contains(expected), "{spec}: {refused}");
        assert!(refused.starts_with("p.yaml: AuthConfig p: "), "{refused}");
    }
    let twice = [policy(open), ("q.yaml".into(), policy(open).1.replace("name: p", "name: q"))];
    assert!(index(&twice, Compat::default()).err().unwrap().contains("is a host of talks/p already"));
    let both = [policy("  authentication: {a: {}}\n  metadata: {b: {}}\n"), ("q.yaml".into(), "a: [".into())];
    let refused = index(&both, Compat::default()).err().unwrap();
    assert_eq!(
        refused.lines().filter(|line| line.contains("p.yaml") || line.contains("q.yaml")).count(),
        3,
        "{refused}"
    );
}

#[test]
fn does_a_problem_with_a_secret_tell_it() {
    let secret = |data: &str| -> File {
        ("s.yaml".into(), format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}"))
    };
    for data in ["data: {api_key: 'hunter2!'}", "data: [hunter2]", "data: {api_key: [hunter2]}"] {
        let words = words(Store::parse(&[secret(data)], "talks").unwrap_err());
        assert!(!words.contains("hunter2"), "{words}");
    }
    let store = Store::parse(&[secret("stringData: {api_key: hunter2}")], "talks").unwrap();
    assert!(!format!("{store:?}").contains("hunter2"));
    assert!(store.named("talks", "s").is_some());
}
