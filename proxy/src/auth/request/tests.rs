//! Tokens in every place, of every kind, and what is passed on.

use super::*;
use crate::auth::issuer::{Issuer, Token};
use crate::policy::{Policies, Workload};
use serde_json::json;

const NOW: u64 = 1_800_000_000;

fn workload() -> Workload {
    Workload {
        namespace: "prod".into(),
        labels: Default::default(),
        root_namespace: "istio-system".into(),
        trust_domain: "td".into(),
        trust_domain_aliases: Vec::new(),
    }
}

/// From rules as YAML on one line each, `JWKS` standing for the issuer's key set.
fn authenticator(issuer: &Issuer, rules: &[&str]) -> RequestAuthenticator {
    let rules = rules.join(", ").replace("JWKS", &format!("'{}'", issuer.jwks().replace(['\n', ' '], "")));
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r}}\nspec: {{jwtRules: [{rules}]}}"
    );
    let policies = Policies::parse(&[("r.yaml".into(), text)], &workload()).unwrap_or_else(|p| panic!("{p:?}"));
    RequestAuthenticator::new(policies.jwt_rules(), &RemoteKeys::new(None), Arc::default())
        .unwrap_or_else(|p| panic!("{p:?}"))
}

fn mint(issuer: &Issuer, name: &str, claims: Value) -> String {
    issuer.mint(Token {
        issuer: name,
        subject: "ada",
        audience: "api",
        issued_at_unix: NOW,
        ttl_seconds: 60,
        claims: claims.as_object().unwrap().clone(),
    })
}

fn head(query: Option<&str>, headers: &[(&'static str, &str)]) -> Head {
    let mut map = http::HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    Head {
        method: http::Method::POST,
        path: "/".into(),
        query: query.map(str::to_owned),
        headers: map,
        version: http::Version::HTTP_11,
        request_id: String::new(),
        arrived_unix_seconds: 0,
    }
}

fn outcome(authenticator: &RequestAuthenticator, head: &Head, now: u64) -> &'static str {
    match authenticator.authenticate(head, now) {
        Ok(authenticated) => authenticated.principal().map_or("nobody", |_| "known"),
        Err(reason) => reason.label(),
    }
}

#[test]
fn where_are_tokens_found_by_default() {
    let issuer = Issuer::generate();
    let ours = authenticator(&issuer, &["{issuer: a, jwks: JWKS}"]);
    let (good, other) = (mint(&issuer, "a", json!({})), mint(&issuer, "a", json!({"x": 1})));
    let bearer = format!("Bearer {good}");
    let query = format!("a=b&access_token={good}&c");
    let cases = [
        (head(None, &[]), "nobody"),
        (head(None, &[("authorization", "Basic eA==")]), "nobody"),
        (head(None, &[("x-jwt", "garbage"), ("cookie", "access_token=x")]), "nobody"),
        (head(None, &[("authorization", &bearer)]), "known"),
        (head(Some(&query), &[]), "known"),
        (head(Some(&query), &[("authorization", &bearer)]), "known"),
        (head(Some(&query), &[("authorization", &format!("Bearer {other}"))]), "ambiguous"),
        (head(Some(&format!("{query}&access_token={good}")), &[]), "ambiguous"),
        (head(Some("access_token="), &[]), "malformed"),
        (head(None, &[("authorization", "Bearer garbage")]), "malformed"),
        (head(None, &[("authorization", &bearer), ("authorization", &bearer)]), "ambiguous"),
    ];
    for (head, expected) in cases {
        for _ in 0..2 {
            assert_eq!(outcome(&ours, &head, NOW), expected, "{head:?}");
        }
        let late = if expected == "known" { "expired" } else { expected };
        assert_eq!(outcome(&ours, &head, NOW + 1000), late, "{head:?}");
    }
}

#[test]
fn where_are_tokens_found_if_told() {
    let issuer = Issuer::generate();
    let rule = "{issuer: a, jwks: JWKS, fromHeaders: [{name: X-Jwt, prefix: 'T '}], fromParams: [t], fromCookies: [c]}";
    let ours = authenticator(&issuer, &[rule]);
    let good = mint(&issuer, "a", json!({}));
    let cases = [
        (head(None, &[("x-jwt", &format!("T {good}"))]), "known"),
        (head(None, &[("x-jwt", &good)]), "nobody"),
        (head(None, &[("authorization", &format!("Bearer {good}"))]), "nobody"),
        (head(Some(&format!("t={good}")), &[]), "known"),
        (head(None, &[("cookie", &format!("a=b; c={good}; d=e"))]), "known"),
        (head(None, &[("cookie", "a=b"), ("cookie", &format!("c={good}"))]), "known"),
        (head(None, &[("cookie", &format!("c={good}; c={good}"))]), "ambiguous"),
        (head(None, &[("x-jwt", "T x"), ("x-jwt", "T y")]), "ambiguous"),
    ];
    for (head, expected) in cases {
        assert_eq!(outcome(&ours, &head, NOW), expected, "{head:?}");
    }
}

#[test]
fn which_rule_is_asked() {
    let (issuer, stranger) = (Issuer::generate(), Issuer::generate());
    let rules = [
        "{issuer: a, jwks: JWKS, audiences: [api, x]}",
        "{issuer: b, jwks: JWKS, audiences: [web]}",
        "{issuer: b, jwks: JWKS, audiences: [api], fromHeaders: [{name: x-b}]}",
        "{issuer: remote, jwksUri: https://keys.test/keys}",
    ];
    let ours = authenticator(&issuer, &rules);
    let ask = |token: &str| outcome(&ours, &head(None, &[("authorization", &format!("Bearer {token}"))]), NOW);
    assert_eq!(ask(&mint(&issuer, "a", json!({}))), "known");
    assert_eq!(ask(&mint(&issuer, "b", json!({}))), "audience");
    assert_eq!(ask(&mint(&issuer, "c", json!({}))), "issuer");
    assert_eq!(ask(&mint(&issuer, "remote", json!({}))), "keys_unavailable");
    assert_eq!(ask(&mint(&stranger, "a", json!({}))), "unknown_key");
    assert_eq!(ask("a.bm8.c"), "malformed");
    assert_eq!(ask("a.e30.c"), "issuer");
    let token = mint(&issuer, "b", json!({}));
    assert_eq!(outcome(&ours, &head(None, &[("x-b", &token)]), NOW), "known");
    // The verdict of another place is not taken over.
    assert_eq!(ask(&token), "audience");
}

#[test]
fn what_is_the_server_behind_us_told() {
    let issuer = Issuer::generate();
    let claims = "outputClaimToHeaders: [{header: x-role, claim: nested.role}, {header: x-level, claim: level}, \
                  {header: x-list, claim: list}, {header: x-bad, claim: bad}, {header: x-dotted, claim: a.b/c}]";
    let rule = format!("{{issuer: a, jwks: JWKS, outputPayloadToHeader: x-payload, {claims}}}");
    let ours = authenticator(&issuer, &[&rule]);
    let more = json!({"nested": {"role": "admin"}, "level": 7, "list": ["x"], "bad": "a\nb", "a.b/c": true});
    let token = mint(&issuer, "a", more);
    let forged = [("x-role", "root"), ("x-list", "forged"), ("x-payload", "forged"), ("x-other", "kept")];
    let mut anonymous = head(Some("q=1"), &forged);
    ours.authenticate(&anonymous, NOW).unwrap().apply(&mut anonymous);
    assert_eq!(anonymous.headers.len(), 1, "{:?}", anonymous.headers);
    let mut known = head(Some("q=1"), &forged);
    known.headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    ours.authenticate(&known, NOW).unwrap().apply(&mut known);
    assert_eq!((known.header("x-role"), known.header("x-level")), (Some("admin"), Some("7")));
    assert_eq!((known.header("x-dotted"), known.header("x-other")), (Some("true"), Some("kept")));
    assert_eq!(known.header("x-payload"), token.split('.').nth(1));
    assert_eq!(known.headers.len(), 5, "no token, nothing forged: {:?}", known.headers);
}

#[test]
fn is_the_token_taken_out_unless_it_is_to_be_forwarded() {
    let issuer = Issuer::generate();
    let places = "fromHeaders: [{name: x-jwt}], fromParams: [t], fromCookies: [c]";
    let token = mint(&issuer, "a", json!({}));
    let query = format!("a=b&t={token}&c");
    let cookie = format!("a=b; c={token}; d=e");
    for (forward, expected) in [
        (false, (Some("a=b&c"), Some("a=b; d=e"), None)),
        (true, (Some(query.as_str()), Some(cookie.as_str()), Some(token.as_str()))),
    ] {
        let ours =
            authenticator(&issuer, &[&format!("{{issuer: a, jwks: JWKS, forwardOriginalToken: {forward}, {places}}}")]);
        let mut head = head(Some(&query), &[("cookie", &cookie), ("x-jwt", &token)]);
        ours.authenticate(&head, NOW).unwrap().apply(&mut head);
        assert_eq!((head.query.as_deref(), head.header("cookie"), head.header("x-jwt")), expected);
    }
    let ours = authenticator(&issuer, &[&format!("{{issuer: a, jwks: JWKS, {places}}}")]);
    let mut only = head(Some(&format!("t={token}")), &[]);
    ours.authenticate(&only, NOW).unwrap().apply(&mut only);
    assert_eq!(only.query, None);
    let mut only = head(None, &[("cookie", &format!("c={token}"))]);
    ours.authenticate(&only, NOW).unwrap().apply(&mut only);
    assert!(only.headers.is_empty());
}

#[test]
fn which_principal_does_a_policy_see() {
    let issuer = Issuer::generate();
    let ours = authenticator(&issuer, &["{issuer: https://a.test/x, jwks: JWKS, spaceDelimitedClaims: [groups]}"]);
    let claims = json!({"scope": "read  write", "groups": "g1 g2", "plain": "a b", "azp": "web"});
    let token = mint(&issuer, "https://a.test/x", claims);
    let authenticated = ours.authenticate(&head(None, &[("authorization", &format!("Bearer {token}"))]), NOW).unwrap();
    let principal = authenticated.principal().unwrap();
    assert_eq!((principal.issuer.as_str(), principal.subject.as_str()), ("https://a.test/x", "ada"));
    assert_eq!((principal.audiences.as_slice(), principal.presenter.as_str()), (&["api".to_owned()][..], "web"));
    assert_eq!(principal.claims["scope"], json!(["read", "write"]));
    assert_eq!((&principal.claims["groups"], &principal.claims["plain"]), (&json!(["g1", "g2"]), &json!("a b")));
    assert_eq!(principal.expires_at_unix, NOW + 60 + crate::auth::jwt::LEEWAY_SECONDS);
    let nameless = issuer.mint(Token {
        issuer: "https://a.test/x",
        subject: "",
        audience: "api",
        issued_at_unix: NOW,
        ttl_seconds: 60,
        claims: Default::default(),
    });
    let authenticated =
        ours.authenticate(&head(None, &[("authorization", &format!("Bearer {nameless}"))]), NOW).unwrap();
    assert_eq!(authenticated.principal().unwrap().subject, "");
}

#[test]
fn is_a_bad_key_set_a_problem() {
    let rule = "{jwtRules: [{issuer: a, jwks: '{\"keys\": []}'}]}";
    let text =
        format!("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r}}\nspec: {rule}");
    let policies = Policies::parse(&[("r.yaml".into(), text)], &workload()).unwrap();
    let problems =
        RequestAuthenticator::new(policies.jwt_rules(), &RemoteKeys::new(None), Arc::default()).err().unwrap();
    assert!(problems[0].to_string().starts_with("RequestAuthentication prod/r: spec.jwtRules[0].jwks: holds no key"));
    assert!(RequestAuthenticator::new(&[], &RemoteKeys::new(None), Arc::default()).unwrap().is_empty());
}
