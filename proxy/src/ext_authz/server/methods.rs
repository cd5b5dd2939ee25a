//! Our own list of methods as what decides: who is known may pass, whatever the host.

use super::answer::{Allowed, Decision, Refused};
use super::{Check, Decide};
use crate::auth::Authenticator;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use serde_json::json;
use std::sync::Arc;

/// What the server behind the gateway hears of the caller.
const SUBJECT: HeaderName = HeaderName::from_static("x-outrider-subject");

pub struct Methods(pub Arc<Authenticator>);

impl Decide for Methods {
    fn decide<'a>(&'a self, check: &'a Check) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            let identified = self.0.identify(check.request()).await;
            let authorized = match identified.and_then(|identity| self.0.authorize(identity)) {
                Ok(authorized) => authorized,
                Err(error) => return Refused::of(&error).into(),
            };
            let identity = authorized.identity();
            let mut allowed = Allowed { remove: vec![AUTHORIZATION], ..Allowed::default() };
            match HeaderValue::from_str(&identity.subject) {
                Ok(subject) => allowed.set.push((SUBJECT, subject)),
                // What the caller itself may have put there must not stay.
                Err(_) => allowed.remove.push(SUBJECT),
            }
            let known = json!({"subject": identity.subject, "issuer": identity.issuer, "method": identity.method});
            allowed.dynamic_metadata.insert("identity".into(), known);
            allowed.into()
        })
    }
}
