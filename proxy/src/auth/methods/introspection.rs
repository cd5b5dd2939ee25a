//! OAuth 2.0 token introspection (RFC 7662): the authorization server says whether a token is good, and whose it is.
//!
//! Asks once for a token, however many callers show it, and believes the answer for a while, never past the token's own
//! end. A server that does not answer lets nobody in, and is never taken for one that refused. Never reads a clock.

use super::{Known, Memory, Method, Presented, Tools};
use crate::auth::verdicts::{Answer, Verdicts};
use crate::auth::vouched::{self, Said, Vouched};
use crate::auth::{ConfigProblem, Identity, Reason, Request};
use crate::config::{self, ClientSecret};
use crate::fetch::{Client, Trust};
use crate::files::read_bounded;
use crate::percent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

pub const NAME: &str = "introspection";

const ANSWER_BYTES_MAX: usize = 64 << 10;
const SECRET_BYTES_MAX: u64 = 16 << 10;

pub struct Introspection {
    config: config::Introspection,
    client: Client,
    verdicts: Arc<Verdicts<Said>>,
}

pub fn open(config: &config::Method, _: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    let config::Method::Introspection(config) = config else { unreachable!("METHODS pairs this with its setting") };
    if let ClientSecret::Files { id, secret: key } = &config.client {
        for (path, file) in [(".client_id_file", id), (".client_secret_file", key)] {
            secret(file).map_err(|message| ConfigProblem { path: path.into(), message })?;
        }
    }
    Ok(Box::new(Introspection::new(config)))
}

impl Method for Introspection {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        Box::pin(async move {
            match presented.credential {
                Some(token) => self.known(token, presented.request).await.map(Some),
                None => Ok(None),
            }
        })
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn remembers(&self) -> Option<Memory> {
        Some((NAME, self.verdicts.clone()))
    }
}

impl Introspection {
    pub fn new(config: &config::Introspection) -> Introspection {
        let client = Client::new(Trust { authorities: config.authorities.clone(), identity: None });
        Introspection { config: config.clone(), client, verdicts: Arc::new(Verdicts::new(config.limits)) }
    }

    async fn known(&self, token: &str, request: &Request<'_>) -> Result<Identity, Reason> {
        let key = self.verdicts.key(token.as_bytes(), []);
        let now_unix = request.now_unix;
        let kept = match self.verdicts.cached(&key, now_unix) {
            Some(kept) => kept,
            None => self.verdicts.ask(&key, now_unix, || self.ask(token, now_unix)).await.map_err(|error| {
                let endpoint = self.config.endpoint.as_str();
                tracing::warn!(endpoint, %error, "a token could not be introspected; its caller was refused with 503");
                Reason::Unavailable
            })?,
        };
        let active = kept.value.as_ref().map_err(|reason| *reason)?;
        if active.expires_at_unix.is_some_and(|end| now_unix >= end) {
            return Err(Reason::Expired);
        }
        Ok(active.identity(NAME, request.peer))
    }

    async fn ask(&self, token: &str, now_unix: u64) -> Result<Answer<Said>, String> {
        let answer = self.client.send(self.question(token)?, self.config.timeout, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => self.read(answer.body(), now_unix),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(format!("answered {}; check the client id and secret", status.as_u16()))
            }
            status => Err(format!("answered {}; 200 is needed", status.as_u16())),
        }
    }

    /// Section 2.1. Who we are goes by Basic, each half encoded as RFC 6749, section 2.3.1, asks.
    fn question(&self, token: &str) -> Result<http::Request<Bytes>, String> {
        let (id, secret) = match &self.config.client {
            ClientSecret::Files { id, secret: key } => (percent::part(&secret(id)?), percent::part(&secret(key)?)),
            ClientSecret::Given { id, secret } => (percent::part(id.reveal()), percent::part(secret.reveal())),
        };
        let mut basic = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{id}:{secret}"))))
            .expect("base64 can stand in a header");
        basic.set_sensitive(true);
        let mut body = format!("token={}", percent::part(token));
        if let Some(hint) = &self.config.token_type_hint {
            body = format!("{body}&token_type_hint={}", percent::part(hint));
        }
        http::Request::post(&self.config.endpoint)
            .header(header::AUTHORIZATION, basic)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Bytes::from(body))
            .map_err(|_| "the endpoint is no address".into())
    }

    /// Section 2.2. An error if the server said nothing that can be understood.
    fn read(&self, body: &[u8], now_unix: u64) -> Result<Answer<Said>, String> {
        let Ok(Value::Object(said)) = serde_json::from_slice(body) else {
            return Err("answered no JSON object".into());
        };
        if !said.get("active").is_some_and(Value::is_boolean) {
            return Err("answered without `active`".into());
        }
        Ok(vouched::answer(self.active(&said, now_unix), body.len()))
    }

    fn active(&self, said: &Map<String, Value>, now_unix: u64) -> Said {
        if said["active"] != true {
            return Err(Reason::Rejected);
        }
        let text = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default();
        let issuer = text("iss");
        if self.config.issuer.as_deref().is_some_and(|wanted| wanted != issuer) {
            return Err(Reason::Issuer);
        }
        let names: Vec<&str> = match said.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let audiences = &self.config.audiences;
        if !audiences.is_empty() && !names.iter().any(|name| audiences.iter().any(|wanted| wanted == name)) {
            return Err(Reason::Audience);
        }
        // The server may call `active` what ends in a moment, or has clocks of its own.
        let date = |name: &str| match said.get(name) {
            None | Some(Value::Null) => Ok(None),
            // The cast saturates.
            Some(Value::Number(date)) => Ok(date.as_f64().map(|date| date as u64)),
            Some(_) => Err(Reason::Malformed),
        };
        let expires_at_unix = date("exp")?;
        if expires_at_unix.is_some_and(|end| now_unix >= end) {
            return Err(Reason::Expired);
        }
        if date("nbf")?.is_some_and(|begin| now_unix < begin) {
            return Err(Reason::NotYetValid);
        }
        // A token of a client itself has no user behind it.
        let subject = ["sub", "username", "client_id"].map(text).into_iter().find(|name| !name.is_empty());
        let subject = subject.unwrap_or_default();
        if subject.is_empty() && self.config.subject_required || subject.contains(char::is_control) {
            return Err(Reason::Subject);
        }
        let (subject, issuer) = (subject.to_owned(), issuer.to_owned());
        Ok(Vouched { subject, issuer, claims: Arc::new(Value::Object(said.clone())), expires_at_unix })
    }
}

/// Read for each question: whoever rotates it restarts nothing.
fn secret(file: &Path) -> Result<String, String> {
    let problem = |words: String| format!("{}: {words}", file.display());
    let bytes = read_bounded(file, SECRET_BYTES_MAX).map_err(|error| problem(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| problem("is not UTF-8".into()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(problem("is empty".into())),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests;
