//! Makes credentials: an ES256 key, its JSON Web Key Set, and tokens signed with it. For development and tests.
//!
//! Never keeps or writes a file, and never reads a clock.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde_json::{Map, Value, json};

/// A private key that signs tokens.
pub struct Issuer {
    pair: KeyPair,
    signing: EncodingKey,
}

/// Why text is not an issuer's key.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not an ES256 private key in PEM (PKCS #8): {0}")]
pub struct IssuerError(String);

/// What a token says; its key id and algorithm follow from the key.
pub struct Token<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    pub audience: &'a str,
    pub issued_at_unix: u64,
    pub ttl_seconds: u64,
    /// Further claims; they cannot replace the registered ones above.
    pub claims: Map<String, Value>,
}

impl Issuer {
    pub fn generate() -> Issuer {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("ring makes P-256 keys");
        Issuer::new(pair).expect("the key was made for ES256")
    }

    pub fn parse(pem: &str) -> Result<Issuer, IssuerError> {
        let pair = KeyPair::from_pem(pem).map_err(|error| IssuerError(error.to_string()))?;
        Issuer::new(pair)
    }

    fn new(pair: KeyPair) -> Result<Issuer, IssuerError> {
        if !pair.is_compatible(&PKCS_ECDSA_P256_SHA256) {
            return Err(IssuerError("it is a key of another kind".into()));
        }
        let signing = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())
            .map_err(|error| IssuerError(error.to_string()))?;
        Ok(Issuer { pair, signing })
    }

    /// PKCS #8.
    pub fn pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The thumbprint of RFC 7638: the same key has the same id wherever it is published.
    pub fn key_id(&self) -> String {
        let (x, y) = self.coordinates();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()))
    }

    /// The public half, as RFC 7517 has it.
    pub fn jwks(&self) -> String {
        let (x, y) = self.coordinates();
        let key =
            json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.key_id(), "use": "sig", "alg": "ES256"});
        format!("{:#}\n", json!({ "keys": [key] }))
    }

    pub fn mint(&self, token: Token<'_>) -> String {
        let mut claims = token.claims;
        let registered = [
            ("iss", json!(token.issuer)),
            ("sub", json!(token.subject)),
            ("aud", json!(token.audience)),
            ("iat", json!(token.issued_at_unix)),
            ("exp", json!(token.issued_at_unix.saturating_add(token.ttl_seconds))),
        ];
        claims.extend(registered.map(|(name, value)| (name.to_owned(), value)));
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id());
        jsonwebtoken::encode(&header, &claims, &self.signing).expect("a P-256 key signs any JSON object")
    }

    /// The raw public key is an uncompressed point: 4, x, y (SEC 1, section 2.3.3).
    fn coordinates(&self) -> (String, String) {
        let point = self.pair.der_bytes();
        let (x, y) = point[1..].split_at(32);
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }
}
