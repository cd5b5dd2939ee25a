//! What those behind us are told, and that whoever verifies a wristband believes it.

use super::*;
use crate::auth::endpoint::testing::{Ground, words};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::json as value;

fn open(name: &str, settings: Value, ground: &Ground) -> Result<Box<dyn Response>, String> {
    let kind = RESPONSES.iter().find(|kind| kind.name == name).unwrap();
    let mut problems = Vec::new();
    (kind.open)(settings, "r", &ground.site(), &mut problems).ok_or_else(|| words(&problems))
}

fn root() -> Value {
    value!({"request": {"method": "GET"}, "auth": {"identity": {"sub": "ann", "iss": "https://idp", "n": [1, 2]}}})
}

/// Keys as operators have them; leaked, because a test's Secrets live for ever.
fn secrets(pems: &[(&str, String)]) -> &'static [(&'static str, &'static str)] {
    let entry = |(name, pem): &(&str, String)| -> (&'static str, &'static str) {
        (format!("ns/{name}/key.pem").leak(), pem.clone().leak())
    };
    pems.iter().map(entry).collect::<Vec<_>>().leak()
}

fn ec(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
    rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem()
}

#[test]
fn is_the_table_sorted() {
    assert!(RESPONSES.iter().map(|kind| kind.name).is_sorted());
}

#[tokio::test]
async fn what_do_plain_and_json_say() {
    let ground = Ground::new(&[]);
    for (name, settings, expected) in [
        ("plain", value!({"selector": "auth.identity.sub"}), value!("ann")),
        ("plain", value!({"selector": "{request.method} of {auth.identity.sub}"}), value!("GET of ann")),
        ("plain", value!({"expression": "auth.identity.n"}), value!([1, 2])),
        ("plain", value!({"selector": "auth.identity.gone"}), value!(null)),
        (
            "json",
            value!({"properties": {"b": {"value": 1}, "a": {"selector": "auth.identity.n"}}}),
            value!({"a": [1, 2], "b": 1}),
        ),
    ] {
        let response = open(name, settings, &ground).unwrap();
        assert_eq!(response.make(&root(), 0).await, Ok(expected));
        assert!(response.published().is_none());
    }
    let broken =
        open("json", value!({"properties": {"a": {"value": 1}, "b": {"expression": "1 / 0"}}}), &ground).unwrap();
    assert!(broken.make(&root(), 0).await.unwrap_err().starts_with("b: "));
    let error =
        open("json", value!({"properties": {"a": {}, "b": {"value": 1, "selector": "x"}}}), &ground).err().unwrap();
    assert!(error.contains("r.properties.a: give exactly one") && error.contains("r.properties.b: give"), "{error}");
}

#[test]
fn which_values_can_a_header_carry() {
    for (given, expected) in [
        (value!("a"), Ok("a")),
        (value!(null), Ok("")),
        (value!(3), Ok("3")),
        (value!({"a": "b"}), Ok(r#"{"a":"b"}"#)),
        (value!("J\u{fc}rgen"), Ok("J\u{fc}rgen")),
        (value!("a\r\nx-admin: yes"), Err("has a line break or another control character")),
        (value!("a\0"), Err("has a line break or another control character")),
        (value!("x".repeat(16 * 1024 + 1)), Err("has more than 16384 bytes")),
    ] {
        let made = header_value(&given);
        let made = made.as_ref().map(|made| std::str::from_utf8(made.as_bytes()).unwrap()).map_err(String::as_str);
        assert_eq!(made, expected);
    }
    // JSON escapes what would break a line.
    assert_eq!(header_value(&value!(["a\r\nb"])).unwrap(), "[\"a\\r\\nb\"]");
}

#[tokio::test]
async fn is_a_wristband_believed_by_who_asks_for_its_keys() {
    let rsa = std::process::Command::new("openssl").args(["genrsa", "-traditional", "2048"]).output();
    let mut pems = vec![("p256", ec(&rcgen::PKCS_ECDSA_P256_SHA256)), ("p384", ec(&rcgen::PKCS_ECDSA_P384_SHA384))];
    let mut cases = vec![("p256", "ES256", Algorithm::ES256), ("p384", "ES384", Algorithm::ES384)];
    if let Some(rsa) = rsa.ok().filter(|made| made.status.success()) {
        pems.push(("rsa", String::from_utf8(rsa.stdout).unwrap()));
        for (name, algorithm) in [("RS256", Algorithm::RS256), ("RS384", Algorithm::RS384), ("RS512", Algorithm::RS512)]
        {
            cases.push(("rsa", name, algorithm));
        }
        let sec1 = std::process::Command::new("openssl").args(["ecparam", "-name", "prime256v1", "-genkey"]).output();
        pems.push(("sec1", String::from_utf8(sec1.unwrap().stdout).unwrap()));
        cases.push(("sec1", "ES256", Algorithm::ES256));
    }
    let ground = Ground::new(secrets(&pems));
    for (key, algorithm, expected) in cases {
        let settings = value!({
            "issuer": "https://us/ns/policy/band",
            "customClaims": {"scope": {"value": ["a"]}, "who": {"selector": "auth.identity.sub"}},
            "signingKeyRefs": [{"name": key, "algorithm": algorithm}],
        });
        let band = open("wristband", settings, &ground).unwrap();
        let published = band.published().unwrap();
        let keys: JwkSet =
            serde_json::from_slice(published.document("/.well-known/openid-connect/certs").unwrap()).unwrap();
        for now_unix in [1_000, 4_000_000_000] {
            let token = band.make(&root(), now_unix).await.unwrap();
            let mut validation = Validation::new(expected);
            validation.set_issuer(&["https://us/ns/policy/band"]);
            validation.validate_exp = now_unix > 1_000;
            let key = DecodingKey::from_jwk(keys.find(key).unwrap()).unwrap();
            let token = jsonwebtoken::decode::<Value>(token.as_str().unwrap(), &key, &validation).expect(algorithm);
            assert_eq!(token.claims["exp"], now_unix + 300);
            assert_eq!(token.claims["iat"], now_unix);
            assert_eq!((&token.claims["who"], &token.claims["scope"]), (&value!("ann"), &value!(["a"])));
            // printf '{"iss":"https://idp","n":[1,2],"sub":"ann"}' | sha256sum
            assert_eq!(token.claims["sub"], "8ea810e40514f5c75d8c6d4e7ca375ccf17466119452a9539ce3a3dcccb86b67");
        }
    }
}

#[tokio::test]
async fn what_is_published_and_what_is_not_signed() {
    let pems = [("new", ec(&rcgen::PKCS_ECDSA_P256_SHA256)), ("old", ec(&rcgen::PKCS_ECDSA_P384_SHA384))];
    let ground = Ground::new(secrets(&pems));
    let settings = value!({
        "issuer": "https://us/band",
        "tokenDuration": 60,
        "signingKeyRefs": [{"name": "new", "algorithm": "ES256"}, {"name": "old", "algorithm": "ES384"}],
    });
    let band = open("wristband", settings, &ground).unwrap();
    let published = band.published().unwrap();
    let configuration = published.document("/.well-known/openid-configuration").unwrap();
    let configuration: Value = serde_json::from_slice(configuration).unwrap();
    assert_eq!(configuration["issuer"], "https://us/band");
    assert_eq!(configuration["jwks_uri"], "https://us/band/.well-known/openid-connect/certs");
    assert_eq!(configuration["id_token_signing_alg_values_supported"], value!(["ES256", "ES384"]));
    let keys = String::from_utf8(published.document("/.well-known/openid-connect/certs").unwrap().to_vec()).unwrap();
    assert!(keys.contains("\"new\"") && keys.contains("\"old\"") && !keys.contains("\"d\""), "{keys}");
    assert!(published.document("/").is_none());
    let token = band.make(&root(), 0).await.unwrap();
    let header = URL_SAFE_NO_PAD.decode(token.as_str().unwrap().split('.').next().unwrap()).unwrap();
    assert_eq!(header, br#"{"alg":"ES256","kid":"new","typ":"JWT"}"#);
    let worn = value!({"auth": {"identity": {"iss": "https://us/band", "sub": "x"}}});
    assert_eq!(band.make(&worn, 0).await, Ok(Value::Null));
}

#[test]
fn which_wristbands_are_refused() {
    let pems = [
        ("p256", ec(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("ed", ec(&rcgen::PKCS_ED25519)),
        ("garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into()),
        ("text", "hello".into()),
    ];
    let ground = Ground::new(secrets(&pems));
    let key = |name: &str, algorithm: &str| value!([{"name": name, "algorithm": algorithm}]);
    for (keys, more, expected) in [
        (value!([]), value!({}), "r.signingKeyRefs: needs at least one key"),
        (key("no", "ES256"), value!({}), "r.signingKeyRefs[0]: the Secret ns/no has no key.pem"),
        (key("p256", "ES512"), value!({}), "ES512 is not supported"),
        (key("p256", "HS256"), value!({}), "must be one of"),
        (key("p256", "ES384"), value!({}), "not for ES384"),
        (key("p256", "RS256"), value!({}), "not for RS256"),
        (key("ed", "ES256"), value!({}), "not for ES256"),
        (key("garbage", "ES256"), value!({}), "cannot sign"),
        (key("text", "ES256"), value!({}), "no private key in PEM"),
        (key("p256", "ES256"), value!({"tokenDuration": 0}), "r.tokenDuration: is in seconds, from 1"),
        (
            key("p256", "ES256"),
            value!({"customClaims": {"exp": {"value": 9}}}),
            "r.customClaims.exp: is for the wristband",
        ),
    ] {
        let mut settings = value!({"issuer": "https://us", "signingKeyRefs": keys});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = open("wristband", settings, &ground).err().unwrap();
        assert!(error.contains(expected), "{error}: {expected}");
    }
}
