//! Ways to prove who one is. An open set: a method is one file and a line in [`METHODS`].

pub mod anonymous;
pub mod api_key;
pub mod introspection;
pub mod jwt;
pub mod mtls;
pub mod plain;
pub mod token_review;
pub mod x509;

use super::barred::Barred;
use super::jwks_fetch::RemoteKeys;
use super::pipeline::Document;
use super::verdicts::Remembers;
use super::{ConfigProblem, Identity, Reason, Request};
use crate::config;
use crate::tls::identity::Peer;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// What a caller has to show, before any body is read.
pub struct Presented<'a> {
    pub request: &'a Request<'a>,
    /// From the place where this method's credentials are looked for; `None` if nothing is there.
    pub credential: Option<&'a str>,
    /// The request as rules see it, built if somebody asks.
    pub document: &'a Document<'a>,
}

/// `None`: the caller shows nothing that this method reads. An error: it does, and it is no good.
pub type Known<'a> = BoxFuture<'a, Result<Option<Identity>, Reason>>;

/// What is remembered, and whose memory it is.
pub type Memory = (&'static str, Arc<dyn Remembers>);

pub trait Method: Send + Sync {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a>;

    /// Whether it lets in callers who show nothing.
    fn takes_strangers(&self) -> bool {
        false
    }

    /// What it remembers of others' answers: an operator may make it forget.
    fn remembers(&self) -> Option<Memory> {
        None
    }

    /// Whether it asks somebody else; who answers at once is asked before.
    fn is_remote(&self) -> bool {
        false
    }

    /// Whether the connection alone tells it who calls.
    fn knows_by_connection(&self, _peer: &Peer) -> bool {
        false
    }
}

/// What methods are opened with: whatever several of them share.
#[derive(Clone)]
pub struct Tools {
    /// Keys of issuers; whoever runs it fetches them.
    pub keys: Arc<RemoteKeys>,
    /// Tokens that ended before their time.
    pub barred: Arc<Barred>,
}

impl Tools {
    pub fn new() -> Tools {
        Tools { keys: Arc::new(RemoteKeys::new(None)), barred: Arc::default() }
    }
}

impl Default for Tools {
    fn default() -> Tools {
        Tools::new()
    }
}

/// A problem's path is below the method's own name: `.jwks_file`, or empty.
pub type Open = fn(&config::Method, &Tools) -> Result<Box<dyn Method>, ConfigProblem>;

/// A line of the table.
pub struct Kind {
    /// As in the configuration and in [`Identity::method`].
    pub name: &'static str,
    pub open: Open,
}

/// All methods, sorted by name.
pub static METHODS: &[Kind] = &[
    Kind { name: anonymous::NAME, open: anonymous::open },
    Kind { name: api_key::NAME, open: api_key::open },
    Kind { name: introspection::NAME, open: introspection::open },
    Kind { name: jwt::NAME, open: jwt::open },
    Kind { name: mtls::NAME, open: mtls::open },
    Kind { name: plain::NAME, open: plain::open },
    Kind { name: token_review::NAME, open: token_review::open },
    Kind { name: x509::NAME, open: x509::open },
];

/// The line of [`METHODS`] that a setting asks for.
pub fn kind(config: &config::Method) -> &'static Kind {
    let name = match config {
        config::Method::Anonymous => anonymous::NAME,
        config::Method::ApiKey(_) => api_key::NAME,
        config::Method::Introspection(_) => introspection::NAME,
        config::Method::Jwt(_) => jwt::NAME,
        config::Method::Mtls => mtls::NAME,
        config::Method::Plain(_) => plain::NAME,
        config::Method::TokenReview(_) => token_review::NAME,
        config::Method::X509(_) => x509::NAME,
    };
    METHODS.iter().find(|kind| kind.name == name).expect("every method has its line: tested")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_the_table_agree_with_the_configuration() {
        let names: Vec<_> = METHODS.iter().map(|kind| kind.name).collect();
        assert!(names.is_sorted());
        let all = ["anonymous", "api_key", "introspection", "jwt", "mtls", "plain", "token_review", "x509"];
        assert_eq!(names, all);
        assert_eq!((kind(&config::Method::Anonymous).name, kind(&config::Method::Mtls).name), ("anonymous", "mtls"));
    }
}
