//! What somebody else says of a credential: whose it is, or why it is no good. For the methods that ask.

use super::verdicts::Answer;
use super::{Identity, Reason};
use crate::tls::identity::Peer;
use serde_json::Value;
use std::sync::Arc;

/// A JSON tree in memory against its text.
const JSON_BYTES: usize = 3;

/// A caller whose credential is good.
pub struct Vouched {
    pub subject: String,
    pub issuer: String,
    /// As rules see it; an object.
    pub claims: Arc<Value>,
    pub expires_at_unix: Option<u64>,
}

pub type Said = Result<Vouched, Reason>;

/// For the memory of answers; `text_bytes`: of the claims as JSON.
pub fn answer(said: Said, text_bytes: usize) -> Answer<Said> {
    match said {
        Ok(vouched) => Answer {
            good: true,
            bytes: text_bytes * JSON_BYTES,
            subject: vouched.subject.clone(),
            issuer: vouched.issuer.clone(),
            expires_at_unix: vouched.expires_at_unix,
            value: Ok(vouched),
        },
        Err(reason) => {
            let (subject, issuer) = (String::new(), String::new());
            Answer { good: false, value: Err(reason), bytes: 0, subject, issuer, expires_at_unix: None }
        }
    }
}

impl Vouched {
    pub fn identity(&self, method: &'static str, peer: &Peer) -> Identity {
        Identity {
            subject: self.subject.clone(),
            issuer: self.issuer.clone(),
            method,
            claims: self.claims.clone(),
            spiffe: peer.spiffe.clone(),
            expires_at_unix: self.expires_at_unix,
        }
    }
}
