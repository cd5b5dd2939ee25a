//! `POST /wake` and `POST /sleep`: the worker at an operator's word.

use super::Office;
use super::http::Reply;
use serde_json::json;

impl Office {
    /// Wakes the worker before anybody asks: 202, for it takes its time. `GET /healthz/ready` tells of failed starts.
    pub(super) fn wake(&self) -> Reply {
        match self.exchange.admission.wake() {
            Ok(()) => {
                tracing::info!("woken by an operator");
                self.sleeper(202)
            }
            Err(error) => {
                let verdict = error.verdict();
                let reply = Reply::text(verdict.status, &format!("{}\n", verdict.words));
                match verdict.retry_after {
                    Some(after) => reply.with("retry-after", &after.as_secs().max(1).to_string()),
                    None => reply,
                }
            }
        }
    }

    /// Sends an idle worker to sleep; a busy one goes on, and the operator is told.
    pub(super) fn sleep(&self) -> Reply {
        if self.exchange.admission.sleep() {
            tracing::info!("sent to sleep by an operator");
            return self.sleeper(202);
        }
        self.sleeper(409)
    }

    fn sleeper(&self, status: u16) -> Reply {
        let snapshot = self.exchange.admission.snapshot();
        let (running, waiting) = (snapshot.running, snapshot.waiting);
        Reply::json(status, &json!({"worker": snapshot.worker, "running": running, "waiting": waiting}))
    }
}
