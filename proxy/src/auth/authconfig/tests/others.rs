//! Policies that ask others: an identity provider, an API server, whoever has metadata. Whole policies, not evaluators:
//! what is written in YAML decides here.

use super::*;
use crate::auth::endpoint::testing::{Server, json as told, status};
use crate::auth::issuer::{Issuer, Token};
use crate::auth::verdicts::{Which, sha256};
use crate::kube::client::fake::Fake;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

const SOON: Duration = Duration::from_secs(20);

/// All others, and what a policy of theirs is compiled with.
struct World {
    provider: Server,
    cluster: Fake,
    keys: Arc<Issuer>,
    /// Who signs callers' certificates.
    ca: rcgen::Issuer<'static, KeyPair>,
    secrets: File,
    setting: Setting,
    _fetching: AbortOnDropHandle<()>,
}

impl World {
    async fn new(compat: Compat) -> World {
        let keys = Arc::new(Issuer::generate());
        let jwks = keys.jwks();
        let provider = Server::start(move |request| {
            let origin = format!("http://{}", request.headers()["host"].to_str().unwrap());
            let shown =
                request.headers().get("authorization").and_then(|shown| shown.to_str().ok()).unwrap_or_default();
            match request.uri().path() {
                "/realm/.well-known/openid-configuration" => told(json!({
                    "issuer": format!("{origin}/realm"), "jwks_uri": format!("{origin}/keys"),
                    "userinfo_endpoint": format!("{origin}/me"),
                })),
                "/keys" => http::Response::new(jwks.clone().into()),
                "/introspect" => {
                    let body = String::from_utf8_lossy(request.body()).into_owned();
                    let good = body.contains("token=opaque") && shown.starts_with("Basic ");
                    told(json!({"active": good, "sub": "ann", "exp": NOW + 60}))
                }
                "/me" if shown.starts_with("Bearer ") => told(json!({"sub": "ann", "mail": "ann@example.com"})),
                "/plan" => told(json!({"plan": "gold"})),
                "/log" => status(200),
                _ => {
                    let mut answer = told(json!({"plan": "none"}));
                    *answer.status_mut() = http::StatusCode::NOT_FOUND;
                    answer
                }
            }
        })
        .await;
        let cluster = Fake::start().await;
        cluster.knows("account", "system:serviceaccount:a:b", &["p.test"]);
        cluster.knows("other", "system:serviceaccount:a:b", &["elsewhere"]);
        cluster.world.lock().unwrap().may.push("ann".into());
        let (ca, pem) = ca();
        let setting = Setting { kubernetes: cluster.kubernetes(), ..setting(compat) };
        let fetching = AbortOnDropHandle::new(tokio::spawn(setting.tools.keys.clone().run()));
        World { provider, cluster, keys, ca, secrets: secrets(&pem), setting, _fetching: fetching }
    }

    /// A policy of these parts; `ORIGIN` is the provider's.
    fn index(&self, spec: &str) -> Index {
        let secrets = Store::parse(&[self.secrets.clone()], "talks").unwrap();
        let file = policy(&spec.replace("ORIGIN", &self.provider.origin));
        load(&[file], &secrets, &self.setting).unwrap_or_else(|problems| panic!("{}\n{spec}", words(problems)))
    }

    fn token(&self, change: impl FnOnce(&mut Token<'_>)) -> String {
        let issuer = format!("{}/realm", self.provider.origin);
        let claims = json!({"jti": "1", "groups": ["staff"]}).as_object().unwrap().clone();
        let (subject, audience) = ("ann", "p");
        let mut token =
            Token { issuer: &issuer, subject, audience, issued_at_unix: NOW - 10, ttl_seconds: 100, claims };
        change(&mut token);
        self.keys.mint(token)
    }

    /// What `x-forwarded-client-cert` says of a caller with this purpose.
    fn certificate(&self, purpose: ExtendedKeyUsagePurpose) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.extended_key_usages = vec![purpose];
        let pem = params.signed_by(&KeyPair::generate().unwrap(), &self.ca).unwrap().pem();
        format!("Hash=00;Cert=\"{}\"", crate::percent::part(&pem))
    }
}

fn ca() -> (rcgen::Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (rcgen::Issuer::new(params, key), pem)
}

fn secrets(ca: &str) -> File {
    let secret = |name: &str, label: &str, data: Value| {
        json!({"kind": "Secret", "metadata": {"name": name, "labels": {"app": label}}, "stringData": data}).to_string()
    };
    let signs = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let all = [
        secret("client", "-", json!({"clientID": "us", "clientSecret": "hush"})),
        secret("ca", "people", json!({"ca.crt": ca})),
        secret("band", "-", json!({"key.pem": signs})),
    ];
    ("secrets.yaml".into(), all.join("\n---\n"))
}

const JWT: &str = "  authentication: {w: {jwt: {issuerUrl: ORIGIN/realm}}}\n";

/// Status, and the header `x-who` of what is sent on.
async fn who(index: &Index, headers: &[(&str, &str)]) -> (u16, String) {
    match ask(index, "GET p.test/a?b=c", headers).await {
        Ok(allowed) => (200, header(&allowed, "x-who")),
        Err((status, ..)) => (status, String::new()),
    }
}

fn header(allowed: &Allowed, wanted: &str) -> String {
    let found = allowed.headers.iter().find(|(name, _)| name == wanted);
    found.map_or_else(String::new, |(_, value)| value.to_str().unwrap().to_owned())
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn whom_does_each_method_know() {
    let world = World::new(Compat::default()).await;
    let tell = |selector: &str| {
        format!("  response: {{success: {{headers: {{x-who: {{plain: {{selector: {selector}}}}}}}}}}}\n")
    };
    let jwt = format!("{JWT}{}", tell("auth.identity.sub"));
    let by_keys =
        format!("  authentication: {{w: {{jwt: {{jwksUrl: ORIGIN/keys}}}}}}\n{}", tell("auth.identity.groups.0"));
    let opaque = format!(
        "  authentication: {{w: {{oauth2Introspection: {{endpoint: ORIGIN/introspect, credentialsRef: {{name: client}}}}}}}}\n{}",
        tell("auth.identity.sub")
    );
    let account =
        format!("  authentication: {{w: {{kubernetesTokenReview: {{}}}}}}\n{}", tell("auth.identity.user.username"));
    let certificate = format!(
        "  authentication: {{w: {{x509: {{selector: {{matchLabels: {{app: people}}}}, source: {{xfccHeader: x-forwarded-client-cert}}}}}}}}\n{}",
        tell("auth.identity.CommonName")
    );
    let good = world.token(|_| ());
    let late = world.token(|token| token.issued_at_unix = NOW - 1000);
    let others = world.token(|token| token.issuer = "https://others.test");
    let forged = Issuer::generate().mint(Token {
        issuer: &format!("{}/realm", world.provider.origin),
        subject: "ann",
        audience: "p",
        issued_at_unix: NOW,
        ttl_seconds: 60,
        claims: Default::default(),
    });
    const CERT: &str = "x-forwarded-client-cert";
    let client = world.certificate(ExtendedKeyUsagePurpose::ClientAuth);
    let server = world.certificate(ExtendedKeyUsagePurpose::ServerAuth);
    for (spec, name, shown, expected) in [
        (&jwt, "authorization", bearer(&good), (200, "ann")),
        (&jwt, "authorization", bearer(&late), (401, "")),
        (&jwt, "authorization", bearer(&forged), (401, "")),
        (&jwt, "authorization", bearer(&others), (401, "")),
        (&jwt, "authorization", "Bearer x".into(), (401, "")),
        (&jwt, "x-nothing", "x".into(), (401, "")),
        // Without an issuer's name there is none to compare.
        (&by_keys, "authorization", bearer(&others), (200, "staff")),
        (&by_keys, "authorization", bearer(&forged), (401, "")),
        (&opaque, "authorization", bearer("opaque"), (200, "ann")),
        (&opaque, "authorization", bearer("unknown"), (401, "")),
        (&account, "authorization", bearer("account"), (200, "system:serviceaccount:a:b")),
        // Made for somebody else, by the host that is the audience where none is given.
        (&account, "authorization", bearer("other"), (401, "")),
        (&account, "authorization", bearer("unknown"), (401, "")),
        (&certificate, CERT, client, (200, "ann")),
        (&certificate, CERT, server, (401, "")),
        (&certificate, "authorization", bearer(&good), (401, "")),
    ] {
        let index = world.index(spec);
        let told = who(&index, &[(name, &shown)]).await;
        assert_eq!((told.0, told.1.as_str()), expected, "{name}: {shown}\n{spec}");
    }
}

#[tokio::test]
async fn who_may_by_the_word_of_others() {
    let world = World::new(Compat::default()).await;
    let user =
        "{user: {selector: auth.identity.sub}, resourceAttributes: {verb: {value: get}, resource: {value: models}}}";
    let access = format!("{JWT}  authorization: {{may: {{kubernetesSubjectAccessReview: {user}}}}}\n");
    let path = format!(
        "{JWT}  authorization: {{may: {{kubernetesSubjectAccessReview: {{user: {{selector: auth.identity.sub}}}}}}}}\n"
    );
    let me = format!(
        "{JWT}  metadata: {{me: {{userInfo: {{identitySource: w}}}}}}\n  authorization: {{mail: {{patternMatching: \
         {{patterns: [{{selector: auth.metadata.me.mail, operator: matches, value: '@example.com$'}}]}}}}}}\n"
    );
    let plan = |path: &str| {
        format!(
            "{JWT}  metadata: {{p: {{http: {{url: 'ORIGIN{path}'}}}}}}\n  authorization: {{gold: {{patternMatching: \
             {{patterns: [{{predicate: \"auth.metadata.p.plan in ['gold', 'none']\"}}]}}}}}}\n"
        )
    };
    let (ann, eve) = (world.token(|_| ()), world.token(|token| token.subject = "eve"));
    for (spec, token, expected) in [
        (&access, &ann, 200),
        (&access, &eve, 403),
        (&path, &ann, 200),
        (&path, &eve, 403),
        (&me, &ann, 200),
        // Whose answer is about somebody else is not believed.
        (&me, &eve, 403),
        (&plan("/plan"), &ann, 200),
        // An error page is no metadata, and what cannot be decided denies.
        (&plan("/nowhere"), &ann, 403),
    ] {
        let index = world.index(spec);
        assert_eq!(who(&index, &[("authorization", &bearer(token))]).await.0, expected, "{spec}");
    }
    let asked = world.cluster.world.lock().unwrap().asked.clone();
    let non_resource = asked.iter().find_map(|(_, _, body, _)| body["spec"].get("nonResourceAttributes"));
    assert_eq!(non_resource, Some(&json!({"path": "/a", "verb": "get"})), "the path less its query");
}

#[tokio::test]
async fn what_is_told_of_a_caller_and_to_whom() {
    let world = World::new(Compat::default()).await;
    let spec = format!(
        "{JWT}  response: {{success: {{headers: {{x-band: {{wristband: {{issuer: 'https://us/talks/p/x-band', \
         customClaims: {{who: {{selector: auth.identity.sub}}}}, signingKeyRefs: [{{name: band, algorithm: ES256}}]}}}}}}}}}}\n  \
         callbacks: {{log: {{http: {{url: ORIGIN/log, method: POST, body: {{expression: \"has(auth.identity) ? auth.identity.sub : 'nobody'\"}}}}}}}}\n"
    );
    let index = world.index(&spec);
    let telling = tokio::spawn(world.setting.callbacks.clone().run());
    let allowed = ask(&index, "GET p.test/", &[("authorization", &bearer(&world.token(|_| ())))]).await.unwrap();
    let band = header(&allowed, "x-band");
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(band.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!((&claims["iss"], &claims["who"]), (&json!("https://us/talks/p/x-band"), &json!("ann")));
    assert_eq!(claims["exp"], NOW + 300);
    assert_eq!(ask(&index, "GET p.test/", &[]).await.unwrap_err().0, 401);
    world.setting.callbacks.drain(SOON).await;
    telling.await.unwrap();
    let mut log: Vec<_> = world.provider.seen().into_iter().filter(|seen| seen.uri().path() == "/log").collect();
    log.sort_by_key(|seen| seen.body().clone());
    let log: Vec<&[u8]> = log.iter().map(|seen| &seen.body()[..]).collect();
    assert_eq!(log, [&b"ann"[..], b"nobody"], "of the refused one too");
}

#[tokio::test]
async fn what_does_each_way_of_authorino_let_in() {
    const CEL: &str = "patternMatching: {patterns: [{predicate: \"auth.metadata.p.plan == 'none'\"}]}";
    let error_page =
        format!("{JWT}  metadata: {{p: {{http: {{url: ORIGIN/nowhere}}}}}}\n  authorization: {{p: {{{CEL}}}}}\n");
    let unsaid = "  response: {success: {}}\n".to_owned();
    // Nobody listens on port 9 of the loopback, or it is no OpenID provider.
    let down = "  authentication: {w: {jwt: {issuerUrl: 'http://127.0.0.1:9/realm'}}}\n".to_owned();
    let strict = Compat::default();
    let audiences = vec!["p".to_owned()];
    type Change = fn(&mut Token<'_>);
    let cases: [(&str, Compat, &String, Change, u16, u16); 6] = [
        (
            "issuer_unchecked",
            Compat { issuer_unchecked: true, ..strict },
            &JWT.to_owned(),
            |token| token.issuer = "https://others.test",
            401,
            200,
        ),
        (
            "audience_unchecked",
            Compat { audience_unchecked: true, ..strict },
            &JWT.to_owned(),
            |token| token.audience = "another",
            401,
            200,
        ),
        ("any_status", Compat { any_status: true, ..strict }, &error_page, |_| (), 403, 200),
        (
            "provider_down_401",
            Compat { provider_down_401: true, ..strict },
            &down,
            |token| token.issuer = "http://127.0.0.1:9/realm",
            503,
            401,
        ),
        ("all", Compat::AUTHORINO, &error_page, |token| token.audience = "another", 401, 200),
        ("authentication_optional", Compat { authentication_optional: true, ..strict }, &unsaid, |_| (), 0, 200),
    ];
    for (name, compat, spec, change, without, with) in cases {
        for (compat, expected) in [(strict, without), (compat, with)] {
            let mut world = World::new(compat).await;
            world.setting.audiences.clone_from(&audiences);
            if expected == 0 {
                let refused = load(&[policy(spec)], &Store::default(), &world.setting).err().map(words);
                assert!(refused.is_some_and(|words| words.contains("spec.authentication: is needed")), "{name}");
                continue;
            }
            let index = world.index(spec);
            let token = world.token(change);
            assert_eq!(who(&index, &[("authorization", &bearer(&token))]).await.0, expected, "{name} {compat:?}");
        }
    }
}

#[tokio::test]
async fn is_a_token_that_an_operator_ended_refused() {
    let world = World::new(Compat::default()).await;
    let cached = JWT.replace("{w: {", "{w: {cache: {key: {value: everybody}}, ");
    let index = world.index(&cached);
    let (old, other) = (
        world.token(|_| ()),
        world.token(|token| {
            token.subject = "bob";
            token.claims.insert("jti".into(), json!("2"));
        }),
    );
    for which in [Which::TokenId("1".into()), Which::Credential(sha256(old.as_bytes())), Which::Subject("ann".into())] {
        let world = World::new(Compat::default()).await;
        let old = world.token(|_| ());
        let which = match which {
            Which::Credential(_) => Which::Credential(sha256(old.as_bytes())),
            which => which,
        };
        let index = world.index(JWT);
        assert_eq!(who(&index, &[("authorization", &bearer(&old))]).await.0, 200);
        world.setting.tools.barred.bar(&which, NOW, None).unwrap();
        assert_eq!(who(&index, &[("authorization", &bearer(&old))]).await.0, 401, "{which:?}");
        let new = world.token(|token| {
            token.issued_at_unix = NOW + 1;
            token.claims.insert("jti".into(), json!("3"));
        });
        assert_eq!(who(&index, &[("authorization", &bearer(&new))]).await.0, 200, "{which:?}");
    }
    // What a policy caches by a key of its own does not outlive the order either.
    assert_eq!(who(&index, &[("authorization", &bearer(&old))]).await.0, 200);
    world.setting.tools.barred.bar(&Which::TokenId("1".into()), NOW, None).unwrap();
    index.pipelines().for_each(|pipeline| pipeline.forget());
    assert_eq!(who(&index, &[("authorization", &bearer(&old))]).await.0, 401);
    assert_eq!(who(&index, &[("authorization", &bearer(&other))]).await.0, 200);
}
