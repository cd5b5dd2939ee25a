//! Why a request does not pass a pipeline, and what its caller is told.

use crate::auth::Reason;
use crate::error::Error;
use crate::message::Refusal;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use std::sync::Arc;

use super::evaluator::Make;

/// The header that says why.
pub const REASON: HeaderName = HeaderName::from_static("x-ext-auth-reason");
/// Header values made from a request are no longer than this.
const VALUE_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody knows the caller.
    Unauthenticated,
    /// It is known, and may not.
    Unauthorized,
    /// Whoever would know cannot be asked, or did not answer in time.
    Unavailable,
    /// No policy speaks of this host.
    UnknownHost,
    /// The question itself makes no sense.
    Invalid,
}

impl Fault {
    pub fn status(self) -> StatusCode {
        match self {
            Fault::Unauthenticated => StatusCode::UNAUTHORIZED,
            Fault::Unauthorized => StatusCode::FORBIDDEN,
            Fault::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Fault::UnknownHost => StatusCode::NOT_FOUND,
            Fault::Invalid => StatusCode::BAD_REQUEST,
        }
    }

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Fault::Unauthenticated => "unauthenticated",
            Fault::Unauthorized => "unauthorized",
            Fault::Unavailable => "unavailable",
            Fault::UnknownHost => "unknown_host",
            Fault::Invalid => "invalid",
        }
    }
}

/// A refusal in the making.
#[derive(Clone, Debug)]
pub struct Refused {
    pub fault: Fault,
    /// The pipeline's name.
    pub policy: Arc<str>,
    /// Who decided; none if nobody was asked.
    pub evaluator: Option<Arc<str>>,
    /// For the log, and not for callers.
    pub reason: String,
    /// For callers, in [`REASON`].
    pub message: String,
    /// Challenges, or what `denyWith` has in their place.
    pub headers: HeaderMap,
    pub status: StatusCode,
    /// `denyWith` has words of its own.
    pub body: Option<Bytes>,
    /// What our own table of verdicts makes of it, where a policy does not say.
    pub error: Error,
}

impl Refused {
    /// For a gateway that asked: whole, as Authorino answers.
    pub fn refusal(&self) -> Refusal {
        let mut headers = self.headers.clone();
        headers.extend(HeaderValue::from_str(&self.message).ok().map(|value| (REASON, value)));
        Refusal { status: self.status, headers, body: self.body.clone().unwrap_or_default() }
    }

    /// For the caller of a sidecar: in its dialect, unless the policy has words of its own.
    pub fn into_error(self) -> Error {
        if self.body.is_some() || self.status != self.fault.status() {
            return Error::Denied { provider: self.policy.clone(), refusal: Box::new(self.refusal()) };
        }
        let headers = self.refusal().headers;
        Error::Explained { error: Box::new(self.error), headers: Box::new(headers) }
    }

    /// For our own list of methods, which says nothing but what the table says.
    pub fn into_plain_error(self) -> Error {
        self.error
    }

    pub(super) fn unauthenticated(policy: &Arc<str>, refused: Option<Reason>) -> Refused {
        let refused = refused.map(|reason| Error::CredentialRefused { reason: reason.label() });
        let error = refused.unwrap_or(Error::CredentialMissing);
        Refused::new(Fault::Unauthenticated, policy, error)
    }

    pub fn new(fault: Fault, policy: &Arc<str>, error: Error) -> Refused {
        Refused {
            fault,
            policy: policy.clone(),
            evaluator: None,
            reason: error.to_string(),
            message: String::new(),
            headers: HeaderMap::new(),
            status: fault.status(),
            body: None,
            error,
        }
    }
}

/// What a policy wants refused callers told.
#[derive(Default)]
pub struct DenyWith {
    pub code: Option<StatusCode>,
    pub message: Option<Make>,
    pub headers: Vec<(HeaderName, Make)>,
    pub body: Option<Make>,
}

impl DenyWith {
    pub fn is_empty(&self) -> bool {
        self.code.is_none() && self.message.is_none() && self.headers.is_empty() && self.body.is_none()
    }

    /// Changes a refusal as the policy says. What cannot be made is left as it was.
    pub fn apply(&self, refused: &mut Refused, root: &Value) {
        if let Some(code) = self.code {
            refused.status = code;
        }
        if let Some(message) = made(self.message.as_ref(), root) {
            refused.message = message;
        }
        if let Some(body) = made(self.body.as_ref(), root) {
            refused.body = Some(body.into());
        }
        if !self.headers.is_empty() {
            refused.headers.clear();
            for (name, make) in &self.headers {
                let value = made(Some(make), root).filter(|text| text.len() <= VALUE_BYTES_MAX);
                refused.headers.extend(value.and_then(|text| text.parse().ok()).map(|value| (name.clone(), value)));
            }
        }
    }
}

fn made(make: Option<&Make>, root: &Value) -> Option<String> {
    make?(root).ok().map(text)
}

/// A value as the text of a header: strings bare, all else as JSON.
pub fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
