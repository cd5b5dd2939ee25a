//! Which settings of `auth` are understood, and what is said about those that are not.

use super::*;

fn of(methods: &str) -> (Auth, String) {
    let mut problems = Problems::default();
    let raw: RawAuth = serde_yaml_ng::from_str(&format!("methods: {methods}")).unwrap();
    let auth = raw.validate(Path::new("/etc"), &Kubernetes::in_cluster(None), &mut problems);
    (auth, problems.words())
}

#[test]
fn what_does_a_token_method_mean() {
    let (auth, problems) = of("[{jwt: {issuer: i, audience: a, jwks_file: j}}]");
    assert_eq!(problems, "");
    let plain = Jwt::new(Keys::File("/etc/j".into()), Some("i".into()), vec!["a".into()]);
    assert_eq!(auth.methods, [Method::Jwt(plain)]);

    let (auth, problems) = of("[{jwt: {issuer_url: 'https://i.test/realm', audiences: [a, b], algorithms: [ES256],
        typ: [application/AT+JWT], required_claims: [scope], leeway: 0s, timeout: 1s, refresh: 5m, keys_cache: k.json,
        authorities: ca.pem, credentials: {header: {name: X-Token, prefix: 'Token '}}}}]");
    assert_eq!(problems, "");
    let fetched = Fetched {
        timeout: Duration::from_secs(1),
        refresh: Duration::from_secs(300),
        authorities: Some("/etc/ca.pem".into()),
        copy: Some("/etc/k.json".into()),
    };
    let want = Jwt {
        algorithms: vec!["ES256".into()],
        types: vec!["at+jwt".into()],
        required_claims: vec!["scope".into()],
        leeway: Duration::ZERO,
        credentials: Location::Header(HeaderName::from_static("x-token"), "Token ".into()),
        ..Jwt::new(
            Keys::Issuer("https://i.test/realm".into(), fetched),
            Some("https://i.test/realm".into()),
            vec!["a".into(), "b".into()],
        )
    };
    assert_eq!(auth.methods, [Method::Jwt(want)]);
    let dump = auth.methods[0].dump();
    assert_eq!(
        (&dump["jwt"]["refresh_seconds"], &dump["jwt"]["credentials"]["header"]["prefix"]),
        (&json!(300.0), &json!("Token "))
    );
}

#[test]
fn which_token_methods_are_refused_and_why() {
    for (yaml, words) in [
        ("{}", "auth.methods[0]: must be exactly one of"),
        ("{mtls: {}, anonymous: {}}", "auth.methods[0]: must be exactly one of"),
        ("{jwt: {audience: a, jwks_file: j}}", "auth.methods[0].jwt.issuer: is missing"),
        ("{jwt: {issuer: i, jwks_file: j}}", "auth.methods[0].jwt.audience: one of"),
        ("{jwt: {issuer: i, audience: a, audiences: [b], jwks_file: j}}", "auth.methods[0].jwt.audience: one of"),
        ("{jwt: {issuer: i, audiences: [], jwks_file: j}}", "auth.methods[0].jwt.audience: one of"),
        ("{jwt: {issuer: i, audience: a}}", "auth.methods[0].jwt: exactly one of jwks_file"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, jwks_url: 'https://a/'}}", "auth.methods[0].jwt: exactly one"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, refresh: 5m}}", "are for jwks_url"),
        ("{jwt: {issuer: i, audience: a, jwks_url: 'ftp://a/'}}", "auth.methods[0].jwt.jwks_url: is no address"),
        ("{jwt: {audience: a, issuer_url: 'https://me:pw@a/'}}", "auth.methods[0].jwt.issuer_url: is no address"),
        (
            "{jwt: {audience: a, issuer_url: 'https://a/', refresh: 1s}}",
            "auth.methods[0].jwt.refresh: must be at least",
        ),
        ("{jwt: {audience: a, issuer_url: 'https://a/', timeout: 2m}}", "auth.methods[0].jwt.timeout: must be at most"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, algorithms: [HS256]}}", "`HS256` is none of ES256"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, algorithms: [ES512]}}", "P-521"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, leeway: 6m}}", "auth.methods[0].jwt.leeway: must be at most"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, credentials: {}}}", "jwt.credentials: must be exactly one"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, credentials: {query: a, cookie: b}}}", "must be exactly one"),
        ("{jwt: {issuer: i, audience: a, jwks_file: j, credentials: {header: {name: 'a b'}}}}", "no header's name"),
    ] {
        let (_, problems) = of(&format!("[{yaml}]"));
        assert!(problems.contains(words), "{yaml}: {problems}");
    }
    for (yaml, words) in [
        (
            "{api_key: {keys_file: k, credentials: {header: {name: ''}}}}",
            "auth.methods[0].api_key.credentials.header.name",
        ),
        (
            "{introspection: {endpoint: x, client_id_file: i, client_secret_file: s}}",
            "auth.methods[0].introspection.endpoint: is no",
        ),
        (
            "{introspection: {endpoint: 'https://a/', client_id_file: i, client_secret_file: s, timeout: 2m}}",
            "introspection.timeout",
        ),
        (
            "{introspection: {endpoint: 'https://a/', client_id_file: i, client_secret_file: s, audiences: ['']}}",
            "introspection.audiences",
        ),
    ] {
        let (_, problems) = of(&format!("[{yaml}]"));
        assert!(problems.contains(words), "{yaml}: {problems}");
    }
    let one = "{jwt: {audience: a, issuer_url: 'https://a/', keys_cache: k}}";
    assert!(of(&format!("[{one}, {one}]")).1.contains("two methods have one `keys_cache`"));
    assert!(of("[]").1.starts_with("auth.methods: must name at least one"));
}

#[test]
fn what_do_the_other_methods_mean() {
    let (auth, problems) = of("[{api_key: {keys_file: k, credentials: {header: {name: X-Api-Key}}}},
        {introspection: {endpoint: 'https://a/introspect', client_id_file: i, client_secret_file: s, allow_ttl: 10s}},
        {token_review: {}}, {mtls: {}}, {anonymous: {}}, {plain: {selector: 'request.headers.x-user'}},
        {x509: {authorities: ca.pem, from_peers: ['spiffe://td/ns/edge/sa/gateway']}}]");
    assert_eq!(problems, "");
    let places: Vec<&Location> = auth.methods.iter().map(Method::credentials).collect();
    assert_eq!(places[0], &Location::Header(HeaderName::from_static("x-api-key"), String::new()));
    assert!(places[1..].iter().all(|place| **place == Location::Bearer));
    let dump = auth.methods[1].dump();
    assert_eq!(
        (&dump["introspection"]["allow_ttl_seconds"], &dump["introspection"]["client_secret_file"]),
        (&json!(10), &json!("/etc/s"))
    );
    assert!(auth.methods[2].dump()["token_review"].is_object());
    assert_eq!(auth.methods[5].dump()["plain"]["selector"], json!("request.headers.x-user"));
    assert_eq!(auth.methods[6].dump()["x509"]["xfcc_header"], json!("x-forwarded-client-cert"));
}
