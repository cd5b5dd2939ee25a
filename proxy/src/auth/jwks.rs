//! JSON Web Key Sets (RFC 7517): the keys we believe, each pinned to the algorithms it may verify.
//!
//! Never takes a symmetric key: whoever can read a key set could then sign. One bad key does not spoil the others.

use super::Reason;
use crate::files::read_bounded;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use std::path::Path;

const FILE_BYTES_MAX: u64 = 1 << 20;
const KEYS_MAX: usize = 128;

/// Public keys by id.
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

/// One member of `keys`, as far as we read it (RFC 7518, section 6; RFC 8037).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl KeySet {
    /// The usable keys, and for every other one why it is not used.
    pub fn parse(bytes: &[u8]) -> Result<(KeySet, Vec<String>), String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("holds {} keys; at most {KEYS_MAX} are read", set.keys.len()));
        }
        let (mut keys, mut skipped) = (Vec::<Key>::new(), Vec::new());
        for (index, value) in set.keys.into_iter().enumerate() {
            let key = serde_json::from_value::<Jwk>(value).map_err(|error| error.to_string()).and_then(Key::new);
            match key {
                Ok(key) if keys.iter().any(|other| key.clashes(other)) => {
                    skipped.push(format!("keys[{index}]: the same `kid` and algorithm as a key before it"));
                }
                Ok(key) => keys.push(key),
                Err(reason) => skipped.push(format!("keys[{index}]: {reason}")),
            }
        }
        if keys.is_empty() {
            return Err(format!("holds no key that can verify a signature ({})", skipped.join("; ")));
        }
        Ok((KeySet { keys }, skipped))
    }

    /// The one key for a token's header. Without a `kid` only an unambiguous key is taken.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&DecodingKey, Reason> {
        let of_id = || self.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id);
        let mut fitting = of_id().filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(&only.key),
            (None, _) if of_id().next().is_some() => Err(Reason::Algorithm),
            _ => Err(Reason::UnknownKey),
        }
    }
}

impl Key {
    fn new(jwk: Jwk) -> Result<Key, String> {
        if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err("`use` is not sig".into());
        }
        if jwk.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return Err("`key_ops` lacks verify".into());
        }
        let (algorithms, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => (&[Algorithm::ES256] as &'static [_], elliptic(&jwk, 32)?),
            ("EC", Some("P-384")) => (&[Algorithm::ES384] as &'static [_], elliptic(&jwk, 48)?),
            ("OKP", Some("Ed25519")) => (&[Algorithm::EdDSA] as &'static [_], edwards(&jwk)?),
            ("RSA", _) => (rsa_algorithms(jwk.alg.as_deref())?, rsa(&jwk)?),
            ("EC", Some("P-521")) => {
                return Err("ES512 is not supported (P-521); let the issuer sign with ES256".into());
            }
            ("oct", _) => return Err("a symmetric key would let every reader of this file sign".into()),
            (kty, crv) => return Err(format!("kty {kty}, crv {} is not supported", crv.unwrap_or("none"))),
        };
        let named = jwk.alg.as_deref().map(|name| (name, super::jwt::algorithm(name)));
        if let Some((name, _)) = named.filter(|(_, named)| !named.is_some_and(|named| algorithms.contains(&named))) {
            return Err(format!("`alg` {name} does not belong to this kind of key"));
        }
        Ok(Key { id: jwk.kid, algorithms, key })
    }

    fn clashes(&self, other: &Key) -> bool {
        self.id.is_some() && self.id == other.id && self.algorithms.iter().any(|a| other.algorithms.contains(a))
    }
}

fn rsa_algorithms(alg: Option<&str>) -> Result<&'static [Algorithm], String> {
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
    Ok(match alg {
        // Without `alg` the key itself cannot say which of them; all are signatures by the same private key.
        None => &[RS256, RS384, RS512, PS256, PS384, PS512],
        Some("RS256") => &[RS256],
        Some("RS384") => &[RS384],
        Some("RS512") => &[RS512],
        Some("PS256") => &[PS256],
        Some("PS384") => &[PS384],
        Some("PS512") => &[PS512],
        Some(other) => return Err(format!("`alg` {other} is not for RSA; RS256 to RS512 and PS256 to PS512 are")),
    })
}

fn member(value: &Option<String>, name: &str) -> Result<Vec<u8>, String> {
    let text = value.as_deref().ok_or_else(|| format!("`{name}` is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("`{name}` is not base64url without padding"))
}

fn elliptic(jwk: &Jwk, bytes: usize) -> Result<DecodingKey, String> {
    let (x, y) = (member(&jwk.x, "x")?, member(&jwk.y, "y")?);
    if x.len() != bytes || y.len() != bytes {
        return Err(format!("`x` and `y` of this curve are {bytes} bytes each"));
    }
    let point = [&[4u8][..], &x, &y].concat();
    Ok(DecodingKey::from_ec_der(&point))
}

fn edwards(jwk: &Jwk) -> Result<DecodingKey, String> {
    let x = member(&jwk.x, "x")?;
    if x.len() != 32 {
        return Err("`x` of Ed25519 is 32 bytes".into());
    }
    Ok(DecodingKey::from_ed_der(&x))
}

fn rsa(jwk: &Jwk) -> Result<DecodingKey, String> {
    let (n, e) = (member(&jwk.n, "n")?, member(&jwk.e, "e")?);
    let bits = n.iter().skip_while(|byte| **byte == 0).count() * 8;
    if !(2048..=8192).contains(&bits) {
        return Err(format!("an RSA key of {bits} bits is not taken; 2048 to 8192 are"));
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

/// A key set in a file.
pub fn load(path: &Path) -> Result<KeySet, String> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let (keys, skipped) = KeySet::parse(&bytes)?;
    for reason in skipped {
        tracing::warn!(file = %path.display(), %reason, "key not used");
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::issuer::Issuer;
    use crate::auth::jwt::{Expected, verify};
    use crate::auth::rsa_vectors::{MODULUS, MODULUS_1024, PS256, RS256};
    use serde_json::{Value, json};

    const NOW: u64 = 1_800_000_000;

    fn set(keys: Value) -> Result<(KeySet, Vec<String>), String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn rsa(more: Value) -> Value {
        let mut key = json!({"kty": "RSA", "n": MODULUS, "e": "AQAB", "kid": "r1"});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn elliptic() -> Value {
        serde_json::from_str::<Value>(&Issuer::generate().jwks()).unwrap()["keys"][0].clone()
    }

    fn ask(token: &str, keys: &KeySet) -> Result<String, Reason> {
        let issuer = Some("https://issuer.test".into());
        let expected = Expected { issuer, audiences: vec!["outrider".into()], ..Expected::default() };
        verify(token, keys, &expected, NOW).map(|verified| verified.subject)
    }

    #[test]
    fn which_rsa_signatures_a_key_may_verify() {
        let cases = [
            (json!({}), [Ok("ada".to_owned()), Ok("ada".to_owned())]),
            (json!({"alg": "RS256"}), [Ok("ada".into()), Err(Reason::Algorithm)]),
            (json!({"alg": "PS256", "use": "sig"}), [Err(Reason::Algorithm), Ok("ada".into())]),
            (json!({"kid": "r2"}), [Err(Reason::UnknownKey), Err(Reason::UnknownKey)]),
        ];
        for (more, expected) in cases {
            let (keys, _) = set(json!([rsa(more.clone())])).unwrap();
            assert_eq!([ask(RS256, &keys), ask(PS256, &keys)], expected, "{more}");
        }
    }

    #[test]
    fn is_ed25519_taken() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let (keys, _) = set(json!([{"kty": "OKP", "crv": "Ed25519", "x": x}])).unwrap();
        let signing = jsonwebtoken::EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        let claims = json!({"iss": "https://issuer.test", "sub": "ada", "aud": "outrider", "exp": NOW + 60});
        let header = jsonwebtoken::Header::new(Algorithm::EdDSA);
        let token = jsonwebtoken::encode(&header, &claims, &signing).unwrap();
        assert_eq!(ask(&token, &keys), Ok("ada".into()));
    }

    #[test]
    fn is_es384_taken() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let (x, y) = pair.public_key_raw()[1..].split_at(48);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let (keys, _) = set(json!([{"kty": "EC", "crv": "P-384", "x": x, "y": y}])).unwrap();
        let signing = jsonwebtoken::EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let claims = json!({"iss": "https://issuer.test", "sub": "ada", "aud": "outrider", "exp": NOW + 60});
        let header = jsonwebtoken::Header::new(Algorithm::ES384);
        let token = jsonwebtoken::encode(&header, &claims, &signing).unwrap();
        assert_eq!(ask(&token, &keys), Ok("ada".into()));
    }

    #[test]
    fn which_keys_are_not_used_and_why() {
        let good = elliptic();
        let cases = [
            (json!({"kty": "oct", "k": "c2VjcmV0"}), "symmetric"),
            (rsa(json!({"use": "enc"})), "use"),
            (rsa(json!({"key_ops": ["encrypt"]})), "key_ops"),
            (rsa(json!({"alg": "RS1"})), "RS1"),
            (rsa(json!({"alg": "HS256"})), "HS256"),
            (rsa(json!({"n": MODULUS_1024})), "1024 bits"),
            (rsa(json!({"n": "***"})), "base64url"),
            (json!({"kty": "RSA", "e": "AQAB"}), "`n` is missing"),
            (json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}), "ES512"),
            (json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}), "secp256k1"),
            (json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), "32 bytes"),
            (json!({"kty": "OKP", "crv": "X25519", "x": "AA"}), "X25519"),
            (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "32 bytes"),
            (json!({"kid": "x"}), "kty"),
            (json!("text"), "string"),
            (good.clone(), "same `kid`"),
        ];
        for (key, words) in cases {
            let (keys, skipped) = set(json!([good, key])).unwrap();
            assert_eq!((keys.keys.len(), skipped.len()), (1, 1), "{key}");
            assert!(skipped[0].starts_with("keys[1]: ") && skipped[0].contains(words), "{}", skipped[0]);
        }
        for nothing in [json!([]), json!([{"kty": "oct", "k": "AA"}]), json!({}), json!(vec![good.clone(); 200])] {
            assert!(set(nothing).is_err());
        }
    }

    #[test]
    fn which_key_is_meant_without_a_key_id() {
        let (keys, _) = set(json!([elliptic(), rsa(json!({"alg": "RS256"}))])).unwrap();
        assert!(keys.find(None, Algorithm::ES256).is_ok() && keys.find(None, Algorithm::RS256).is_ok());
        assert_eq!(keys.find(None, Algorithm::EdDSA).err(), Some(Reason::Algorithm));
        let (keys, _) = set(json!([elliptic(), elliptic()])).unwrap();
        assert_eq!(keys.find(None, Algorithm::ES256).err(), Some(Reason::UnknownKey), "either could be meant");
    }
}
