//! Access tokens for ourselves: the client credentials grant of OAuth 2.0 (RFC 6749, section 4.4).
//!
//! One token for all callers until shortly before it expires, fetched by one of them. Never logs an answer: it is the
//! secret.

use super::ANSWER_BYTES_MAX;
use super::kept::Kept;
use crate::auth::secrets::Hidden;
use crate::fetch::Client;
use crate::percent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A token is not shown in its last moments: it would expire on the way.
const BEFORE_EXPIRY: Duration = Duration::from_secs(10);
/// Of a token whose server does not say.
const KEPT_UNSAID: Duration = Duration::from_secs(300);
const KEPT_MAX: Duration = Duration::from_secs(24 * 3600);
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Who asks for tokens, and where.
#[derive(Debug)]
pub struct Grant {
    pub url: Uri,
    pub id: String,
    pub secret: Hidden,
    pub scopes: Vec<String>,
    pub extra: BTreeMap<String, String>,
    pub timeout: Duration,
}

/// The tokens of one grant.
pub struct Tokens {
    client: Client,
    grant: Grant,
    /// Whether a token serves more than one question.
    reuse: bool,
    kept: Kept<Hidden>,
    /// Some servers take the client's secret in the form only. Found out once.
    in_form: AtomicBool,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    /// Seconds; a text from some servers.
    #[serde(default)]
    expires_in: Value,
}

impl Tokens {
    pub fn new(client: Client, grant: Grant, reuse: bool) -> Tokens {
        Tokens { client, grant, reuse, kept: Kept::default(), in_form: AtomicBool::new(false) }
    }

    pub async fn token(&self) -> Result<Arc<Hidden>, String> {
        if self.reuse {
            return self.kept.get(|| self.fetch()).await;
        }
        Ok(Arc::new(self.fetch().await?.0))
    }

    /// The token was refused where it was shown.
    pub fn refused(&self, token: &Arc<Hidden>) {
        self.kept.forget(token);
    }

    /// A token, and for how long it may be shown.
    async fn fetch(&self) -> Result<(Hidden, Duration), String> {
        let in_form = self.in_form.load(Ordering::Relaxed);
        let mut answer = self.ask(in_form).await?;
        // RFC 6749, 2.3.1: Basic must be supported. Not everybody read that.
        if !in_form && matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED) {
            let second = self.ask(true).await?;
            if second.status() == StatusCode::OK {
                self.in_form.store(true, Ordering::Relaxed);
                answer = second;
            }
        }
        if answer.status() != StatusCode::OK {
            let words = refusal(answer.body());
            return Err(format!("the token server answered {}{words}", answer.status().as_u16()));
        }
        let bad = |words: &str| format!("the token server's answer {words}");
        let answer: Answer = serde_json::from_slice(answer.body()).map_err(|_| bad("holds no access_token"))?;
        let token = answer.access_token;
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("holds a token that no header can carry"));
        }
        Ok((Hidden::new(token), kept_for(&answer.expires_in)))
    }

    async fn ask(&self, in_form: bool) -> Result<http::Response<Bytes>, String> {
        let grant = &self.grant;
        let scope = grant.scopes.join(" ");
        let mut pairs = vec![("grant_type", "client_credentials")];
        if !scope.is_empty() {
            pairs.push(("scope", &scope));
        }
        pairs.extend(grant.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut request = Request::post(grant.url.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        if in_form {
            pairs.extend([("client_id", grant.id.as_str()), ("client_secret", grant.secret.reveal())]);
        } else {
            request = request.header(header::AUTHORIZATION, basic(&grant.id, grant.secret.reveal()));
        }
        let request = request.body(percent::form(pairs).into()).map_err(|_| "the token server's URL is none")?;
        let sent = self.client.send(request, grant.timeout, ANSWER_BYTES_MAX).await;
        sent.map_err(|error| format!("no answer of the token server: {error}"))
    }
}

/// RFC 6749, section 2.3.1: both are form-encoded before they are joined.
fn basic(id: &str, secret: &str) -> HeaderValue {
    let mut pair = String::new();
    percent::push_form(id, &mut pair);
    pair.push(':');
    percent::push_form(secret, &mut pair);
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).expect("base64 is ASCII");
    value.set_sensitive(true);
    value
}

/// The server's own code for what is wrong (RFC 6749, section 5.2), if it is one.
fn refusal(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = body["error"].as_str().unwrap_or_default();
    let is_code = !code.is_empty() && code.len() <= 40 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if is_code { format!(": {code}") } else { String::new() }
}

fn kept_for(expires_in: &Value) -> Duration {
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let Some(seconds) = seconds.filter(|seconds: &f64| seconds.is_finite()) else { return KEPT_UNSAID };
    let whole = Duration::try_from_secs_f64(seconds)
        .unwrap_or(if seconds > 0.0 { KEPT_MAX } else { Duration::ZERO })
        .min(KEPT_MAX);
    whole.saturating_sub(BEFORE_EXPIRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn how_long_is_a_token_shown() {
        for (said, seconds) in [
            (json!(3600), 3590),
            (json!("3600"), 3590),
            (json!(10), 0),
            (json!(-5), 0),
            (json!(1e300), 24 * 3600 - 10),
            (json!(null), 300),
            (json!("soon"), 300),
            (json!("NaN"), 300),
        ] {
            assert_eq!(kept_for(&said), Duration::from_secs(seconds), "{said}");
        }
    }

    #[test]
    fn what_is_told_of_a_refusal() {
        assert_eq!(refusal(br#"{"error":"invalid_client","error_description":"x"}"#), ": invalid_client");
        assert_eq!(refusal(b"{\"error\":\"a\\nb\"}"), "");
        assert_eq!(refusal(b"<html>"), "");
        assert_eq!(basic("a:b", "c d").to_str().unwrap(), format!("Basic {}", STANDARD.encode("a%3Ab:c+d")));
    }
}
