//! The rooms that connections and exchanges share, and what leads to them: both doors are made from the same.

use super::{known, sleepers};
use crate::accept::{Acceptor, Entrance, Modes};
use crate::admission::Admission;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::dialects::Dialect;
use crate::exchange::{Answers, Classes, Exchange, Limiter, Suspects};
use crate::ext_authz::client::Authorizers;
use crate::policy::Watched;
use crate::record::Journal;
use crate::tls::Identity;
use std::sync::Arc;
use tokio::sync::watch;

pub struct Rooms {
    pub authenticator: Arc<Authenticator>,
    pub policies: Option<Arc<Watched>>,
    pub authorizers: Arc<Authorizers>,
    pub admission: Arc<Admission>,
    /// Those we listen on.
    pub ports: Vec<u16>,
    pub journal: Arc<Journal>,
}

impl Rooms {
    /// Where connections come in.
    pub fn acceptor(&self, config: &Config, identity: Option<&Arc<Identity>>) -> Acceptor {
        let (policies, authorizers) = (self.policies.clone(), self.authorizers.clone());
        Acceptor::new(Entrance {
            modes: Modes { tls: config.tls.clone(), policies, authorizers },
            identity: identity.filter(|_| config.tls.any()).cloned(),
            interception: config.interception.clone(),
            xfcc: config.xfcc,
            ports: self.ports.clone(),
            authenticator: self.authenticator.clone(),
            limits: config.limits.clone(),
            journal: self.journal.clone(),
            wakes: sleepers::wakes(config, &self.admission),
        })
    }

    /// Where their requests go.
    pub fn exchange(
        self,
        config: &Config,
        (answers, dialects): (Answers, &'static [&'static dyn Dialect]),
        cut: watch::Receiver<bool>,
    ) -> Exchange {
        Exchange {
            dialects,
            authenticator: self.authenticator,
            revocations: Arc::default(),
            policies: self.policies,
            authorizers: self.authorizers,
            admission: self.admission,
            answers,
            xfcc: config.xfcc,
            ports: self.ports,
            known: Arc::new(known(config)),
            limits: config.limits.clone(),
            cold: config.cold,
            timeouts: config.timeouts,
            classes: Classes::new(&config.queue),
            limiter: Limiter::new(&config.rate_limits, config.threads + 1, &self.journal.metrics),
            journal: self.journal,
            leaving: Arc::default(),
            suspects: Suspects::new(config.queue.wait_max),
            cut,
        }
    }
}
