//! One look at a source of keys: its answer, or why there is none; and the last good answer, kept in a file.
//!
//! Never believes a file that was written for another source.

use crate::auth::jwks::KeySet;
use crate::fetch::{Client, FetchError};
use crate::files::{read_bounded, write_private};
use crate::policy::KeySource;
use bytes::Bytes;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Why there are no new keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("answered {0}; 200 is needed")]
    Status(u16),
    #[error("the answer is {0}")]
    Keys(String),
    #[error("the OpenID configuration {0}")]
    Discovery(String),
}

/// The bytes of a key set, not yet understood.
pub async fn fetch(source: &KeySource, client: &Client, timeout: Duration) -> Result<Bytes, KeysError> {
    match source {
        KeySource::Inline(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        KeySource::Uri(uri) => get(client, uri, timeout).await,
        KeySource::Discovery(issuer) => {
            let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let uri = discovered(issuer, &get(client, &address, timeout).await?)?;
            get(client, &uri, timeout).await
        }
    }
}

/// The keys in it.
pub fn understood(source: &KeySource, bytes: &[u8]) -> Result<KeySet, KeysError> {
    let (keys, skipped) = KeySet::parse(bytes).map_err(KeysError::Keys)?;
    for reason in skipped {
        tracing::debug!(?source, %reason, "key not used");
    }
    Ok(keys)
}

/// OpenID Connect Discovery 1.0, section 4.3: the issuer in the answer must be the one that was asked.
pub fn discovered(issuer: &str, answer: &[u8]) -> Result<String, KeysError> {
    let bad = |words: &str| KeysError::Discovery(words.into());
    let answer: Value = serde_json::from_slice(answer).map_err(|_| bad("is not JSON"))?;
    if answer["issuer"].as_str() != Some(issuer) {
        return Err(bad("is another issuer's"));
    }
    let uri = answer["jwks_uri"].as_str().ok_or_else(|| bad("has no jwks_uri"))?;
    if issuer.starts_with("https://") && !uri.starts_with("https://") {
        return Err(bad("leads away from https"));
    }
    Ok(uri.to_owned())
}

async fn get(client: &Client, address: &str, timeout: Duration) -> Result<Bytes, KeysError> {
    let request = http::Request::get(address).header(http::header::ACCEPT, "application/json").body(Bytes::new());
    let request = request.map_err(|_| FetchError::Address(address.into()))?;
    let answer = client.send(request, timeout, BODY_BYTES_MAX).await?;
    match answer.status() {
        http::StatusCode::OK => Ok(answer.into_body()),
        other => Err(KeysError::Status(other.as_u16())),
    }
}

/// What the file is for: a copy of one issuer's keys must never pass for another's.
fn name(source: &KeySource) -> &str {
    match source {
        KeySource::Inline(_) => "",
        KeySource::Uri(address) | KeySource::Discovery(address) => address,
    }
}

/// Keeps a copy of good keys for the next start. A failure is told and forgotten: it costs nobody anything now.
pub fn keep(path: &Path, source: &KeySource, bytes: &[u8]) {
    let Ok(mut copy) = serde_json::from_slice::<Value>(bytes) else { return };
    copy["source"] = name(source).into();
    if let Err(error) = write_private(path, copy.to_string().as_bytes()) {
        tracing::warn!(file = %path.display(), %error, "no copy of the keys kept");
    }
}

/// The copy, if there is one and it is this source's.
pub fn kept(path: &Path, source: &KeySource) -> Option<KeySet> {
    // `source` beside the keys makes it a little longer than the longest answer.
    let bytes = read_bounded(path, 2 * BODY_BYTES_MAX as u64).ok()?;
    let copy: Value = serde_json::from_slice(&bytes).ok()?;
    if copy["source"].as_str() != Some(name(source)) {
        tracing::warn!(file = %path.display(), ?source, "the copy of keys is another source's and not used");
        return None;
    }
    understood(source, &bytes).ok()
}
