//! Accept, refuse, expired, garbage: every way to come with a credential, and what becomes of it.

use super::issuer::{Issuer, Token};
use super::*;
use crate::config::Jwt;
use crate::config::auth::{Keys, Method as Config};
use crate::files::write_private;
use crate::message::Head;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "outrider";

struct Setting {
    directory: tempfile::TempDir,
    issuer: Issuer,
    authenticator: Authenticator,
}

fn jwt(directory: &tempfile::TempDir) -> Config {
    let keys = Keys::File(directory.path().join("jwks.json"));
    Config::Jwt(Jwt::new(keys, Some(ISSUER.into()), vec![AUDIENCE.into()]))
}

fn setting(more: &[Config]) -> Setting {
    let directory = tempfile::tempdir().unwrap();
    let issuer = Issuer::generate();
    write_private(&directory.path().join("jwks.json"), issuer.jwks().as_bytes()).unwrap();
    let methods = [&[jwt(&directory)], more].concat();
    Setting { authenticator: Authenticator::from_config(&methods).unwrap(), directory, issuer }
}

fn head(authorization: &[&str]) -> Head {
    let mut headers = http::HeaderMap::new();
    for value in authorization {
        headers.append("authorization", value.parse().unwrap());
    }
    Head {
        method: http::Method::POST,
        path: "/".into(),
        query: None,
        headers,
        version: http::Version::HTTP_11,
        request_id: String::new(),
        arrived_unix_seconds: 0,
    }
}

fn peer() -> Peer {
    Peer::plaintext(([127, 0, 0, 1], 1).into())
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "ada", "aud": AUDIENCE, "exp": NOW + 60, "nbf": NOW - 60, "role": "reader"})
}

fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all
}

/// A token with any header and any bytes as claims, signed as ES256 by the issuer's key.
fn token(issuer: &Issuer, header: &Value, claims: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_ec_pem(issuer.pem().as_bytes()).unwrap();
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::ES256).unwrap();
    format!("{signed}.{signature}")
}

fn es256(issuer: &Issuer, claims: &Value) -> String {
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": issuer.key_id()});
    token(issuer, &header, claims.to_string().as_bytes())
}

/// None of the methods here waits for anything.
fn identified(authenticator: &Authenticator, head: &Head, peer: &Peer, now_unix: u64) -> Result<Identity, Error> {
    let request = Request {
        head,
        peer,
        host: "model.test",
        destination: "10.0.0.1:8443".parse().unwrap(),
        now_unix,
        extra: None,
    };
    let known = authenticator.identify(request).now_or_never().expect("nothing to wait for");
    known.map(|caller| caller.identity().clone()).map_err(|refusal| refusal.into_error())
}

fn label(result: Result<Identity, Error>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(Error::CredentialRefused { reason }) => reason,
        Err(Error::CredentialMissing) => "missing",
        Err(other) => panic!("{other}"),
    }
}

impl Setting {
    fn ask(&self, token: &str, now_unix: u64) -> &'static str {
        label(identified(&self.authenticator, &head(&[&format!("Bearer {token}")]), &peer(), now_unix))
    }
}

fn authorized(authenticator: &Authenticator, head: &Head) -> Authorized {
    let (peer, destination) = (peer(), "10.0.0.1:8443".parse().unwrap());
    let request = Request { head, peer: &peer, host: "model.test", destination, now_unix: NOW, extra: None };
    let work = async { authenticator.authorize(authenticator.identify(request).await.ok()?, NOW).await.ok() };
    work.now_or_never().expect("nothing to wait for").expect("whom a method knows may go on")
}

#[test]
fn who_is_a_good_token() {
    let setting = setting(&[]);
    let token = es256(&setting.issuer, &claims());
    for _ in 0..2 {
        let identity = identified(&setting.authenticator, &head(&[&format!("bearer {token}")]), &peer(), NOW).unwrap();
        assert_eq!((identity.subject.as_str(), identity.issuer.as_str(), identity.method), ("ada", ISSUER, "jwt"));
        assert_eq!(identity.claims["role"], "reader");
        assert_eq!(identity.expires_at_unix, Some(NOW + 60 + jwt::LEEWAY_SECONDS));
        let authorized = authorized(&setting.authenticator, &head(&[&format!("bearer {token}")]));
        assert_eq!(authorized.identity().subject, "ada");
    }
}

#[test]
fn which_claims_are_taken() {
    let setting = setting(&[]);
    let cases = [
        (json!({}), "accepted"),
        (json!({"aud": ["other", AUDIENCE]}), "accepted"),
        (json!({"nbf": null}), "accepted"),
        (json!({"nbf": NOW + 30}), "accepted"),
        (json!({"nbf": NOW + 31}), "not_yet_valid"),
        (json!({"iat": NOW + 9999}), "accepted"),
        (json!({"exp": NOW as f64 + 0.5}), "accepted"),
        (json!({"exp": NOW - 29}), "accepted"),
        (json!({"exp": NOW - 30}), "expired"),
        (json!({"exp": 0}), "expired"),
        (json!({"exp": -5}), "expired"),
        (json!({"exp": 1e300}), "accepted"),
        (json!({"exp": null}), "expired"),
        (json!({"exp": "soon"}), "malformed"),
        (json!({"exp": [1]}), "malformed"),
        (json!({"iss": "https://issuer.test/"}), "issuer"),
        (json!({"iss": "HTTPS://issuer.test"}), "issuer"),
        (json!({"iss": null}), "issuer"),
        (json!({"iss": [ISSUER]}), "malformed"),
        (json!({"aud": "other"}), "audience"),
        (json!({"aud": []}), "audience"),
        (json!({"aud": ["Outrider"]}), "audience"),
        (json!({"aud": null}), "audience"),
        (json!({"aud": {"outrider": true}}), "malformed"),
        (json!({"aud": [AUDIENCE, 7]}), "malformed"),
        (json!({"sub": null}), "subject"),
        (json!({"sub": ""}), "subject"),
        (json!({"sub": 7}), "malformed"),
    ];
    for (changes, expected) in cases {
        assert_eq!(setting.ask(&es256(&setting.issuer, &with(changes.clone())), NOW), expected, "{changes}");
    }
}

#[test]
fn which_headers_are_taken() {
    let setting = setting(&[]);
    let id = setting.issuer.key_id();
    let cases = [
        (json!({"alg": "ES256"}), "accepted"),
        (json!({"alg": "ES256", "kid": id, "typ": "at+jwt"}), "accepted"),
        (json!({"alg": "ES256", "kid": id, "typ": "application/AT+JWT"}), "accepted"),
        (json!({"alg": "ES256", "kid": id, "typ": "logout+jwt"}), "unsupported"),
        (json!({"alg": "ES256", "kid": id, "typ": "dpop+jwt"}), "unsupported"),
        (json!({"alg": "ES256", "kid": id, "crit": ["exp"], "exp": 1}), "unsupported"),
        (json!({"alg": "ES256", "kid": id, "crit": []}), "unsupported"),
        (json!({"alg": "none", "kid": id}), "algorithm"),
        (json!({"alg": "None"}), "algorithm"),
        (json!({"alg": "NONE"}), "algorithm"),
        (json!({"alg": "nOnE"}), "algorithm"),
        (json!({"alg": ""}), "algorithm"),
        (json!({"alg": " ES256"}), "algorithm"),
        (json!({"alg": "es256", "kid": id}), "algorithm"),
        (json!({"alg": "HS256", "kid": id}), "algorithm"),
        (json!({"alg": "HS512"}), "algorithm"),
        (json!({"alg": "RS256", "kid": id}), "algorithm"),
        (json!({"alg": "EdDSA", "kid": id}), "algorithm"),
        (json!({"alg": "ES384"}), "algorithm"),
        (json!({"alg": ["ES256"]}), "malformed"),
        (json!({"kid": id}), "malformed"),
        (json!({"alg": "ES256", "kid": "../../../dev/null"}), "unknown_key"),
        (json!({"alg": "ES256", "kid": "' OR 1=1 --"}), "unknown_key"),
        (json!({"alg": "ES256", "kid": ""}), "unknown_key"),
        (json!({"alg": "ES256", "kid": 7}), "malformed"),
        (json!("ES256"), "malformed"),
    ];
    for (header, expected) in cases {
        let token = token(&setting.issuer, &header, claims().to_string().as_bytes());
        assert_eq!(setting.ask(&token, NOW), expected, "{header}");
    }
}

#[test]
fn can_a_stranger_sign_for_himself() {
    let setting = setting(&[]);
    let stranger = Issuer::generate();
    let jwk: Value = serde_json::from_str(&stranger.jwks()).unwrap();
    let id = setting.issuer.key_id();
    let body = claims().to_string();
    for header in [
        json!({"alg": "ES256", "kid": id}),
        json!({"alg": "ES256", "kid": id, "jwk": jwk["keys"][0]}),
        json!({"alg": "ES256", "kid": id, "jku": "https://stranger.test/jwks.json", "x5u": "https://stranger.test"}),
    ] {
        assert_eq!(setting.ask(&token(&stranger, &header, body.as_bytes()), NOW), "signature", "{header}");
    }
    assert_eq!(setting.ask(&es256(&stranger, &claims()), NOW), "unknown_key");
    // The public key as an HMAC secret: the classic confusion.
    let header = json!({"alg": "HS256", "kid": id}).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&body));
    let secret = EncodingKey::from_secret(setting.issuer.jwks().as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &secret, Algorithm::HS256).unwrap();
    assert_eq!(setting.ask(&format!("{signed}.{signature}"), NOW), "algorithm");
}

#[test]
fn is_a_changed_token_refused() {
    let setting = setting(&[]);
    let good = es256(&setting.issuer, &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(with(json!({"sub": "root"})).to_string());
    let zero = URL_SAFE_NO_PAD.encode([0u8; 64]);
    let cases = [
        (format!("{}.{other}.{}", parts[0], parts[2]), "signature"),
        (format!("{}.{}.", parts[0], parts[1]), "signature"),
        (format!("{}.{}.{zero}", parts[0], parts[1]), "signature"),
        (format!("{}.{}.{}=", parts[0], parts[1], parts[2]), "signature"),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), "malformed"),
        (format!("{}.{}", parts[0], parts[1]), "malformed"),
        (format!("{good}.{}", parts[2]), "malformed"),
        ("..".into(), "malformed"),
        ("garbage".into(), "malformed"),
        ("e30.e30.e30".into(), "malformed"),
        ("a".repeat(20_000), "malformed"),
    ];
    for (token, expected) in cases {
        assert_eq!(setting.ask(&token, NOW), expected, "{token}");
    }
    // The good one stays good after all that, from the cache too.
    assert_eq!(setting.ask(&good, NOW), "accepted");
}

#[test]
fn are_claims_given_twice_refused() {
    let setting = setting(&[]);
    let body = claims().to_string();
    let twice = body.replacen('{', r#"{"sub":"root","#, 1);
    let header = json!({"alg": "ES256"});
    assert_eq!(setting.ask(&token(&setting.issuer, &header, twice.as_bytes()), NOW), "malformed");
    for garbage in [&b"[]"[..], b"null", b"{", b"\xff\xfe", b""] {
        assert_eq!(setting.ask(&token(&setting.issuer, &header, garbage), NOW), "malformed");
    }
}

#[test]
fn does_a_cached_verdict_end_with_its_token() {
    let setting = setting(&[]);
    let token = es256(&setting.issuer, &claims());
    assert_eq!(setting.ask(&token, NOW), "accepted");
    assert_eq!(setting.ask(&token, NOW + 89), "accepted");
    assert_eq!(setting.ask(&token, NOW + 90), "expired");
    assert_eq!(setting.ask(&token, NOW - 200), "not_yet_valid");
}

#[test]
fn is_a_changed_key_set_noticed_and_a_broken_one_not() {
    let setting = setting(&[]);
    let file = setting.directory.path().join("jwks.json");
    let old = es256(&setting.issuer, &claims());
    assert_eq!(setting.ask(&old, NOW), "accepted");
    for broken in ["", "{", r#"{"keys": []}"#, "\u{0}"] {
        std::fs::write(&file, broken).unwrap();
        assert_eq!(setting.ask(&old, NOW + 10), "accepted");
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(setting.ask(&old, NOW + 20), "accepted");
    let next = Issuer::generate();
    write_private(&file, next.jwks().as_bytes()).unwrap();
    let new = es256(&next, &claims());
    // Within two seconds of the last look nobody looks again.
    assert_eq!(setting.ask(&new, NOW + 21), "unknown_key");
    assert_eq!(setting.ask(&new, NOW + 22), "accepted");
    assert_eq!(setting.ask(&old, NOW + 22), "unknown_key", "a revoked key's cached verdicts go with it");
}

#[test]
fn who_enters_by_which_method() {
    let strict = setting(&[]);
    assert_eq!(label(identified(&strict.authenticator, &head(&[]), &peer(), NOW)), "missing");
    assert_eq!(label(identified(&strict.authenticator, &head(&["Basic YTpi"]), &peer(), NOW)), "missing");
    let good = format!("Bearer {}", es256(&strict.issuer, &claims()));
    assert_eq!(label(identified(&strict.authenticator, &head(&[&good, &good]), &peer(), NOW)), "ambiguous");

    let open = setting(&[Config::Anonymous]);
    let nobody = identified(&open.authenticator, &head(&[]), &peer(), NOW).unwrap();
    assert_eq!((nobody.subject.as_str(), nobody.method), ("anonymous", "anonymous"));
    assert_eq!(open.ask("garbage", NOW), "malformed", "a bad credential is not forgiven");

    let free = Authenticator::from_config(&[Config::Anonymous]).unwrap();
    assert_eq!(label(identified(&free, &head(&["Bearer sk-nothing"]), &peer(), NOW)), "accepted");

    let id = SpiffeId::parse("spiffe://td/ns/default/sa/client").unwrap();
    let tls = Peer { spiffe: Some(id.clone()), tls: true, ..peer() };
    let mesh = setting(&[Config::Mtls]);
    let workload = identified(&mesh.authenticator, &head(&[]), &tls, NOW).unwrap();
    assert_eq!((workload.subject.as_str(), workload.issuer.as_str(), workload.method), (id.as_str(), "td", "mtls"));
    assert_eq!(label(identified(&mesh.authenticator, &head(&[]), &peer(), NOW)), "missing");
    let both = format!("Bearer {}", es256(&mesh.issuer, &claims()));
    let both = identified(&mesh.authenticator, &head(&[&both]), &tls, NOW).unwrap();
    assert_eq!((both.method, both.spiffe), ("jwt", Some(id)));
}

#[test]
fn what_a_wrong_setting_is_told() {
    let problem = |methods: &[Config]| Authenticator::from_config(methods).err().unwrap().to_string();
    assert!(problem(&[]).starts_with("auth.methods: no method is listed"));
    let directory = tempfile::tempdir().unwrap();
    let absent = problem(&[Config::Anonymous, jwt(&directory)]);
    assert!(absent.starts_with("auth.methods[1].jwt.jwks_file: ") && absent.contains("jwks.json"), "{absent}");
    let empty = Config::Jwt(Jwt::new(Keys::File("x".into()), Some(ISSUER.into()), vec![String::new()]));
    assert!(problem(&[empty]).starts_with("auth.methods[0].jwt.audience: "));
}

#[test]
fn are_the_issuers_own_tokens_accepted() {
    let setting = setting(&[]);
    let again = Issuer::parse(&setting.issuer.pem()).unwrap();
    assert_eq!(again.key_id(), setting.issuer.key_id());
    let mut extra = Map::new();
    extra.insert("sub".into(), json!("root"));
    extra.insert("team".into(), json!("blue"));
    let token = again.mint(Token {
        issuer: ISSUER,
        subject: "ada",
        audience: AUDIENCE,
        issued_at_unix: NOW,
        ttl_seconds: 60,
        claims: extra,
    });
    let identity = identified(&setting.authenticator, &head(&[&format!("Bearer {token}")]), &peer(), NOW).unwrap();
    assert_eq!((identity.subject.as_str(), &identity.claims["team"]), ("ada", &json!("blue")));
    assert!(Issuer::parse("garbage").is_err());
}

proptest! {
    #[test]
    fn no_credential_makes_it_panic(text in "[ -~]{0,60}", parts in proptest::collection::vec(any::<Vec<u8>>(), 0..5)) {
        thread_local!(static SETTING: Setting = setting(&[]));
        let encoded: Vec<String> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
        SETTING.with(|setting| {
            let _ = identified(&setting.authenticator, &head(&[&text]), &peer(), NOW);
            prop_assert_ne!(setting.ask(&encoded.join("."), NOW), "accepted");
            Ok(())
        })?;
    }
}
