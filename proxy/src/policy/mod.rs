//! Istio's security policies as pure functions: YAML in, decisions out. AuthorizationPolicy, PeerAuthentication, and
//! what RequestAuthentication asks for.
//!
//! Compiled once, then only compared: evaluating opens nothing, waits for nothing and reads no clock. [`watch`] is the
//! shell that rereads a folder. Where we differ from Istio the place says so; in sum: mistakes that Istio's webhook
//! would have caught are refused here, a policy that names what we do not have is refused instead of never matching,
//! and no star of a namespace reaches over a slash.

mod attributes;
mod authorization;
mod decide;
mod document;
mod jwt_rule;
mod matchers;
mod parse;
mod peer;
mod rule;
mod trust;
pub mod watch;

pub use attributes::{Attributes, ConnectionAttributes, RequestPrincipal};
pub use decide::{Decision, Hit, Shadow, Verdict};
pub use document::Problem;
pub use jwt_rule::{JwtRule, KeySource};
pub use peer::PeerMode;
pub use watch::{InForce, Watched};

use attributes::Facts;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whom the policies are for.
#[derive(Clone, Debug)]
pub struct Workload {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    /// Policies of this namespace are for all namespaces.
    pub root_namespace: String,
    /// What `cluster.local` means in a principal.
    pub trust_domain: String,
    /// Names the trust domain had before.
    pub trust_domain_aliases: Vec<String>,
}

/// All policies that apply to one workload. Immutable; cheap to ask.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    actions: decide::Actions,
    peers: peer::PeerModes,
    jwt_rules: Vec<JwtRule>,
    notes: Vec<String>,
}

/// An external authorizer that a CUSTOM policy wants asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom {
    pub provider: Arc<str>,
    /// The first policy that asks.
    pub hit: Hit,
}

impl Policies {
    /// Nothing is forbidden, nothing is said of ports.
    pub fn empty() -> Policies {
        Policies::default()
    }

    /// Reads files, each a name and multi-document YAML. All problems come at once.
    pub fn parse(files: &[(String, String)], workload: &Workload) -> Result<Policies, Vec<Problem>> {
        parse::parse(files, workload)
    }

    /// What PeerAuthentication says of a port; `None` if nothing does.
    pub fn peer_mode(&self, port: u16) -> Option<PeerMode> {
        self.peers.of(port)
    }

    /// The external authorizers to ask before [`Policies::evaluate`], each once; if any of them refuses, so do we.
    /// Empty, and then nothing was allocated, unless there are CUSTOM policies and one matches.
    ///
    /// Istio asks before it knows who calls, so its webhook forbids principals and tokens in CUSTOM rules. We know
    /// already, and read them.
    pub fn needs_custom(&self, request: &Attributes<'_>) -> Vec<Custom> {
        self.customs(Facts::of_request(request))
    }

    /// Whether any does, whatever the request.
    pub fn name_authorizers(&self) -> bool {
        !self.actions.custom.is_empty()
    }

    /// The same for a connection without HTTP.
    pub fn connection_needs_custom(&self, connection: &ConnectionAttributes<'_>) -> Vec<Custom> {
        self.customs(Facts::of_connection(connection))
    }

    fn customs(&self, facts: Facts<'_>) -> Vec<Custom> {
        let mut customs: Vec<Custom> = Vec::new();
        for (policy, provider) in &self.actions.custom {
            if !customs.iter().any(|custom| custom.provider == *provider)
                && let Some(hit) = policy.hit(facts, false)
            {
                customs.push(Custom { provider: provider.clone(), hit });
            }
        }
        customs
    }

    /// AUDIT, DENY and ALLOW for a request. CUSTOM comes first: see [`Policies::needs_custom`].
    pub fn evaluate(&self, request: &Attributes<'_>) -> Decision {
        self.actions.decide(Facts::of_request(request))
    }

    /// The same for a connection without HTTP. Fields of HTTP are missing: a DENY rule takes them as met, an ALLOW
    /// rule with any of them does not match.
    pub fn evaluate_connection(&self, connection: &ConnectionAttributes<'_>) -> Decision {
        self.actions.decide(Facts::of_connection(connection))
    }

    /// What RequestAuthentication asks for.
    pub fn jwt_rules(&self) -> &[JwtRule] {
        &self.jwt_rules
    }

    /// What was read and does nothing here, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many AuthorizationPolicies are in force, dry-run ones included.
    pub fn count(&self) -> usize {
        let actions = &self.actions;
        let lists = [&actions.deny, &actions.allow, &actions.audit, &actions.dry_deny, &actions.dry_allow];
        actions.custom.len() + lists.map(Vec::len).iter().sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
