//! What an exchange may cost its caller.

use super::super::{Limiter, Routed};
use super::Floor;
use crate::admission::rate::{Caller, Flow, Work};
use crate::auth::methods::anonymous;
use crate::auth::{Authorized, Identity};
use crate::dialects::Ask;
use crate::error::Error;
use crate::forward::BYTES_PER_TOKEN;
use crate::message::Head;
use crate::policy::RequestPrincipal;
use http::Method;
use std::sync::Arc;

impl Floor<'_> {
    /// The caller is known. What is open to everybody (health) is never limited.
    pub async fn limit(
        &mut self,
        limiter: &Arc<Limiter>,
        authorized: Option<&Authorized>,
        token: Option<&RequestPrincipal>,
        routed: &Routed,
    ) -> Result<(), Error> {
        let open = routed.asked.is_some_and(|(_, operation)| operation.open);
        let Some(authorized) = authorized.filter(|_| !open && !limiter.is_idle()) else { return Ok(()) };
        self.meter = limiter.begin(&caller(authorized.identity(), token, &routed.head))?;
        self.ask_who_counts().await
    }

    /// The request was read.
    pub async fn charge(&mut self, ask: &Ask, bytes: usize) -> Result<(), Error> {
        let costs = matches!(ask, Ask::Generate(_) | Ask::GenerateMany(_) | Ask::Embed(_));
        let prompt_estimate = costs.then_some(estimate(bytes));
        self.meter.read(Work { model: self.record.model.as_deref(), prompt_estimate })?;
        self.ask_who_counts().await
    }

    /// The request will be read by somebody else.
    pub async fn charge_unread(&mut self, head: &Head, bytes: usize) -> Result<(), Error> {
        let json = head.header("content-type").is_some_and(|kind| kind.trim_start().starts_with("application/json"));
        let prompt_estimate = (head.method == Method::POST && json).then_some(estimate(bytes));
        self.meter.read(Work { model: None, prompt_estimate })?;
        self.ask_who_counts().await
    }

    async fn ask_who_counts(&mut self) -> Result<(), Error> {
        let Some(asking) = self.meter.asking() else { return Ok(()) };
        // Boxed: only where somebody else counts, an exchange need have room for the question.
        let mut asking = Box::pin(async { Ok(asking.await) });
        let answer = Box::pin(self.unless_over(asking.as_mut())).await?;
        self.meter.told(answer)
    }

    /// The answer went on. Only a stream is cut: of an answer that comes whole, the caller would see nothing at all.
    pub(super) fn metered(&mut self) -> Result<(), Error> {
        let (prompt, completion) = self.record.usage;
        let over = self.meter.flow(Flow { prompt: (prompt > 0).then_some(prompt), completion });
        if self.caller.head_sent() && !self.caller.ended() { over } else { Ok(()) }
    }
}

/// Of a prompt that nobody counted yet: its body's bytes, of which names and brackets are a part; the worker's own count
/// takes its place as soon as it is there.
fn estimate(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

/// By a method of ours, or else by the token that a policy asks for.
pub fn caller<'a>(identity: &'a Identity, token: Option<&'a RequestPrincipal>, head: &'a Head) -> Caller<'a> {
    let (issuer, subject, claims) = match token {
        Some(token) if identity.method == anonymous::NAME => (&token.issuer, &token.subject, &token.claims),
        _ => (&identity.issuer, &identity.subject, &identity.claims),
    };
    Caller { issuer, subject, claims, headers: &head.headers, method: &head.method, path: &head.path }
}
