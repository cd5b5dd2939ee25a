//! JSON Web Key Sets (RFC 7517): the keys we believe, each pinned to the algorithms it may verify.
//!
//! Never takes a symmetric key: whoever can read a key set could then sign. One bad key does not spoil the others.

use super::cache::Cache;
use super::{ConfigProblem, Reason};
use crate::files::{Stamp, read_bounded};
use arc_swap::{ArcSwap, Guard};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const FILE_BYTES_MAX: u64 = 1 << 20;
const KEYS_MAX: usize = 128;
/// A look costs one `stat`; two seconds is how long a revoked key may live on.
const LOOK_EVERY_SECONDS: u64 = 2;

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
            ("oct", _) => return Err("a symmetric key would let every reader of this file sign".into()),
            (kty, crv) => return Err(format!("kty {kty}, crv {} is not supported", crv.unwrap_or("none"))),
        };
        let named = |algorithm: &Algorithm| jwk.alg.as_deref().is_none_or(|alg| alg == format!("{algorithm:?}"));
        if !algorithms.iter().any(named) {
            return Err(format!("`alg` {} does not belong to this kind of key", jwk.alg.unwrap_or_default()));
        }
        Ok(Key { id: jwk.kid, algorithms, key })
    }

    fn clashes(&self, other: &Key) -> bool {
        self.id.is_some() && self.id == other.id && self.algorithms.iter().any(|a| other.algorithms.contains(a))
    }
}

fn rsa_algorithms(alg: Option<&str>) -> Result<&'static [Algorithm], String> {
    Ok(match alg {
        // Without `alg` the key itself cannot say which of the two; both are signatures by the same private key.
        None => &[Algorithm::RS256, Algorithm::PS256],
        Some("RS256") => &[Algorithm::RS256],
        Some("PS256") => &[Algorithm::PS256],
        Some(other) => return Err(format!("`alg` {other} is not supported; RS256 and PS256 are")),
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

/// A key set with the verdicts that were reached with it: one replaces the other only together.
pub struct Snapshot {
    pub keys: KeySet,
    pub cache: Cache,
}

/// A key set in a file, reread when the file changes.
pub struct JwksFile {
    path: PathBuf,
    snapshot: ArcSwap<Snapshot>,
    looked_at_unix: AtomicU64,
    stamp: Mutex<Option<Stamp>>,
}

impl JwksFile {
    pub fn open(path: &Path) -> Result<JwksFile, ConfigProblem> {
        let stamp = Stamp::of(path).ok();
        let snapshot = load(path).map_err(|reason| ConfigProblem {
            path: ".jwks_file".into(),
            message: format!("{}: {reason}", path.display()),
        })?;
        Ok(JwksFile {
            path: path.into(),
            snapshot: ArcSwap::from_pointee(snapshot),
            looked_at_unix: AtomicU64::new(0),
            stamp: Mutex::new(stamp),
        })
    }

    /// The keys now. Every two seconds one of the callers looks at the file first; the others never wait for it.
    pub fn current(&self, now_unix: u64) -> Guard<Arc<Snapshot>> {
        let looked = self.looked_at_unix.load(Ordering::Relaxed);
        let due = now_unix.abs_diff(looked) >= LOOK_EVERY_SECONDS;
        if due && self.looked_at_unix.compare_exchange(looked, now_unix, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.look();
        }
        self.snapshot.load()
    }

    fn look(&self) {
        // Whoever finds it locked leaves the look to the one who holds it.
        let Ok(mut stamp) = self.stamp.try_lock() else { return };
        let now = Stamp::of(&self.path).ok();
        if now == *stamp {
            return;
        }
        *stamp = now;
        match load(&self.path) {
            Ok(snapshot) => {
                tracing::info!(file = %self.path.display(), keys = snapshot.keys.keys.len(), "key set reloaded");
                self.snapshot.store(Arc::new(snapshot));
            }
            // An outage of whoever writes the file must not become an outage of ours.
            Err(reason) => {
                tracing::error!(file = %self.path.display(), %reason, "key set not reloaded; the old one stays")
            }
        }
    }
}

fn load(path: &Path) -> Result<Snapshot, String> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let (keys, skipped) = KeySet::parse(&bytes)?;
    for reason in skipped {
        tracing::warn!(file = %path.display(), %reason, "key not used");
    }
    Ok(Snapshot { keys, cache: Cache::new() })
}
