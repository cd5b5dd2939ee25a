//! The Kubernetes API says whose a token is (TokenReview, authentication.k8s.io/v1): service accounts, and whatever else
//! the cluster authenticates.
//!
//! Asks once for a token, however many callers show it, and believes the answer for a while. A server that does not
//! answer lets nobody in, and is never taken for one that refused. Never reads a clock.

use super::{Known, Memory, Method, Presented, Tools};
use crate::auth::verdicts::{Answer, Verdicts};
use crate::auth::vouched::{self, Said, Vouched};
use crate::auth::{ConfigProblem, Identity, Reason, Request, without_port};
use crate::config::{self, Audiences};
use crate::kube::client::Client;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

pub const NAME: &str = "token_review";

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

pub struct TokenReview {
    client: Client,
    audiences: Audiences,
    verdicts: Arc<Verdicts<Said>>,
}

pub fn open(config: &config::Method, _: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    let config::Method::TokenReview(config) = config else { unreachable!("METHODS pairs this with its setting") };
    Ok(Box::new(TokenReview::new(config)))
}

impl Method for TokenReview {
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

impl TokenReview {
    pub fn new(config: &config::TokenReview) -> TokenReview {
        let client = Client::new(config.kubernetes.clone());
        TokenReview { client, audiences: config.audiences.clone(), verdicts: Arc::new(Verdicts::new(config.limits)) }
    }

    async fn known(&self, token: &str, request: &Request<'_>) -> Result<Identity, Reason> {
        let audiences = match &self.audiences {
            // As Authorino asks for it where no audience is configured.
            Audiences::Host => vec![without_port(request.host)],
            Audiences::Server => Vec::new(),
            Audiences::These(these) => these.iter().map(String::as_str).collect(),
        };
        let key = self.verdicts.key(token.as_bytes(), audiences.iter().copied());
        let now_unix = request.now_unix;
        let kept = match self.verdicts.cached(&key, now_unix) {
            Some(kept) => kept,
            None => {
                let says = Says::of(token);
                // The API server forgives a minute; a stream would be cut at once all the same.
                if says.end().is_some_and(|end| end <= now_unix) {
                    return Err(Reason::Expired);
                }
                let asked = self.verdicts.ask(&key, now_unix, || self.review(token, &audiences, says)).await;
                asked.map_err(|error| {
                    tracing::warn!(%error, "a token could not be reviewed; its caller was refused with 503");
                    Reason::Unavailable
                })?
            }
        };
        let reviewed = kept.value.as_ref().map_err(|reason| *reason)?;
        Ok(reviewed.identity(NAME, request.peer))
    }

    async fn review(&self, token: &str, audiences: &[&str], says: Says) -> Result<Answer<Said>, String> {
        let mut spec = json!({"token": token});
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let mut review = self.client.create(PATH, &review).await.map_err(|error| error.advice())?;
        read(review["status"].take(), audiences, says)
    }
}

/// What a review's status says; an error if it says nothing.
fn read(status: Value, audiences: &[&str], says: Says) -> Result<Answer<Said>, String> {
    if !status.is_object() {
        return Err("the TokenReview has no status".into());
    }
    if status["authenticated"] != true {
        return Ok(vouched::answer(Err(Reason::Rejected), 0));
    }
    // A server that knows nothing of audiences names none; then the token is good for the API server, and not for us.
    let named = status["audiences"].as_array().into_iter().flatten();
    let fits = named.filter_map(Value::as_str).any(|audience| audiences.contains(&audience));
    if !audiences.is_empty() && !fits {
        return Ok(vouched::answer(Err(Reason::Audience), 0));
    }
    let subject = status["user"]["username"].as_str().unwrap_or_default().to_owned();
    if subject.is_empty() {
        return Ok(vouched::answer(Err(Reason::Subject), 0));
    }
    let expires_at_unix = says.end();
    let issuer = says.iss.unwrap_or_default();
    let bytes = status.to_string().len();
    Ok(vouched::answer(Ok(Vouched { subject, issuer, claims: Arc::new(status), expires_at_unix }), bytes))
}

/// What a token says of itself, if it is a JWT; worth something only once somebody else has said that it is good.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Says {
    iss: Option<String>,
    exp: Option<f64>,
}

impl Says {
    fn of(token: &str) -> Says {
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Says::default();
        };
        let claims = URL_SAFE_NO_PAD.decode(claims).ok();
        claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or_default()
    }

    fn end(&self) -> Option<u64> {
        // The cast saturates.
        self.exp.filter(|end| end.is_finite()).map(|end| end as u64)
    }
}

#[cfg(test)]
mod tests;
