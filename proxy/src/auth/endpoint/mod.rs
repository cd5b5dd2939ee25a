//! One question to an HTTP server that a policy names: where it goes, what it says, what it shows, and how its answer
//! is read.
//!
//! Bounded in time and bytes on both sides; no redirect is followed. What a request says can neither choose another
//! server nor add a header (see [`address`]). Secrets join the question last, and are in no error.

mod address;
mod discovery;
mod grant;
mod kept;
mod raw;

pub use address::Address;
pub use discovery::{Discovery, get};
pub use grant::{Grant, Tokens};
pub use kept::Kept;
pub use raw::{RawCredentials, RawHttpEndpoint, RawSecretKey, absolute};

use super::credential::Location;
use super::secrets::Hidden;
use super::selectors::text_of;
use super::values::ValueFrom;
use crate::fetch::Client;
use crate::percent;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use serde_json::Value;
use std::time::Duration;

pub const ANSWER_BYTES_MAX: usize = 1 << 20;
const BODY_BYTES_MAX: usize = 1 << 20;
const HEADER_BYTES_MAX: usize = 16 * 1024;
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Also of a policy that asks for none: a caller waits behind it.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// A server's resource, and how it is asked.
pub struct Endpoint {
    address: Address,
    method: Method,
    body: Body,
    headers: Vec<(HeaderName, ValueFrom)>,
    credential: Option<(Location, Credential)>,
    timeout: Duration,
    any_status: bool,
    client: Client,
}

/// What says that it is us who ask.
enum Credential {
    Shared(Hidden),
    Granted(Box<Tokens>),
}

enum Body {
    None,
    Whole(ValueFrom, ContentType),
    Fields(Vec<(String, ValueFrom)>, ContentType),
}

#[derive(Clone, Copy)]
enum ContentType {
    Form,
    Json,
}

/// What is asked, without the secret: made of the authorization JSON, and independent of it from then on.
#[derive(Debug)]
pub struct Question {
    request: Request<Bytes>,
}

impl Question {
    /// What it takes in memory, by and large.
    pub fn bytes(&self) -> usize {
        let headers = self.request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        self.request.uri().path().len() + self.request.body().len() + headers.sum::<usize>()
    }

    #[cfg(test)]
    pub fn request(&self) -> &Request<Bytes> {
        &self.request
    }
}

impl Endpoint {
    pub async fn call(&self, root: &Value) -> Result<Value, String> {
        self.ask(self.question(root)?).await
    }

    /// Everything that depends on the request. Asks nobody.
    pub fn question(&self, root: &Value) -> Result<Question, String> {
        let mut builder = Request::builder().method(self.method.clone()).uri(self.address.resolve(root)?);
        for (name, value) in &self.headers {
            let value = header_value(&value.resolve(root).map_err(|words| format!("the header {name}: {words}"))?);
            builder = builder.header(name, value.map_err(|words| format!("the header {name} {words}"))?);
        }
        let body = self.body.resolve(root)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(format!("the body has more than {BODY_BYTES_MAX} bytes"));
        }
        let mut request = builder.body(Bytes::from(body)).map_err(|error| format!("cannot be asked: {error}"))?;
        if let Some(content_type) = self.body.content_type() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type.name()));
        }
        Ok(Question { request })
    }

    /// Asks, and reads the answer.
    pub async fn ask(&self, question: Question) -> Result<Value, String> {
        let mut request = question.request;
        let mut shown = None;
        match &self.credential {
            None => {}
            Some((location, Credential::Shared(secret))) => show(&mut request, location, secret)?,
            Some((location, Credential::Granted(tokens))) => {
                let token = tokens.token().await?;
                show(&mut request, location, &token)?;
                shown = Some((tokens, token));
            }
        }
        let sent = self.client.send(request, self.timeout, ANSWER_BYTES_MAX).await;
        let answer = sent.map_err(|error| error.to_string())?;
        if let Some((tokens, token)) = shown.filter(|_| answer.status() == http::StatusCode::UNAUTHORIZED) {
            tokens.refused(&token);
        }
        if !answer.status().is_success() && !self.any_status {
            return Err(format!("answered {}", answer.status().as_u16()));
        }
        read(&answer)
    }
}

/// JSON if the answer says so, else text. Several documents in one answer are an array.
fn read(answer: &Response<Bytes>) -> Result<Value, String> {
    let types = answer.headers().get_all(header::CONTENT_TYPE).iter();
    if !types.filter_map(|value| value.to_str().ok()).any(|value| value.contains("application/json")) {
        return Ok(Value::String(String::from_utf8_lossy(answer.body()).into_owned()));
    }
    let documents = serde_json::Deserializer::from_slice(answer.body()).into_iter::<Value>();
    let mut documents: Vec<Value> = documents.collect::<Result<_, _>>().map_err(|_| "the answer is no JSON")?;
    match documents.len() {
        0 => Err("the answer is empty, and no JSON".into()),
        1 => Ok(documents.swap_remove(0)),
        _ => Ok(Value::Array(documents)),
    }
}

/// Puts a secret where the server looks for it.
fn show(request: &mut Request<Bytes>, location: &Location, secret: &Hidden) -> Result<(), String> {
    let secret = secret.reveal();
    let (name, value) = match location {
        Location::Bearer => (header::AUTHORIZATION, format!("Bearer {secret}")),
        Location::Header(name, prefix) => (name.clone(), format!("{prefix}{secret}")),
        Location::Cookie(name) => (header::COOKIE, format!("{name}={secret}")),
        Location::Parameter(name) => {
            let uri = with_parameter(request.uri(), name, secret)?;
            *request.uri_mut() = uri;
            return Ok(());
        }
    };
    let mut value = HeaderValue::try_from(value).map_err(|_| "the secret is nothing that a header can carry")?;
    value.set_sensitive(true);
    request.headers_mut().insert(name, value);
    Ok(())
}

fn with_parameter(uri: &Uri, name: &str, secret: &str) -> Result<Uri, String> {
    let mut path = uri.path().to_owned();
    path.push('?');
    if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
        path.push_str(query);
        path.push('&');
    }
    path.push_str(&percent::form([(name, secret)]));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.try_into().map_err(|_| "the secret makes the URL too long")?);
    Uri::from_parts(parts).map_err(|_| "the secret makes the URL too long".into())
}

/// A value as a header's. What is no header value, or too long for one, is an error: it is never cut.
pub fn header_value(value: &Value) -> Result<HeaderValue, String> {
    let text = text_of(value);
    if text.len() > HEADER_BYTES_MAX {
        return Err(format!("has more than {HEADER_BYTES_MAX} bytes"));
    }
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| "has a line break or another control character".into())
}

impl ContentType {
    fn name(self) -> &'static str {
        match self {
            ContentType::Form => "application/x-www-form-urlencoded",
            ContentType::Json => "application/json",
        }
    }
}

impl Body {
    fn content_type(&self) -> Option<ContentType> {
        match self {
            Body::None => None,
            Body::Whole(_, content_type) | Body::Fields(_, content_type) => Some(*content_type),
        }
    }

    fn resolve(&self, root: &Value) -> Result<String, String> {
        let fields = match self {
            Body::None => return Ok(String::new()),
            Body::Whole(value, _) => return value.text(root).map_err(|fault| fault.words),
            Body::Fields(fields, _) => fields,
        };
        let mut values = serde_json::Map::new();
        for (name, value) in fields {
            let value = value.resolve(root).map_err(|words| format!("the parameter {name}: {words}"))?;
            values.insert(name.clone(), value);
        }
        Ok(match self.content_type() {
            Some(ContentType::Json) => Value::Object(values).to_string(),
            _ => {
                let texts: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), text_of(value))).collect();
                percent::form(texts.iter().map(|(name, value)| (*name, &**value)))
            }
        })
    }
}

/// How long one question may take: Authorino's milliseconds, of which 0 means as long as it takes.
pub fn timeout(milliseconds: Option<u64>) -> Duration {
    match milliseconds.map(Duration::from_millis) {
        None => TIMEOUT,
        Some(Duration::ZERO) => TIMEOUT_MAX,
        Some(given) => given.min(TIMEOUT_MAX),
    }
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
