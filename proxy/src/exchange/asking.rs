//! How the worker is asked, and when it is asked what its models are.

use super::Exchange;
use crate::admission::Permit;
use crate::dialects::{Ask, Event};
use crate::error::Error;
use crate::worker::{Events, Worker};
use futures_util::StreamExt;
use std::sync::Arc;

impl Exchange {
    pub(super) fn ask(&self, ask: &Ask, worker: &Arc<dyn Worker>, permit: Option<&Permit>) -> Events {
        let generation = permit.map(Permit::generation);
        match ask {
            Ask::About { .. } => self.about(worker, generation),
            ask => {
                self.meet(worker, generation);
                worker.ask(ask.clone())
            }
        }
    }

    /// What the sidecar knows itself, the worker asked first if there is a permit for it.
    fn about(&self, worker: &Arc<dyn Worker>, generation: Option<u64>) -> Events {
        let (known, ready) = (self.known.clone(), self.ready());
        let learning = generation.map(|generation| self.learning(worker, generation));
        let facts = async move {
            if let Some(learning) = learning {
                learning.await?;
            }
            Ok(Event::Facts(known.facts(ready)))
        };
        let done = futures_util::future::ready(Ok(Event::Done));
        Box::pin(futures_util::stream::once(facts).chain(futures_util::stream::once(done)))
    }

    /// The first request of each new worker has it asked, beside the request, what its models are.
    fn meet(&self, worker: &Arc<dyn Worker>, generation: Option<u64>) {
        if let Some(generation) = generation.filter(|generation| self.known.is_news(*generation)) {
            let learning = self.learning(worker, generation);
            tokio::spawn(async move {
                if let Err(error) = learning.await {
                    tracing::warn!(%error, "the worker did not say what its models are");
                }
            });
        }
    }

    /// Asks a worker what its models are; what they hold is what may run at once.
    fn learning(
        &self,
        worker: &Arc<dyn Worker>,
        generation: u64,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (known, worker, admission) = (self.known.clone(), worker.clone(), self.admission.clone());
        let counts_tokens = self.classes.counts_tokens();
        async move {
            known.learn(worker.as_ref(), generation).await?;
            if counts_tokens {
                admission.holds(known.kv_capacity_tokens());
            }
            Ok(())
        }
    }
}
