//! `--oidc-*`: tokens of an issuer, in the place of TokenReviews, and by what name Kubernetes knows their callers.
//!
//! As the API server itself reads ID tokens: a claim is the user's name, another the groups, each behind a prefix. Checks
//! nothing of a token itself: that is the JWT method's.

use super::flags::AuthFlags;
use crate::auth::methods::{Known, Method, Presented, Tools, jwt};
use crate::auth::{Identity, Reason};
use crate::config::auth::{Fetched, Keys};
use crate::config::{self, Jwt};
use serde_json::{Value, json};
use std::sync::Arc;

/// A mail address that nobody has verified is no name (OpenID Connect Core, section 5.1).
const EMAIL: &str = "email";

pub struct Oidc {
    tokens: Box<dyn Method>,
    names: Names,
}

struct Names {
    username_claim: String,
    username_prefix: String,
    groups_claim: String,
    groups_prefix: String,
}

/// `None` without an issuer.
pub fn open(flags: &AuthFlags, tools: &Tools) -> Result<Option<Oidc>, String> {
    if flags.oidc_issuer.is_empty() {
        return Ok(None);
    }
    let fetched = Fetched { authorities: flags.oidc_ca_file.clone(), ..Fetched::default() };
    let keys = Keys::Issuer(flags.oidc_issuer.clone(), fetched);
    let mut tokens = Jwt::new(keys, Some(flags.oidc_issuer.clone()), vec![flags.oidc_client_id.clone()]);
    tokens.algorithms = flags.oidc_sign_alg.clone();
    tokens.subject_required = false;
    let tokens = jwt::open(&config::Method::Jwt(tokens), tools)
        .map_err(|problem| format!("--oidc-*: {}: {}", problem.path.trim_start_matches('.'), problem.message))?;
    let names = Names {
        username_claim: flags.oidc_username_claim.clone(),
        username_prefix: flags.oidc_username_prefix.clone(),
        groups_claim: flags.oidc_groups_claim.clone(),
        groups_prefix: flags.oidc_groups_prefix.clone(),
    };
    Ok(Some(Oidc { tokens, names }))
}

impl Method for Oidc {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        Box::pin(async move {
            let known = self.tokens.identify(presented).await?;
            known.map(|identity| self.names.apply(identity)).transpose()
        })
    }
}

impl Names {
    /// The same caller, as a TokenReview would tell of it.
    fn apply(&self, identity: Identity) -> Result<Identity, Reason> {
        let claims = &identity.claims;
        let name = claims[&self.username_claim].as_str().filter(|name| !name.is_empty()).ok_or(Reason::Claim)?;
        let verified = claims.get("email_verified").is_none_or(|verified| *verified == true);
        if self.username_claim == EMAIL && !verified {
            return Err(Reason::Claim);
        }
        let groups: Vec<&str> = match &claims[&self.groups_claim] {
            Value::Null => Vec::new(),
            Value::String(one) => vec![one],
            Value::Array(all) => all.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Reason::Claim)?,
            _ => return Err(Reason::Claim),
        };
        let groups: Vec<String> = groups.iter().map(|group| format!("{}{group}", self.groups_prefix)).collect();
        let subject = format!("{}{name}", self.username_prefix);
        let user = json!({"authenticated": true, "user": {"username": subject, "groups": groups}});
        Ok(Identity { subject, claims: Arc::new(user), ..identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_what_name_is_a_caller_known() {
        let names = |username: &str| Names {
            username_claim: username.into(),
            username_prefix: "oidc:".into(),
            groups_claim: "groups".into(),
            groups_prefix: "oidc/".into(),
        };
        let of = |username: &str, claims: Value| {
            let identity = Identity {
                subject: "7".into(),
                issuer: "https://issuer".into(),
                method: jwt::NAME,
                claims: Arc::new(claims),
                spiffe: None,
                expires_at_unix: Some(9),
            };
            let known = names(username).apply(identity)?;
            assert_eq!(
                (known.expires_at_unix, known.claims["user"]["username"].as_str()),
                (Some(9), Some(&*known.subject))
            );
            Ok((known.subject, known.claims["user"]["groups"].clone()))
        };
        let known = |name: &str, groups: Value| Ok((name.to_owned(), groups));
        for (claim, claims, expected) in [
            ("email", json!({"email": "a@b"}), known("oidc:a@b", json!([]))),
            ("email", json!({"email": "a@b", "email_verified": true}), known("oidc:a@b", json!([]))),
            ("email", json!({"email": "a@b", "email_verified": false}), Err(Reason::Claim)),
            ("email", json!({"email": "a@b", "email_verified": "true"}), Err(Reason::Claim)),
            ("email", json!({"sub": "7"}), Err(Reason::Claim)),
            ("sub", json!({"sub": ""}), Err(Reason::Claim)),
            ("sub", json!({"sub": 7}), Err(Reason::Claim)),
            ("sub", json!({"sub": "7", "email_verified": false, "groups": "a"}), known("oidc:7", json!(["oidc/a"]))),
            ("sub", json!({"sub": "7", "groups": ["a", "b"]}), known("oidc:7", json!(["oidc/a", "oidc/b"]))),
            ("sub", json!({"sub": "7", "groups": ["a", 1]}), Err(Reason::Claim)),
            ("sub", json!({"sub": "7", "groups": {"a": 1}}), Err(Reason::Claim)),
        ] {
            let words = claims.to_string();
            assert_eq!(of(claim, claims), expected, "{claim} of {words}");
        }
    }
}
