//! A private key that signs, and its public half as a JSON Web Key (RFC 7518, section 6).
//!
//! Never prints the key. One algorithm for each key: what a key may sign is settled when it is loaded.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::Signer;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Name, scheme, curve, and how long each half of an ECDSA signature is.
type Algorithm = (&'static str, SignatureScheme, Option<(&'static str, usize)>);

const ALGORITHMS: [Algorithm; 5] = [
    ("ES256", SignatureScheme::ECDSA_NISTP256_SHA256, Some(("P-256", 32))),
    ("ES384", SignatureScheme::ECDSA_NISTP384_SHA384, Some(("P-384", 48))),
    ("RS256", SignatureScheme::RSA_PKCS1_SHA256, None),
    ("RS384", SignatureScheme::RSA_PKCS1_SHA384, None),
    ("RS512", SignatureScheme::RSA_PKCS1_SHA512, None),
];

pub struct SigningKey {
    id: String,
    algorithm: Algorithm,
    signer: Box<dyn Signer>,
    public: Value,
}

impl SigningKey {
    /// From PEM: SEC 1, PKCS #1 or PKCS #8.
    pub fn load(id: &str, algorithm: &str, pem: &[u8]) -> Result<SigningKey, String> {
        if algorithm == "ES512" {
            return Err("ES512 is not supported: no curve P-521 in our cryptography; sign with ES256 or ES384".into());
        }
        let algorithm = ALGORITHMS.into_iter().find(|(name, ..)| *name == algorithm);
        let algorithm = algorithm.ok_or("the algorithm must be one of ES256, ES384, RS256, RS384 and RS512")?;
        let name = algorithm.0;
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "key.pem holds no private key in PEM")?;
        let key = crate::tls::provider().key_provider.load_private_key(der);
        let key =
            key.map_err(|_| "key.pem holds a key that cannot sign: neither P-256, P-384 nor RSA of 2048 bits or more")?;
        let signer =
            key.choose_scheme(&[algorithm.1]).ok_or_else(|| format!("key.pem holds a key that is not for {name}"))?;
        let spki = key.public_key().ok_or("key.pem tells no public key")?;
        let (_, spki) = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| "key.pem tells no public key")?;
        let mut public =
            public(&spki, &algorithm).ok_or_else(|| format!("key.pem holds a key that is not for {name}"))?;
        public["kid"] = id.into();
        public["use"] = "sig".into();
        public["alg"] = name.into();
        Ok(SigningKey { id: id.to_owned(), algorithm, signer, public })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn algorithm(&self) -> &'static str {
        self.algorithm.0
    }

    pub fn public(&self) -> &Value {
        &self.public
    }

    /// As RFC 7518, section 3: of ECDSA the two numbers, one behind the other.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.signer.sign(bytes).map_err(|_| "the key does not sign")?;
        match self.algorithm.2 {
            None => Ok(signature),
            Some((_, half)) => numbers(&signature, half).ok_or_else(|| "the signature is none".into()),
        }
    }
}

fn public(spki: &SubjectPublicKeyInfo<'_>, algorithm: &Algorithm) -> Option<Value> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match (spki.parsed().ok()?, algorithm.2) {
        (PublicKey::EC(point), Some((curve, half))) => {
            // SEC 1, 2.3.3: 4, then both coordinates.
            let (first, coordinates) = point.data().split_first()?;
            let (x, y) = coordinates.split_at_checked(half)?;
            (*first == 4 && y.len() == half).then(|| json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)}))
        }
        (PublicKey::RSA(rsa), None) => {
            let [n, e] = [rsa.modulus, rsa.exponent].map(|number| {
                let zeros = number.iter().take_while(|byte| **byte == 0).count();
                encode(&number[zeros..])
            });
            Some(json!({"kty": "RSA", "n": n, "e": e}))
        }
        _ => None,
    }
}

/// The two integers of a DER signature, each in `half` bytes.
fn numbers(der: &[u8], half: usize) -> Option<Vec<u8>> {
    let (0x30, rest) = element(der)? else { return None };
    let (0x02, r) = element(rest.0)? else { return None };
    let (0x02, s) = element(r.1)? else { return None };
    let mut out = vec![0; 2 * half];
    for (number, end) in [(r.0, half), (s.0, 2 * half)] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        out[end.checked_sub(number.len()).filter(|start| end - start <= half)?..end].copy_from_slice(number);
    }
    Some(out)
}

/// Contents, and what follows.
type Halves<'d> = (&'d [u8], &'d [u8]);

/// With its tag; of lengths up to 255 bytes: a signature has no more.
fn element(der: &[u8]) -> Option<(u8, Halves<'_>)> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = match rest {
        [0x81, length, rest @ ..] => (*length, rest),
        [length @ 0..=0x7f, rest @ ..] => (*length, rest),
        _ => return None,
    };
    Some((*tag, rest.split_at_checked(usize::from(length))?))
}
