//! The client of external authorizers: what Envoy's ext_authz filters ask, asked of the same servers, over gRPC or HTTP.
//!
//! Only CUSTOM policies lead here. Whoever cannot be asked denies, unless `fail_open` says otherwise; a provider that
//! nobody configured always does. Never reads a body: authorization comes before it.

mod answer;
mod grpc;
mod http;
mod question;

pub use answer::{Change, apply};
pub use question::{Asked, Question};

use crate::config::{Provider, Service, Xfcc};
use crate::error::Error;
use crate::policy::Custom;
use answer::Answer;
use prometheus::IntCounterVec;
use std::collections::BTreeMap;
use std::time::Duration;

/// All that are configured, by name.
pub struct Authorizers {
    providers: BTreeMap<String, Authorizer>,
    /// What authorizers hear of a caller's certificate: the same as the server behind.
    pub xfcc: Xfcc,
    /// By provider and result.
    asked: IntCounterVec,
}

struct Authorizer {
    client: Client,
    timeout: Duration,
    fail_open: bool,
}

enum Client {
    Grpc(Box<grpc::Client>),
    Http(http::Client),
}

/// What came of asking.
pub struct Consulted {
    /// Changes to the request, in order.
    pub told: Result<Vec<Change>, Error>,
    /// One for each that was asked, for the log.
    pub notes: Vec<String>,
}

impl Authorizers {
    /// Connects when first asked. `seats`: runtimes that will ask.
    pub fn new(providers: BTreeMap<String, Provider>, seats: usize, xfcc: Xfcc, asked: IntCounterVec) -> Authorizers {
        let open = |provider: Provider| {
            let (timeout, fail_open) = (provider.timeout, provider.fail_open);
            let client = match &provider.service {
                Service::Grpc(authority) => Client::Grpc(Box::new(grpc::Client::new(authority, timeout, seats))),
                Service::Http { authority, prefix } => {
                    let at = (authority.clone(), prefix.clone());
                    Client::Http(http::Client::new(at, provider.headers_to_check, provider.headers_to_upstream, seats))
                }
            };
            Authorizer { client, timeout, fail_open }
        };
        let providers = providers.into_iter().map(|(name, provider)| (name, open(provider))).collect();
        Authorizers { providers, xfcc, asked }
    }

    /// Asks all that `customs` name, one after another, until one denies. Each sees the request as those before left it.
    pub async fn ask(&self, customs: &[Custom], mut question: Question) -> Consulted {
        let (mut changes, mut notes) = (Vec::new(), Vec::new());
        for custom in customs {
            let (note, told) = self.ask_one(custom, &question).await;
            notes.push(format!("{}: {note}", custom.provider));
            match told {
                Ok(more) => {
                    if let Some(asked) = &mut question.http {
                        apply(&more, &mut asked.headers);
                    }
                    changes.extend(more);
                }
                Err(error) => return Consulted { told: Err(error), notes },
            }
        }
        Consulted { told: Ok(changes), notes }
    }

    async fn ask_one(&self, custom: &Custom, question: &Question) -> (String, Result<Vec<Change>, Error>) {
        let Custom { provider, hit } = custom;
        let Some(authorizer) = self.providers.get(&**provider) else {
            let reason =
                format!("{hit} asks the provider {provider}, which is not configured; add it to policy.providers");
            return ("not configured".into(), Err(Error::Forbidden { reason }));
        };
        let count = |result: &str| self.asked.with_label_values(&[&**provider, result]).inc();
        let failed = |why: &str| {
            count("error");
            let reason = format!("{hit} asks the provider {provider}, which could not be asked: {why}");
            (format!("failed: {why}"), Err(Error::Forbidden { reason }))
        };
        match authorizer.ask(question).await {
            Answer::Allowed(changes) => {
                count("allowed");
                ("allowed".into(), Ok(changes))
            }
            Answer::Denied(refusal) => {
                count("denied");
                let error = Error::Denied { provider: provider.clone(), refusal: Box::new(refusal) };
                (format!("denied by {hit}"), Err(error))
            }
            Answer::Failed(why) if authorizer.fail_open => {
                count("failed_open");
                tracing::warn!(%provider, why, "an authorizer could not be asked; the request passes (fail_open)");
                (format!("failed open: {why}"), Ok(Vec::new()))
            }
            Answer::Failed(why) => failed(&why),
            Answer::Unfit(why) => failed(why),
        }
    }
}

impl Authorizer {
    async fn ask(&self, question: &Question) -> Answer {
        let asking = async {
            match &self.client {
                Client::Grpc(client) => client.ask(question).await,
                Client::Http(client) => client.ask(question).await,
            }
        };
        let answer = tokio::time::timeout(self.timeout, asking).await;
        answer.unwrap_or_else(|_| Answer::Failed(format!("no answer within {} ms", self.timeout.as_millis())))
    }
}

#[cfg(test)]
mod tests;
