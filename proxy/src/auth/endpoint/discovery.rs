//! The documents in which authorization servers say where their endpoints are, kept for a while.
//!
//! A document is believed only if it names the issuer that was asked (OpenID Connect Discovery 1.0, section 4.3).

use super::kept::Kept;
use super::{ANSWER_BYTES_MAX, absolute};
use crate::fetch::Client;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const KEPT: Duration = Duration::from_secs(10 * 60);

pub struct Discovery {
    client: Client,
    issuer: String,
    document: Uri,
    timeout: Duration,
    kept: Kept<Value>,
}

impl Discovery {
    /// `name`: of the document under `/.well-known/`.
    pub fn new(client: Client, issuer: &str, name: &str, timeout: Duration) -> Result<Discovery, String> {
        let document = absolute(&format!("{}/.well-known/{name}", issuer.trim_end_matches('/')))?;
        Ok(Discovery { client, issuer: issuer.to_owned(), document, timeout, kept: Kept::default() })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// One of the endpoints that the document names.
    pub async fn endpoint(&self, name: &str) -> Result<Uri, String> {
        let document = self.document().await?;
        let url = document[name].as_str().ok_or_else(|| format!("the server's configuration has no {name}"))?;
        if self.issuer.starts_with("https://") && !url.starts_with("https://") {
            return Err(format!("{name} of the server's configuration leads away from https"));
        }
        absolute(url).map_err(|words| format!("{name} of the server's configuration {words}"))
    }

    async fn document(&self) -> Result<Arc<Value>, String> {
        let ask = || async {
            let document = get(&self.client, self.document.clone(), None, self.timeout).await;
            let document = document.map_err(|words| format!("the server's configuration: {words}"))?;
            if document["issuer"].as_str() != Some(&self.issuer) {
                return Err("the server's configuration is another issuer's".to_owned());
            }
            Ok((document, KEPT))
        };
        self.kept.get(ask).await
    }
}

/// JSON from a server, with a credential if there is one.
pub async fn get(client: &Client, uri: Uri, bearer: Option<&str>, timeout: Duration) -> Result<Value, String> {
    let mut request = Request::new(Bytes::new());
    (*request.method_mut(), *request.uri_mut()) = (Method::GET, uri);
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(bearer) = bearer {
        let value = HeaderValue::try_from(format!("Bearer {bearer}"));
        let mut value = value.map_err(|_| "the access token is nothing that a header can carry")?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let answer = client.send(request, timeout, ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
    match answer.status() {
        StatusCode::OK => serde_json::from_slice(answer.body()).map_err(|_| "the answer is no JSON".into()),
        other => Err(format!("answered {}", other.as_u16())),
    }
}
