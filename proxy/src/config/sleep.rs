//! A foreign server that sleeps when nobody asks anything of it, and how it is woken.

use super::inbound::Destination;
use super::quantity::Quantity;
use super::raw::Problems;
use super::worker::Waking;
use crate::kube::client::scale::{Kind, Ref};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Sleep {
    /// Without a request for so long. `None`: only at an operator's word.
    pub after: Option<Duration>,
    pub how: Sleeper,
    pub waking: Waking,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Sleeper {
    /// vLLM's sleep mode, at this level.
    Vllm { level: u8 },
    /// No pods; when awake, so many.
    Kubernetes { scaled: Ref, replicas: u32 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSleep {
    after: Option<Quantity>,
    vllm: Option<RawVllm>,
    kubernetes: Option<RawScaled>,
    #[serde(default)]
    prewarm: Vec<String>,
    wake_on: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVllm {
    level: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScaled {
    kind: String,
    name: String,
    namespace: String,
    replicas: Option<u32>,
}

impl RawSleep {
    /// `to`: where the server is.
    pub(super) fn validate(self, to: &Destination, p: &mut Problems) -> Option<Sleep> {
        let how = match (self.vllm, self.kubernetes) {
            (Some(vllm), None) => vllm.validate(to, p)?,
            (None, Some(scaled)) => scaled.validate(to, p)?,
            _ => {
                p.add("forward.sleep", "exactly one of `vllm` and `kubernetes` says how it sleeps");
                return None;
            }
        };
        // A start of such a server is minutes where it is no sleep mode's: five of quiet are worth it.
        let after = p.optional("forward.sleep.after", &self.after, Some(Duration::from_secs(300)));
        let waking = Waking::parse("forward.sleep", &self.prewarm, self.wake_on.as_deref(), p);
        Some(Sleep { after, how, waking })
    }
}

impl RawVllm {
    fn validate(self, to: &Destination, p: &mut Problems) -> Option<Sleeper> {
        if !matches!(to, Destination::Tcp(_)) {
            p.add("forward.sleep.vllm", "needs forward.to to be an address: its sleep endpoints are asked there");
        }
        let level = self.level.unwrap_or(1);
        if !matches!(level, 1 | 2) {
            p.add("forward.sleep.vllm.level", "must be 1 (weights stay in the host's memory) or 2 (nothing stays)");
            return None;
        }
        Some(Sleeper::Vllm { level })
    }
}

impl RawScaled {
    fn validate(self, to: &Destination, p: &mut Problems) -> Option<Sleeper> {
        let path = "forward.sleep.kubernetes";
        if !matches!(to, Destination::Tcp(_)) {
            p.add(path, "needs forward.to to be an address: pods that come and go are not in this one");
        }
        if self.replicas == Some(0) {
            p.add(&format!("{path}.replicas"), "must be at least 1: it is how many there are when awake");
        }
        let kind = match self.kind.as_str() {
            "Deployment" => Kind::Deployment,
            "StatefulSet" => Kind::StatefulSet,
            other => {
                p.add(&format!("{path}.kind"), format!("`{other}` is none of Deployment, StatefulSet"));
                return None;
            }
        };
        let scaled = Ref { namespace: self.namespace, kind, name: self.name };
        Some(Sleeper::Kubernetes { scaled, replicas: self.replicas.unwrap_or(1) })
    }
}

impl Sleep {
    pub(super) fn dump(&self) -> Value {
        let mut dump = self.waking.dump();
        dump["after_seconds"] = json!(self.after.map(|after| after.as_secs_f64()));
        match &self.how {
            Sleeper::Vllm { level } => dump["vllm"] = json!({"level": level}),
            Sleeper::Kubernetes { scaled: Ref { namespace, kind, name }, replicas } => {
                let kind = format!("{kind:?}");
                dump["kubernetes"] = json!({"kind": kind, "name": name, "namespace": namespace, "replicas": replicas});
            }
        }
        dump
    }
}
