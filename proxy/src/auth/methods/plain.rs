//! The request itself says who calls: an identity that somebody before us found out, picked out of the authorization
//! JSON.
//!
//! Believes whatever it finds: only for what a caller cannot write, or what rules check afterwards. Never for null.

use super::{Known, Method, Presented, Tools};
use crate::auth::selectors::text_of;
use crate::auth::values::ValueFrom;
use crate::auth::{ConfigProblem, Identity, Reason};
use crate::config;
use futures_util::future::ready;
use serde_json::Value;
use std::sync::Arc;

pub const NAME: &str = "plain";

/// Of an object, what it is called by, the first of these that is text.
const NAMES: [&str; 3] = ["sub", "username", "name"];

struct Plain {
    from: ValueFrom,
}

pub fn open(config: &config::Method, _: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    let config::Method::Plain(config) = config else { unreachable!("METHODS pairs this with config::Method::Plain") };
    Ok(of(config.from.compile("")?))
}

/// From a policy that was compiled already.
pub fn of(from: ValueFrom) -> Box<dyn Method> {
    Box::new(Plain { from })
}

impl Method for Plain {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        Box::pin(ready(self.known(presented)))
    }
}

impl Plain {
    fn known(&self, presented: &Presented<'_>) -> Result<Option<Identity>, Reason> {
        let found = self.from.resolve(presented.document.root()).map_err(|fault| {
            tracing::debug!(reason = %fault, "a plain identity could not be read");
            Reason::Malformed
        })?;
        if found.is_null() {
            return Ok(None);
        }
        let subject = match &found {
            Value::Object(object) => {
                NAMES.iter().find_map(|name| object.get(*name)?.as_str()).unwrap_or_default().into()
            }
            other => text_of(other).into_owned(),
        };
        if subject.contains(char::is_control) {
            return Err(Reason::Subject);
        }
        Ok(Some(Identity {
            subject,
            issuer: String::new(),
            method: NAME,
            claims: Arc::new(found),
            spiffe: presented.request.peer.spiffe.clone(),
            expires_at_unix: None,
        }))
    }
}
