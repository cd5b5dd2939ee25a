//! API keys: who holds which, by the key's hash.
//!
//! Never holds a key itself: a file of hashes may be read by whoever reads backups. Never compares in a time that says
//! how much of a key was right.

use super::credential::sha256_of_hex;
use crate::files::read_bounded;
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

const FILE_BYTES_MAX: u64 = 16 << 20;

/// SHA-256 of a key. Enough where keys are long and drawn by chance; a password would need more.
pub type Digest = [u8; 32];

/// Whoever has a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    pub subject: String,
    /// An object.
    pub claims: Arc<Value>,
    pub expires_at_unix: Option<u64>,
}

/// Where API keys come from: a file, or the Secrets of a cluster.
pub trait ApiKeys: Send + Sync {
    /// Who holds this key; whether it has ended is for the caller to check.
    fn find(&self, key: &str, now_unix: u64) -> Option<Arc<Holder>>;
}

/// Keys as they are now. Looked up by a keyed hash of the hash, so that no run of tries learns how near it came.
pub struct Ring {
    key: hmac::Key,
    holders: HashMap<Digest, (hmac::Tag, Arc<Holder>)>,
}

pub fn sha256(key: &str) -> Digest {
    digest(&SHA256, key.as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

impl Ring {
    /// Of two holders of one key the first has it.
    pub fn new(holders: impl IntoIterator<Item = (Digest, Holder)>) -> Ring {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new())
            .expect("the operating system gives random bytes");
        let mut ring = Ring { key, holders: HashMap::new() };
        for (digest, holder) in holders {
            let tag = hmac::sign(&ring.key, &digest);
            ring.holders.entry(place(&tag)).or_insert((tag, Arc::new(holder)));
        }
        ring
    }

    pub fn find(&self, key: &str) -> Option<Arc<Holder>> {
        let digest = sha256(key);
        let (tag, holder) = self.holders.get(&place(&hmac::sign(&self.key, &digest)))?;
        // In constant time, which the look above was not.
        hmac::verify(&self.key, &digest, tag.as_ref()).ok()?;
        Some(holder.clone())
    }

    pub fn len(&self) -> usize {
        self.holders.len()
    }

    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

fn place(tag: &hmac::Tag) -> Digest {
    tag.as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
}

/// One line of a file of keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sha256: String,
    name: String,
    #[serde(default)]
    attributes: Map<String, Value>,
    expires_at_unix: Option<u64>,
}

/// A YAML list of `{sha256, name, attributes, expires_at_unix}`; only the first two must be there.
pub fn load(path: &Path) -> Result<Ring, String> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8")?;
    parse(text).map(Ring::new)
}

fn parse(text: &str) -> Result<Vec<(Digest, Holder)>, String> {
    // A file from which the last key was taken is a file without keys, not a broken one.
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let lines: Vec<Line> = serde_yaml_ng::from_str(text).map_err(|error| format!("is no list of keys: {error}"))?;
    let mut holders: Vec<(Digest, Holder)> = Vec::with_capacity(lines.len());
    let mut seen = HashMap::new();
    for (index, line) in lines.into_iter().enumerate() {
        let digest = sha256_of_hex(&line.sha256).ok_or_else(|| {
            format!("[{index}].sha256: must be 64 hexadecimal digits; `outrider token api-key` makes them")
        })?;
        if line.name.is_empty() || line.name.contains(char::is_control) {
            return Err(format!("[{index}].name: must be a name, without line breaks"));
        }
        if let Some(before) = seen.insert(digest, index) {
            return Err(format!("[{index}].sha256: is the key of [{before}] too; a key has one holder"));
        }
        if line.attributes.contains_key("name") {
            return Err(format!("[{index}].attributes.name: is `name` above"));
        }
        let mut claims = json!({"name": line.name});
        claims.as_object_mut().expect("it was just made one").extend(line.attributes);
        let (subject, claims) = (line.name, Arc::new(claims));
        holders.push((digest, Holder { subject, claims, expires_at_unix: line.expires_at_unix }));
    }
    Ok(holders)
}

/// A line for the file, as [`load`] reads it.
pub fn line(key: &str, name: &str, attributes: &Map<String, Value>, expires_at_unix: Option<u64>) -> String {
    let digest: String = sha256(key).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut line = json!({"sha256": digest, "name": name});
    if !attributes.is_empty() {
        line["attributes"] = json!(attributes);
    }
    if let Some(end) = expires_at_unix {
        line["expires_at_unix"] = json!(end);
    }
    // JSON is YAML.
    format!("- {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_key() {
        let attributes = json!({"team": "blue", "tier": 2}).as_object().unwrap().clone();
        let text = format!(
            "# our keys\n{}\n{}\n",
            line("key of ada", "ada", &attributes, Some(5)),
            line("key of eve", "eve", &Map::new(), None)
        );
        let ring = Ring::new(parse(&text).unwrap());
        let ada = ring.find("key of ada").unwrap();
        assert_eq!((ada.subject.as_str(), ada.expires_at_unix), ("ada", Some(5)));
        assert_eq!(*ada.claims, json!({"name": "ada", "team": "blue", "tier": 2}));
        assert_eq!(ring.find("key of eve").unwrap().subject, "eve");
        let hash = text.split('"').find(|word| word.len() == 64).unwrap();
        for nobody in ["", "key of", "key of adam", "KEY OF ADA", "key of ada\0", hash] {
            assert_eq!(ring.find(nobody), None, "{nobody:?}");
        }
        assert_eq!((ring.len(), ring.is_empty()), (2, false));
    }

    #[test]
    fn which_files_are_refused_and_why() {
        let good = "a".repeat(64);
        for (text, words) in [
            (format!("- {{sha256: {good}}}"), "missing field `name`"),
            (format!("- {{sha256: {good}, name: ''}}"), "[0].name"),
            (format!("- {{sha256: {good}, name: \"a\\nb\"}}"), "[0].name"),
            (format!("- {{sha256: {good}, name: a, key: b}}"), "unknown field `key`"),
            (
                format!("- {{sha256: {good}, name: a}}\n- {{sha256: {}, name: b}}", good.to_uppercase()),
                "key of [0] too",
            ),
            (format!("- {{sha256: {good}, name: a, attributes: {{name: b}}}}"), "[0].attributes.name"),
            ("- {sha256: abc, name: a}".into(), "64 hexadecimal digits"),
            (format!("- {{sha256: '{}', name: a}}", "+f".repeat(32)), "64 hexadecimal digits"),
            ("keys: []".into(), "no list of keys"),
            ("\u{0}".into(), "no list of keys"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains(&good), "{error}");
        }
        for empty in ["", "\n# none\n", "[]"] {
            assert!(parse(empty).unwrap().is_empty());
        }
    }
}
