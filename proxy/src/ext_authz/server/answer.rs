//! What was decided, and how either protocol says it. Pure.

use super::attributes::wire_object;
use crate::error::{Error, grpc};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use outrider_protos::ext_authz::v3::check_response::HttpResponse;
use outrider_protos::ext_authz::v3::{
    CheckResponse, DeniedHttpResponse, HeaderValue as Header, HeaderValueOption, HttpStatus, OkHttpResponse, Status,
};
use serde_json::{Map, Value};

/// Why, in words for the caller.
pub const REASON: HeaderName = HeaderName::from_static("x-ext-auth-reason");
/// How an answer over HTTP has the gateway remove request headers.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// Google's codes, as far as an authorizer has use for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unauthenticated,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::NotFound => "NOT_FOUND",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    fn number(self) -> i32 {
        match self {
            Code::Ok => 0,
            Code::InvalidArgument => grpc::INVALID_ARGUMENT,
            Code::NotFound => grpc::NOT_FOUND,
            Code::PermissionDenied => grpc::PERMISSION_DENIED,
            Code::Unavailable => grpc::UNAVAILABLE,
            Code::Unauthenticated => grpc::UNAUTHENTICATED,
        }
    }

    /// What the gateway's caller gets, unless the policy says otherwise.
    pub fn status(self) -> StatusCode {
        match self {
            Code::Ok => StatusCode::OK,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        }
    }
}

#[derive(Debug)]
pub enum Decision {
    Allowed(Box<Allowed>),
    Refused(Box<Refused>),
}

/// What the gateway is to do with the request before it forwards it.
#[derive(Debug, Default)]
pub struct Allowed {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
    /// Of the query. Over HTTP there is no way to say it.
    pub remove_parameters: Vec<String>,
    /// For the gateway's other filters.
    pub dynamic_metadata: Map<String, Value>,
}

/// What the gateway's caller is told.
#[derive(Debug)]
pub struct Refused {
    pub code: Code,
    pub status: StatusCode,
    /// The reason too.
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl From<Refused> for Decision {
    fn from(refused: Refused) -> Decision {
        Decision::Refused(Box::new(refused))
    }
}

impl From<Allowed> for Decision {
    fn from(allowed: Allowed) -> Decision {
        Decision::Allowed(Box::new(allowed))
    }
}

impl Refused {
    pub fn new(code: Code, reason: &str) -> Refused {
        let mut headers = HeaderMap::new();
        headers.extend(HeaderValue::from_str(reason).ok().map(|reason| (REASON, reason)));
        Refused { code, status: code.status(), headers, body: Bytes::new() }
    }

    pub fn invalid() -> Refused {
        Refused::new(Code::InvalidArgument, "Invalid request")
    }

    pub fn unknown_host() -> Refused {
        Refused::new(Code::NotFound, "Service not found")
    }

    pub fn unavailable(reason: &str) -> Refused {
        Refused::new(Code::Unavailable, reason)
    }

    /// By our own table of verdicts, in its public words.
    pub fn of(error: &Error) -> Refused {
        let verdict = error.verdict();
        let code = match verdict.status {
            400 => Code::InvalidArgument,
            401 => Code::Unauthenticated,
            404 => Code::NotFound,
            500.. => Code::Unavailable,
            _ => Code::PermissionDenied,
        };
        match error {
            Error::Denied { refusal, .. } => {
                Refused { code, status: refusal.status, headers: refusal.headers.clone(), body: refusal.body.clone() }
            }
            _ => Refused::new(code, &verdict.words),
        }
    }
}

impl Decision {
    pub fn code(&self) -> Code {
        match self {
            Decision::Allowed(_) => Code::Ok,
            Decision::Refused(refused) => refused.code,
        }
    }

    pub fn into_check_response(self) -> CheckResponse {
        let status = Some(Status { code: self.code().number(), message: String::new() });
        match self {
            Decision::Allowed(allowed) => {
                let Allowed { set, remove, remove_parameters, dynamic_metadata } = *allowed;
                let ok = OkHttpResponse {
                    headers: set.iter().map(|(name, value)| option(name, value, false)).collect(),
                    headers_to_remove: remove.into_iter().map(|name| name.to_string()).collect(),
                    query_parameters_to_remove: remove_parameters,
                };
                let dynamic_metadata = (!dynamic_metadata.is_empty()).then(|| wire_object(&dynamic_metadata));
                CheckResponse { status, http_response: Some(HttpResponse::OkResponse(ok)), dynamic_metadata }
            }
            Decision::Refused(refused) => {
                let Refused { status: http, headers, body, .. } = *refused;
                // Several challenges are several lines: each set by itself, the last one would be left.
                let several = |name: &HeaderName| headers.get_all(name).iter().count() > 1;
                let lines = headers.iter().map(|(name, value)| option(name, value, several(name)));
                let denied = DeniedHttpResponse {
                    status: Some(HttpStatus { code: http.as_u16().into() }),
                    headers: lines.collect(),
                    body: String::from_utf8_lossy(&body).into_owned(),
                };
                let http_response = Some(HttpResponse::DeniedResponse(denied));
                CheckResponse { status, http_response, dynamic_metadata: None }
            }
        }
    }

    pub fn into_http(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::new()));
        match self {
            Decision::Allowed(allowed) => {
                let headers = response.headers_mut();
                headers.extend(allowed.set);
                if !allowed.remove.is_empty() {
                    let names: Vec<_> = allowed.remove.iter().map(HeaderName::as_str).collect();
                    headers.extend(HeaderValue::from_str(&names.join(",")).ok().map(|names| (TO_REMOVE, names)));
                }
            }
            Decision::Refused(refused) => {
                *response.status_mut() = refused.status;
                *response.headers_mut() = refused.headers;
                *response.body_mut() = Full::new(refused.body);
            }
        }
        response
    }
}

fn option(name: &HeaderName, value: &HeaderValue, append: bool) -> HeaderValueOption {
    // Text where it is text: Authorino's clients read no other field.
    let (text, raw_value) = match value.to_str() {
        Ok(text) => (text.to_owned(), Bytes::new()),
        Err(_) => (String::new(), Bytes::copy_from_slice(value.as_bytes())),
    };
    let header = Some(Header { key: name.to_string(), value: text, raw_value });
    let append = append.then_some(outrider_protos::ext_authz::v3::Flag { value: true });
    HeaderValueOption { header, append }
}
