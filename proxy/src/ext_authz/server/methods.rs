//! The engine that judges this sidecar's own callers, as what decides for gateways: our own list of methods, or policies by
//! host.

use super::answer::{Allowed, Code, Decision, Refused};
use super::{Check, Decide};
use crate::auth::pipeline::{Fault, Refusal};
use crate::auth::request::Edit;
use crate::auth::{Authenticator, Authorized};
use crate::message::Head;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::COOKIE;
use http::{HeaderName, HeaderValue};
use serde_json::json;
use std::sync::Arc;

/// What the server behind the gateway hears of the caller where no policy says what it is to hear.
const SUBJECT: HeaderName = HeaderName::from_static("x-outrider-subject");
/// The name of our own list in audit records.
const OURS: &str = "auth.methods";

pub struct Methods(pub Arc<Authenticator>);

impl Decide for Methods {
    fn decide<'a>(&'a self, check: &'a Check) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            match self.judge(check).await {
                Ok(allowed) => allowed.into(),
                Err(refusal) => refused(*refusal).into(),
            }
        })
    }

    fn published(&self, path: &str) -> Option<Bytes> {
        self.0.published(path)
    }
}

impl Methods {
    async fn judge(&self, check: &Check) -> Result<Allowed, Box<Refusal>> {
        let caller = self.0.identify(check.request()).await?;
        let mut edits = caller.strips();
        let authorized = self.0.authorize(caller, check.now_unix).await?;
        edits.extend_from_slice(authorized.edits());
        let mut allowed = allowed(edits, &check.head);
        allowed.dynamic_metadata = authorized.dynamic_metadata().clone();
        if &*authorized.audit().policy == OURS {
            introduce(&authorized, &mut allowed);
        }
        Ok(allowed)
    }
}

fn introduce(authorized: &Authorized, allowed: &mut Allowed) {
    let identity = authorized.identity();
    match HeaderValue::from_str(&identity.subject) {
        Ok(subject) => allowed.set.push((SUBJECT, subject)),
        // What the caller itself may have put there must not stay.
        Err(_) => allowed.remove.push(SUBJECT),
    }
    let known = json!({"subject": identity.subject, "issuer": identity.issuer, "method": identity.method});
    allowed.dynamic_metadata.insert("identity".into(), known);
}

/// Edits in the order they were meant, as a gateway does them: it removes last.
fn allowed(edits: Vec<Edit>, head: &Head) -> Allowed {
    let mut allowed = Allowed::default();
    let mut cookies = Vec::new();
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                allowed.set.retain(|(other, _)| *other != name);
                allowed.set.push((name, value));
            }
            Edit::Strip(name) => allowed.remove.push(name),
            Edit::StripParameter(name) => allowed.remove_parameters.push(name),
            Edit::StripCookie(name) => cookies.push(name),
        }
    }
    if !cookies.is_empty() {
        match without(head, &cookies) {
            Some(rest) => allowed.set.push((COOKIE, rest)),
            None => allowed.remove.push(COOKIE),
        }
    }
    let set = &allowed.set;
    allowed.remove.retain(|name| set.iter().all(|(other, _)| other != name));
    allowed.remove.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    allowed.remove.dedup();
    allowed
}

/// The cookies of a request less those of these names; `None` if none is left.
fn without(head: &Head, names: &[String]) -> Option<HeaderValue> {
    let lines = head.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).map(str::trim);
    let kept = pairs.filter(|pair| !pair.split_once('=').is_some_and(|(name, _)| names.iter().any(|it| it == name)));
    let rest = kept.filter(|pair| !pair.is_empty()).collect::<Vec<_>>().join("; ");
    HeaderValue::from_str(&rest).ok().filter(|_| !rest.is_empty())
}

fn refused(refusal: Refusal) -> Refused {
    let refused = &refusal.refused;
    let code = match refused.fault {
        Fault::Unauthenticated => Code::Unauthenticated,
        Fault::Unauthorized => Code::PermissionDenied,
        Fault::Unavailable => Code::Unavailable,
        Fault::UnknownHost => return Refused::unknown_host(),
        Fault::Invalid => return Refused::invalid(),
    };
    let told = refused.refusal();
    // Our own list says nothing but what our table says; nor does a policy of what could not be decided.
    let speechless = refused.fault == Fault::Unavailable && refused.message.is_empty();
    if !refusal.explains() || speechless {
        return Refused { code, ..Refused::of(&refused.error) };
    }
    Refused { code, status: told.status, headers: told.headers, body: told.body }
}
