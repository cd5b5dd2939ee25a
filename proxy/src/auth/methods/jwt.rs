//! JSON Web Tokens as credentials: keys from a file or an issuer, verdicts kept as long as the keys that gave them.
//!
//! Never asks an issuer about another's token, and never waits for keys longer than a moment.

use super::{Known, Method, Presented, Tools};
use crate::auth::barred::{Barred, Looked};
use crate::auth::cache::Cache;
use crate::auth::jwks::{self, KeySet};
use crate::auth::jwks_fetch::Wanted;
use crate::auth::jwt::{Expected, Verified, algorithm, unverified_issuer, verify};
use crate::auth::keys::Keys;
use crate::auth::reread::Reread;
use crate::auth::{ConfigProblem, Identity, Reason, Request};
use crate::config;
use crate::config::auth::{Fetched, Keys as Place};
use crate::policy::KeySource;
use futures_util::future::ready;
use std::sync::Arc;

pub const NAME: &str = "jwt";

struct Jwt {
    expected: Expected,
    keys: Keys,
    cache: Cache<Accepted>,
    barred: Arc<Barred>,
}

/// A token that was checked, and with which keys; the verdict ends with them.
struct Accepted {
    keys: Arc<KeySet>,
    verified: Verified,
    looked: Looked,
}

pub fn open(config: &config::Method, tools: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    let config::Method::Jwt(config) = config else { unreachable!("METHODS pairs this with config::Method::Jwt") };
    let problem = |path: &str, message: String| Err(ConfigProblem { path: path.into(), message });
    if config.issuer.as_deref() == Some("") {
        return problem(".issuer", "is empty; write what the tokens carry as `iss`".into());
    }
    if config.audiences.iter().any(String::is_empty) {
        let words = "is empty; without it a token made for another service would be taken here";
        return problem(".audience", words.into());
    }
    let Some(algorithms) = config.algorithms.iter().map(|name| algorithm(name)).collect() else {
        return problem(".algorithms", format!("{:?} has one that is not supported", config.algorithms));
    };
    let want = |source: KeySource, fetched: &Fetched| {
        let Fetched { timeout, refresh, authorities, copy } = fetched.clone();
        Keys::Remote(tools.keys.want(&Wanted { source, timeout, refresh, authorities, copy }))
    };
    let keys = match &config.keys {
        Place::File(path) => match Reread::open(path, jwks::load) {
            Ok(file) => Keys::File(file),
            Err(message) => return problem(".jwks_file", message),
        },
        Place::Url(url, fetched) => want(KeySource::Uri(url.clone()), fetched),
        Place::Issuer(issuer, fetched) => want(KeySource::Discovery(issuer.clone()), fetched),
    };
    let expected = Expected {
        issuer: config.issuer.clone(),
        audiences: config.audiences.clone(),
        subject_required: config.subject_required,
        algorithms,
        types: config.types.clone(),
        required_claims: config.required_claims.clone(),
        leeway_seconds: config.leeway.as_secs(),
    };
    Ok(Box::new(Jwt { expected, keys, cache: Cache::new(), barred: tools.barred.clone() }))
}

impl Method for Jwt {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        let Some(token) = presented.credential else { return Box::pin(ready(Ok(None))) };
        match self.known(token, presented.request) {
            Err(Reason::UnknownKey | Reason::KeysUnavailable) => Box::pin(self.in_a_hurry(token, presented.request)),
            known => Box::pin(ready(known.map(Some))),
        }
    }
}

impl Jwt {
    fn known(&self, token: &str, request: &Request<'_>) -> Result<Identity, Reason> {
        let cached = self.cache.get(token).filter(|accepted| self.keys.are(&accepted.keys, request.now_unix));
        let accepted = match cached {
            Some(accepted) => {
                accepted.verified.check_time(request.now_unix)?;
                accepted
            }
            None => {
                let keys = self.keys.current(request.now_unix).ok_or(Reason::KeysUnavailable)?;
                let verified = verify(token, &keys, &self.expected, request.now_unix)?;
                let accepted = Arc::new(Accepted { keys, verified, looked: Looked::default() });
                self.cache.put(token, accepted.clone());
                accepted
            }
        };
        let verified = &accepted.verified;
        if self.barred.has(token, verified, &accepted.looked) {
            return Err(Reason::Rejected);
        }
        Ok(Identity {
            subject: verified.subject.clone(),
            issuer: verified.issuer.clone(),
            method: NAME,
            claims: verified.claims.clone(),
            spiffe: request.peer.spiffe.clone(),
            expires_at_unix: Some(verified.ends_unix),
        })
    }

    /// Once more, with keys that may have been rotated since they were fetched.
    ///
    /// Only for a token that says it is this issuer's: another's would make us ask the wrong one, and wait for it.
    async fn in_a_hurry(&self, token: &str, request: &Request<'_>) -> Result<Option<Identity>, Reason> {
        if let Some(issuer) = &self.expected.issuer
            && unverified_issuer(token)? != *issuer
        {
            return Err(Reason::Issuer);
        }
        if let Keys::Remote(remote) = &self.keys {
            remote.hurried().await;
        }
        self.known(token, request).map(Some)
    }
}
