//! External authorizers, asked about an exchange before our own policies are.

use super::Floor;
use crate::error::Error;
use crate::ext_authz::client::{self, Asked, Authorizers, Question};
use crate::forward::{self, Edit};
use crate::message::Head;
use crate::policy::{Policies, RequestPrincipal};
use std::pin::pin;

impl Floor<'_> {
    /// Asks whomever a CUSTOM policy names; all must agree. What they change in the head is done, and told, so that it
    /// can be done to the request that is sent on.
    pub async fn consult(
        &mut self,
        policies: &Policies,
        authorizers: &Authorizers,
        head: &mut Head,
        token: Option<&RequestPrincipal>,
    ) -> Result<Vec<Edit>, Error> {
        let customs = policies.needs_custom(&self.attributes(head, token));
        if customs.is_empty() {
            return Ok(Vec::new());
        }
        let question = self.question(authorizers, head);
        let asking = pin!(async { Ok(authorizers.ask(&customs, question).await) });
        // The caller may leave meanwhile; then nobody wants to know.
        let consulted = self.unless_over(asking).await?;
        self.record.authorizers = consulted.notes;
        Ok(client::apply(&consulted.told?, &mut head.headers))
    }

    /// The request as it came, credentials included, but with no more said of the caller than we know: an authorizer
    /// believes `x-forwarded-client-cert`.
    fn question(&self, authorizers: &Authorizers, head: &Head) -> Question {
        let facts = self.caller.facts();
        let mut headers = self.caller.headers().clone();
        for edit in forward::edits(self.busy(), head, authorizers.xfcc, &self.record.request_id) {
            match edit {
                Edit::Remove(name) => drop(headers.remove(name)),
                Edit::Set(name, value) => drop(headers.insert(name, value)),
            }
        }
        let target = head.query.as_ref().map(|query| format!("{}?{query}", head.path));
        let asked = Asked {
            id: head.request_id.clone(),
            method: head.method.clone(),
            host: self.caller.authority().to_owned(),
            target: target.unwrap_or_else(|| head.path.clone()),
            version: head.version,
            headers,
            unix_seconds: head.arrived_unix_seconds,
        };
        Question { http: Some(asked), ..Question::of_connection(&facts.peer, facts.target.address) }
    }
}
