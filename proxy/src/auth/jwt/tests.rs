//! Every attack on tokens that we know of (RFC 8725 and friends), against every kind of key.

use super::*;
use crate::auth::rsa_vectors::{SIGNING, SIGNING_MODULUS, SIGNING_PUBLIC};
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde_json::json;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "outrider";
const KID: &str = "k1";

/// A key, what it signs with, and its public half in every form that a careless library might take for a secret.
struct Family {
    alg: &'static str,
    key: EncodingKey,
    jwk: Value,
    public: Vec<Vec<u8>>,
    pkcs8: Vec<u8>,
}

impl Family {
    fn of(alg: &'static str) -> Family {
        match alg {
            "ES256" => Family::rcgen(alg, &rcgen::PKCS_ECDSA_P256_SHA256, "P-256"),
            "ES384" => Family::rcgen(alg, &rcgen::PKCS_ECDSA_P384_SHA384, "P-384"),
            "EdDSA" => Family::rcgen(alg, &rcgen::PKCS_ED25519, "Ed25519"),
            _ => Family::rsa(alg),
        }
    }

    fn rcgen(alg: &'static str, kind: &'static rcgen::SignatureAlgorithm, crv: &str) -> Family {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let raw = pair.public_key_raw();
        let (key, jwk) = if crv == "Ed25519" {
            let jwk = json!({"kty": "OKP", "crv": crv, "x": URL_SAFE_NO_PAD.encode(raw), "kid": KID});
            (EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(), jwk)
        } else {
            let (x, y) = raw[1..].split_at(raw.len() / 2);
            let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
            let jwk = json!({"kty": "EC", "crv": crv, "x": x, "y": y, "kid": KID});
            (EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(), jwk)
        };
        let public = publics(&rcgen::PublicKeyData::subject_public_key_info(&pair), raw, &jwk);
        Family { alg, key, jwk, public, pkcs8: pair.serialize_der() }
    }

    fn rsa(alg: &'static str) -> Family {
        let der = STANDARD.decode(SIGNING).unwrap();
        let jwk = json!({"kty": "RSA", "n": SIGNING_MODULUS, "e": "AQAB", "kid": KID, "alg": alg});
        let modulus = URL_SAFE_NO_PAD.decode(SIGNING_MODULUS).unwrap();
        let public = publics(&STANDARD.decode(SIGNING_PUBLIC).unwrap(), &modulus, &jwk);
        Family { alg, key: EncodingKey::from_rsa_der(&der), jwk, public, pkcs8: Vec::new() }
    }

    fn keys(&self) -> KeySet {
        KeySet::parse(json!({ "keys": [self.jwk] }).to_string().as_bytes()).unwrap().0
    }

    /// Signed as it should be, whatever header and payload say.
    fn sign(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, algorithm(self.alg).unwrap()).unwrap();
        format!("{signed}.{signature}")
    }

    fn header(&self, more: Value) -> String {
        let mut header = json!({"alg": self.alg, "kid": KID});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        header.to_string()
    }

    fn good(&self) -> String {
        self.sign(self.header(json!({})), claims(json!({})))
    }

    fn says(&self, token: &str) -> &'static str {
        label(verify(token, &self.keys(), &expected(), NOW))
    }
}

/// SPKI in DER and PEM (with and without its last line break), the bare key, the JWK, and its set.
fn publics(der: &[u8], raw: &[u8], jwk: &Value) -> Vec<Vec<u8>> {
    let body: Vec<String> =
        STANDARD.encode(der).as_bytes().chunks(64).map(|l| String::from_utf8_lossy(l).into()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", body.join("\n"));
    let texts = [pem.trim_end().to_owned(), pem, jwk.to_string(), json!({ "keys": [jwk] }).to_string(), String::new()];
    let texts = texts.into_iter().map(String::into_bytes);
    texts.chain([der.to_vec(), raw.to_vec(), b"secret".to_vec(), vec![0; 32]]).collect()
}

const FAMILIES: [&str; 9] = ["ES256", "ES384", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

fn expected() -> Expected {
    Expected { issuer: Some(ISSUER.into()), audiences: vec![AUDIENCE.into()], ..Expected::default() }
}

fn claims(changes: Value) -> String {
    let mut all = json!({"iss": ISSUER, "sub": "ada", "aud": AUDIENCE, "exp": NOW + 60});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all.to_string()
}

fn label(result: Result<Verified, Reason>) -> &'static str {
    result.map_or_else(Reason::label, |_| "accepted")
}

fn hmac(alg: &str, secret: &[u8], kid: Value) -> String {
    let header = json!({"alg": alg, "kid": kid, "typ": "JWT"}).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims(json!({}))));
    let which = alg.parse().unwrap();
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(secret), which).unwrap();
    format!("{signed}.{signature}")
}

#[test]
fn is_every_kind_of_key_taken() {
    for alg in FAMILIES {
        let family = Family::of(alg);
        assert_eq!(family.says(&family.good()), "accepted", "{alg}");
        let narrowed = Expected { algorithms: vec![algorithm(alg).unwrap()], ..expected() };
        assert_eq!(label(verify(&family.good(), &family.keys(), &narrowed, NOW)), "accepted", "{alg}");
        let other = Expected {
            algorithms: vec![if alg == "ES256" { Algorithm::ES384 } else { Algorithm::ES256 }],
            ..expected()
        };
        assert_eq!(label(verify(&family.good(), &family.keys(), &other, NOW)), "algorithm", "{alg}");
    }
    let family = Family::of("EdDSA");
    assert_eq!(family.says(&family.sign(json!({"alg": "Ed25519"}).to_string(), claims(json!({})))), "accepted");
}

#[test]
fn does_the_token_choose_its_algorithm() {
    for alg in FAMILIES {
        let family = Family::of(alg);
        let body = claims(json!({}));
        for none in ["none", "None", "NONE", "nOnE", "", " ", "none ", "null", "NoNe\u{0}", "n\u{f6}ne", "plain"] {
            let unsigned = format!(
                "{}.{}.",
                URL_SAFE_NO_PAD.encode(family.header(json!({"alg": none}))),
                URL_SAFE_NO_PAD.encode(&body)
            );
            assert_eq!(family.says(&unsigned), "algorithm", "{alg} {none:?}");
            assert_eq!(
                family.says(&family.sign(family.header(json!({"alg": none})), &body)),
                "algorithm",
                "{alg} {none:?}"
            );
        }
        for (other, _) in ALGORITHMS {
            let same = other == alg || alg == "EdDSA" && other == "Ed25519";
            let said = family.says(&family.sign(family.header(json!({"alg": other})), &body));
            assert_eq!(said, if same { "accepted" } else { "algorithm" }, "{alg} as {other}");
        }
        for spelled in
            [alg.to_lowercase(), format!(" {alg}"), format!("{alg}\0"), "ES512".into(), "ES256K".into(), "dir".into()]
        {
            if spelled != alg {
                assert_eq!(
                    family.says(&family.sign(family.header(json!({"alg": spelled})), &body)),
                    "algorithm",
                    "{spelled:?}"
                );
            }
        }
        for alg in [json!(["ES256"]), json!({}), json!(1), json!(true)] {
            assert_eq!(family.says(&family.sign(family.header(json!({"alg": alg})), &body)), "malformed");
        }
        assert_eq!(family.says(&family.sign(json!({"kid": KID}).to_string(), &body)), "malformed", "no alg");
        assert_eq!(family.says(&family.sign(r#"{"alg":null}"#, &body)), "malformed");
    }
}

#[test]
fn is_a_public_key_a_secret() {
    for alg in FAMILIES {
        let family = Family::of(alg);
        for secret in &family.public {
            for hs in ["HS256", "HS384", "HS512"] {
                for kid in [json!(KID), Value::Null, json!("")] {
                    assert_eq!(family.says(&hmac(hs, secret, kid)), "algorithm", "{alg} {hs}");
                }
            }
        }
        // The same code in a token that claims the right algorithm.
        let forged = hmac("HS256", &family.public[0], json!(KID));
        let tag = forged.rsplit('.').next().unwrap();
        let good = family.good();
        let signed = good.rsplit_once('.').unwrap().0;
        assert_eq!(family.says(&format!("{signed}.{tag}")), "signature", "{alg}");
    }
}

#[test]
fn can_a_token_bring_or_name_its_own_key() {
    for alg in FAMILIES {
        let (family, body) = (Family::of(alg), claims(json!({})));
        let stranger = match alg {
            "ES256" | "ES384" | "EdDSA" => Family::of(alg),
            _ => Family::of("ES256"),
        };
        let want = if stranger.alg == alg { "signature" } else { "algorithm" };
        let certificate = STANDARD.encode(b"a certificate");
        for more in [
            json!({"jwk": stranger.jwk}),
            json!({"jku": "https://stranger.test/keys"}),
            json!({"jku": "https://issuer.test@stranger.test/keys"}),
            json!({"jku": "file:///dev/null"}),
            json!({"x5u": "https://stranger.test/chain.pem"}),
            json!({"x5c": [certificate]}),
            json!({"x5t": "AAAA", "x5t#S256": "AAAA"}),
            json!({"jwk": stranger.jwk, "jku": "https://stranger.test", "x5u": "https://stranger.test", "x5c": [certificate]}),
        ] {
            assert_eq!(stranger_says(&family, &stranger, &more, &body), want, "{alg} {more}");
            assert_eq!(family.says(&family.sign(family.header(more.clone()), &body)), "accepted", "only words: {more}");
        }
    }
}

fn stranger_says(family: &Family, stranger: &Family, more: &Value, body: &str) -> &'static str {
    family.says(&stranger.sign(stranger.header(more.clone()), body))
}

#[test]
fn is_a_key_id_anything_but_a_name() {
    let family = Family::of("ES256");
    for kid in [
        "../../../../../dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "..%2f..%2fdev%2fnull",
        "k1\0",
        "K1",
        " k1",
        "k1 ",
        "' OR '1'='1",
        "k1' UNION SELECT 'x'--",
        "; rm -rf /",
        "$(id)",
        "`id`",
        "| cat /etc/passwd",
        "http://169.254.169.254/",
        "",
        "*",
        "k?",
        "{{7*7}}",
        "%s%n",
        "\u{202e}1k",
        "__proto__",
    ] {
        assert_eq!(
            family.says(&family.sign(family.header(json!({"kid": kid})), claims(json!({})))),
            "unknown_key",
            "{kid:?}"
        );
    }
    let long = "k".repeat(8000);
    assert_eq!(family.says(&family.sign(family.header(json!({"kid": long})), claims(json!({})))), "unknown_key");
    for kid in [json!(1), json!(["k1"]), json!({"$ne": null}), json!(true)] {
        assert_eq!(
            family.says(&family.sign(family.header(json!({"kid": kid})), claims(json!({})))),
            "malformed",
            "{kid}"
        );
    }
}

#[test]
fn is_anything_said_twice_refused() {
    for alg in ["ES256", "EdDSA", "RS256"] {
        let (family, body) = (Family::of(alg), claims(json!({})));
        for header in [
            format!(r#"{{"alg":"none","alg":"{alg}"}}"#),
            format!(r#"{{"alg":"{alg}","alg":"{alg}"}}"#),
            format!(r#"{{"alg":"{alg}","kid":"x","kid":"k1"}}"#),
            format!(r#"{{"alg":"{alg}","\u0061lg":"none"}}"#),
            format!(r#"{{"alg":"{alg}","x":1,"x":2}}"#),
            format!(r#"{{"alg":"{alg}","x":{{"y":1,"y":2}}}}"#),
        ] {
            assert_eq!(family.says(&family.sign(&header, &body)), "malformed", "{header}");
        }
        for more in [
            r#""sub":"root""#,
            r#""exp":9999999999"#,
            r#""aud":"other""#,
            r#""su\u0062":"root""#,
            r#""role":1,"role":2"#,
        ] {
            let twice = body.replacen('{', &format!("{{{more},"), 1);
            assert_eq!(family.says(&family.sign(family.header(json!({})), twice)), "malformed", "{more}");
        }
    }
}

#[test]
fn is_a_token_for_something_else_refused() {
    let family = Family::of("ES256");
    let says = |more: Value| family.says(&family.sign(family.header(more), claims(json!({}))));
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt", "APPLICATION/JWT"] {
        assert_eq!(says(json!({"typ": typ})), "accepted", "{typ}");
    }
    for typ in [
        "",
        "logout+jwt",
        "dpop+jwt",
        "secevent+jwt",
        "id+jwt",
        "JOSE",
        "JOSE+JSON",
        "jwt ",
        "at+jwt\0",
        "application/application/jwt",
    ] {
        assert_eq!(says(json!({"typ": typ})), "unsupported", "{typ}");
    }
    for more in [
        json!({"crit": ["b64"], "b64": false}),
        json!({"b64": false}),
        json!({"b64": true}),
        json!({"crit": []}),
        json!({"crit": ["exp"], "exp": 1}),
        json!({"crit": null}),
        json!({"zip": "DEF"}),
        json!({"enc": "A128GCM"}),
    ] {
        assert_eq!(says(more.clone()), "unsupported", "{more}");
    }
    assert_eq!(says(json!({"typ": 7})), "malformed");
    let strict = Expected { types: vec!["at+jwt".into()], ..expected() };
    let says =
        |more: Value| label(verify(&family.sign(family.header(more), claims(json!({}))), &family.keys(), &strict, NOW));
    for (more, want) in [
        (json!({"typ": "AT+jwt"}), "accepted"),
        (json!({"typ": "application/at+jwt"}), "accepted"),
        (json!({"typ": "JWT"}), "unsupported"),
        (json!({}), "unsupported"),
    ] {
        assert_eq!(says(more.clone()), want, "{more}");
    }
}

#[test]
fn which_shapes_are_no_token() {
    for alg in ["ES256", "RS256", "EdDSA"] {
        let family = Family::of(alg);
        let good = family.good();
        let [header, payload, signature] = parts(&good).unwrap();
        let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let deep = format!(r#"{{"alg":"{alg}","x":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
        let body = claims(json!({}));
        for (token, want) in [
            (json!({"payload": payload, "protected": header, "signature": signature}).to_string(), "malformed"),
            (
                json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string(),
                "malformed",
            ),
            (format!("{header}.{payload}.{signature}.{signature}.{signature}"), "malformed"),
            (format!("{header}..{signature}"), "signature"),
            (format!("{header}.{payload}"), "malformed"),
            (format!(".{payload}.{signature}"), "malformed"),
            (format!("{good}."), "malformed"),
            (format!(".{good}"), "malformed"),
            (format!("{header}=.{payload}.{signature}"), "malformed"),
            (format!("{header}.{payload}=.{signature}"), "signature"),
            (format!("{good}="), "signature"),
            (format!("{good}=="), "signature"),
            (format!(" {good}"), "malformed"),
            (format!("{good} "), "signature"),
            (format!("{good}\n"), "signature"),
            (format!("{}\n{}.{payload}.{signature}", &header[..4], &header[4..]), "malformed"),
            (format!("{header}.{payload}.{}", STANDARD.encode(&raw)), "signature"),
            (format!("{header}.{payload}.{}", &signature[..signature.len() - 4]), "signature"),
            (format!("{header}.{payload}.{signature}AAAA"), "signature"),
            (format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(vec![0; raw.len()])), "signature"),
            (format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(vec![255; raw.len()])), "signature"),
            (format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims(json!({"sub": "root"})))), "signature"),
            (family.sign(family.header(json!({})), format!("\u{feff}{body}")), "malformed"),
            (family.sign(format!("\u{feff}{}", family.header(json!({}))), &body), "malformed"),
            (family.sign(family.header(json!({})), format!("{body}\0")), "malformed"),
            (family.sign(family.header(json!({})), format!("{body}{body}")), "malformed"),
            (family.sign(family.header(json!({})), b"{\"iss\":\"\xff\xfe\"}"), "malformed"),
            (family.sign(b"{\"alg\":\"\xc3\x28\"}", &body), "malformed"),
            (family.sign(family.header(json!({})), "[]"), "malformed"),
            (family.sign("[]", &body), "malformed"),
            (family.sign(family.header(json!({})), family.good()), "malformed"),
            (
                family.sign(family.header(json!({})), format!(r#"{{"x":{}1{}}}"#, "[".repeat(500), "]".repeat(500))),
                "malformed",
            ),
            (family.sign(deep, &body), "malformed"),
            (
                family.sign(family.header(json!({})), claims(json!({"x": "y".repeat(CREDENTIAL_BYTES_MAX)}))),
                "malformed",
            ),
            (String::new(), "malformed"),
            ("..".into(), "malformed"),
        ] {
            assert_eq!(family.says(&token), want, "{alg} {}", &token[..token.len().min(200)]);
        }
        // The last character of base64 may have bits that decode to nothing: another text, the same bytes.
        let last = signature.as_bytes()[signature.len() - 1];
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for other in alphabet.iter().filter(|other| **other != last) {
            let token = format!("{}{}", &good[..good.len() - 1], char::from(*other));
            assert_eq!(family.says(&token), "signature", "{alg} {}", char::from(*other));
        }
    }
}

/// Order of the group of P-256 (FIPS 186-5).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

#[test]
fn which_numbers_are_no_signature() {
    let family = Family::of("ES256");
    let good = family.good();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = raw.split_at(32);
    let (zero, mut above) = ([0u8; 32], P256_ORDER);
    above[31] += 1;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &family.pkcs8, &SystemRandom::new()).unwrap();
    let der = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    for bytes in [
        [&zero[..], s].concat(),
        [r, &zero].concat(),
        [&zero[..], &zero].concat(),
        [&P256_ORDER[..], s].concat(),
        [r, &P256_ORDER].concat(),
        [&P256_ORDER[..], &P256_ORDER].concat(),
        [&above[..], &above].concat(),
        [s, r].concat(),
        [&[0][..], r, s].concat(),
        [&[0][..], r, &[0], s].concat(),
        [r, s, &[0]].concat(),
        r.to_vec(),
        raw[1..].to_vec(),
        der.as_ref().to_vec(),
        Vec::new(),
    ] {
        assert_eq!(family.says(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&bytes))), "signature", "{bytes:?}");
    }
    // A point that is on no curve verifies nothing.
    for (x, y) in [([0u8; 32], [0u8; 32]), ([1; 32], [1; 32]), ([255; 32], [255; 32])] {
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": KID});
        let (keys, _) = KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
        assert_eq!(label(verify(&good, &keys, &expected(), NOW)), "signature");
    }
}

#[test]
fn when_is_a_token_good() {
    let family = Family::of("ES256");
    let at = |leeway_seconds: u64, text: &str| {
        let body = claims(json!({"exp": null})).replacen('{', &format!("{{{text},"), 1);
        let expected = Expected { leeway_seconds, ..expected() };
        label(verify(&family.sign(family.header(json!({})), body), &family.keys(), &expected, NOW))
    };
    for (leeway, exp, nbf, want) in [
        (0, 1, 0, "accepted"),
        (0, 0, 0, "expired"),
        (30, -29, 30, "accepted"),
        (30, -30, 0, "expired"),
        (30, 60, 31, "not_yet_valid"),
        (300, -299, 300, "accepted"),
        (300, -300, 0, "expired"),
        (0, 60, 1, "not_yet_valid"),
        (0, 60, 0, "accepted"),
    ] {
        let shifted = |by: i64| NOW.saturating_add_signed(by);
        assert_eq!(
            at(leeway, &format!(r#""exp":{},"nbf":{}"#, shifted(exp), shifted(nbf))),
            want,
            "{leeway} {exp} {nbf}"
        );
    }
    for (text, want) in [
        (r#""x":1"#, "expired"),
        (r#""exp":null"#, "expired"),
        (r#""exp":-1"#, "expired"),
        (r#""exp":-1e300"#, "expired"),
        (r#""exp":0"#, "expired"),
        (r#""exp":1800000000.999"#, "expired"),
        (r#""exp":1800000001.5"#, "accepted"),
        (r#""exp":18446744073709551615"#, "accepted"),
        (r#""exp":99999999999999999999999"#, "accepted"),
        (r#""exp":1e308"#, "accepted"),
        (r#""exp":1e400"#, "malformed"),
        (r#""exp":"1900000000""#, "malformed"),
        (r#""exp":true"#, "malformed"),
        (r#""exp":[1900000000]"#, "malformed"),
        (r#""exp":{}"#, "malformed"),
        (r#""exp":NaN"#, "malformed"),
        (r#""exp":0x7fffffff"#, "malformed"),
        (r#""exp":1900000000,"nbf":"0""#, "malformed"),
        (r#""exp":1900000000,"nbf":-5"#, "accepted"),
        (r#""exp":1900000000,"nbf":18446744073709551615"#, "not_yet_valid"),
    ] {
        assert_eq!(at(0, text), want, "{text}");
    }
}

#[test]
fn which_names_and_claims_are_wanted() {
    let family = Family::of("ES256");
    let says = |expected: &Expected, changes: Value| {
        label(verify(&family.sign(family.header(json!({})), claims(changes)), &family.keys(), expected, NOW))
    };
    let wanted = Expected { required_claims: vec!["scope".into(), "azp".into()], ..expected() };
    assert_eq!(says(&wanted, json!({"scope": "a"})), "claim");
    assert_eq!(says(&wanted, json!({"scope": "a", "azp": ""})), "accepted");
    for subject in ["ada\0root", "ada\nroot", "\u{7f}", "a\u{85}"] {
        assert_eq!(says(&expected(), json!({"sub": subject})), "subject", "{subject:?}");
    }
    let anybody = Expected { issuer: None, audiences: Vec::new(), subject_required: false, ..Expected::default() };
    assert_eq!(says(&anybody, json!({"iss": null, "aud": null, "sub": null})), "accepted");
    assert_eq!(says(&anybody, json!({"iss": 7})), "malformed");
    assert_eq!(says(&expected(), json!({"iss": null})), "issuer");
    let two = Expected { audiences: vec!["x".into(), "y".into()], ..expected() };
    assert_eq!(says(&two, json!({"aud": ["z", "y"]})), "accepted");
    assert_eq!(says(&two, json!({"aud": ["xy", "x,y", "x y"]})), "audience");
}

/// The vectors of C2SP's Wycheproof, of every kind of key: `tests/goldens/jws/wycheproof.json` says where they are from.
#[test]
fn do_we_judge_signatures_as_wycheproof_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/jws/wycheproof.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).expect("a golden")).unwrap();
    let (mut judged, mut wrong) = ([0, 0], Vec::new());
    for group in all["groups"].as_array().unwrap() {
        let keys = KeySet::parse(json!({"keys": [group["public"]]}).to_string().as_bytes());
        for test in group["tests"].as_array().unwrap() {
            let token = test["jws"].as_str().unwrap();
            let says = match &keys {
                Ok((keys, _)) => signed(token, keys, &Expected::default()).map(|_| ()).map_err(Reason::label),
                Err(_) => Err("no key"),
            };
            let valid = test["result"] == "valid";
            judged[usize::from(valid)] += 1;
            // P-521 is no curve of ours. Figure 20 is signed as PS384 by a key that says it is for PS256.
            let ours = group["public"]["crv"] == "P-521" || test["comment"] == "Figure20";
            if says.is_ok() != (valid && !ours) {
                wrong.push(format!("{} {} {}: {says:?}", group["comment"], test["id"], test["comment"]));
            }
        }
    }
    assert!(judged[0] > 300 && judged[1] > 20, "{judged:?}");
    assert_eq!(wrong, [""; 0]);
}

proptest! {
    #[test]
    fn is_every_changed_bit_noticed(at in any::<proptest::sample::Index>(), bit in 0u8..6) {
        thread_local!(static GOOD: (Family, String) = { let family = Family::of("ES256"); let good = family.good(); (family, good) });
        GOOD.with(|(family, good)| {
            let mut bytes = good.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert_ne!(family.says(&changed), "accepted");
            }
            Ok(())
        })?;
    }
}
