//! The order in which policies speak: AUDIT only notes, DENY comes before ALLOW, and without any ALLOW policy all that
//! is not denied is allowed.
//!
//! Never allocates unless something was audited or a dry-run policy had something to say.

use super::attributes::Facts;
use super::rule::Rule;
use std::fmt;
use std::sync::Arc;

/// A policy that applies to this workload.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `namespace/name`
    pub name: Arc<str>,
    pub rules: Vec<Rule>,
}

impl Policy {
    pub(super) fn hit(&self, facts: Facts<'_>, allows: bool) -> Option<Hit> {
        let rule = self.rules.iter().position(|rule| rule.matches(facts, allows))?;
        Some(Hit { policy: self.name.clone(), rule })
    }
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// `namespace/name`
    pub policy: Arc<str>,
    /// Its place in `rules`.
    pub rule: usize,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules[{}]", self.policy, self.rule)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By the rule of an ALLOW policy; `None`: there is no ALLOW policy.
    Allow(Option<Hit>),
    /// By the rule of a DENY policy; `None`: there are ALLOW policies, and none matched.
    Deny(Option<Hit>),
}

impl Verdict {
    pub fn is_allow(&self) -> bool {
        matches!(self, Verdict::Allow(_))
    }

    /// Why not, for the log; `None` if allowed.
    pub fn denied(&self) -> Option<String> {
        match self {
            Verdict::Allow(_) => None,
            Verdict::Deny(Some(hit)) => Some(format!("denied by {hit}")),
            Verdict::Deny(None) => Some("no ALLOW policy matches".into()),
        }
    }
}

/// What is to be done, and what is to be noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// AUDIT policies that matched.
    pub audited: Vec<Arc<str>>,
    /// What dry-run policies would have done, those that would have done anything.
    pub shadow: Vec<Shadow>,
}

/// What a dry-run policy would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    pub policy: Arc<str>,
    pub allows: bool,
    /// `None`: an ALLOW policy that did not match, and nor did any other.
    pub rule: Option<usize>,
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.allows { "allow" } else { "deny" };
        match self.rule {
            Some(rule) => write!(f, "{} rules[{rule}] would {would}", self.policy),
            None => write!(f, "{} would {would}: it does not match", self.policy),
        }
    }
}

/// Policies by what they do, each list by name.
#[derive(Clone, Debug, Default)]
pub struct Actions {
    pub custom: Vec<(Policy, Arc<str>)>,
    pub deny: Vec<Policy>,
    pub allow: Vec<Policy>,
    pub audit: Vec<Policy>,
    pub dry_deny: Vec<Policy>,
    pub dry_allow: Vec<Policy>,
}

fn first(policies: &[Policy], facts: Facts<'_>, allows: bool) -> Option<Hit> {
    policies.iter().find_map(|policy| policy.hit(facts, allows))
}

impl Actions {
    pub(super) fn decide(&self, facts: Facts<'_>) -> Decision {
        let audited = self.audit.iter().filter_map(|policy| Some(policy.hit(facts, false)?.policy)).collect();
        let allowed = first(&self.allow, facts, true);
        let shadow = self.shadow(facts, allowed.is_some());
        let verdict = match first(&self.deny, facts, false) {
            Some(hit) => Verdict::Deny(Some(hit)),
            None if self.allow.is_empty() => Verdict::Allow(None),
            None => allowed.map_or(Verdict::Deny(None), |hit| Verdict::Allow(Some(hit))),
        };
        Decision { verdict, audited, shadow }
    }

    /// A dry-run ALLOW policy that does not match is told only if no other one, in force or not, matches: Istio looks
    /// at dry-run policies alone and so reports denials that taking off the annotation would never bring.
    fn shadow(&self, facts: Facts<'_>, allowed: bool) -> Vec<Shadow> {
        let would = |hit: Hit, allows: bool| Shadow { policy: hit.policy, allows, rule: Some(hit.rule) };
        let denies = self.dry_deny.iter().filter_map(|policy| Some(would(policy.hit(facts, false)?, false)));
        let allows = self.dry_allow.iter().filter_map(|policy| Some(would(policy.hit(facts, true)?, true)));
        let mut shadow: Vec<Shadow> = denies.chain(allows).collect();
        if !allowed && !shadow.iter().any(|shadow| shadow.allows) {
            let missed = |policy: &Policy| Shadow { policy: policy.name.clone(), allows: false, rule: None };
            shadow.extend(self.dry_allow.iter().map(missed));
        }
        shadow
    }
}
