//! From no pod to the first: whoever starts pods is asked once, however many requests wait, and the first that answers is
//! waited for.
//!
//! Never takes a pod away: that is the autoscaler's to decide, which asks by the same [`Scaler`].

use super::service::Service;
use crate::config::activator as config;
use crate::kube::client::Client;
use crate::kube::client::scale::Ref;
use crate::scale::scaler::Scaler;
use crate::scale::targets::Target;
use async_trait::async_trait;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::process::Command;

/// A command that takes longer hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Of what a command that failed says.
const WORDS_MAX: usize = 300;

/// By the configuration; `None` where pods are only waited for.
pub fn scaler(scale: Option<&config::Scale>, client: Option<&Client>) -> Option<Arc<dyn Scaler>> {
    match (scale?, client) {
        (config::Scale::Command(command), _) => {
            Some(Arc::new(Commanded { command: command.clone(), told: AtomicU32::new(0) }))
        }
        (config::Scale::Kubernetes(target), Some(client)) => {
            Some(Arc::new(Cluster { client: client.clone(), target: target.clone() }))
        }
        (config::Scale::Kubernetes(_), None) => None,
    }
}

/// The `scale` subresource of a Deployment or a StatefulSet.
struct Cluster {
    client: Client,
    target: Ref,
}

#[async_trait]
impl Scaler for Cluster {
    async fn scale(&self) -> Result<u32, String> {
        self.client.scale_of(&self.target).await.map_err(|error| self.words(&error))
    }

    async fn set(&self, replicas: u32) -> Result<(), String> {
        self.client.set_scale(&self.target, replicas).await.map_err(|error| self.words(&error))
    }

    /// Only from zero: two activators, or an autoscaler, may do the same at the same moment.
    async fn wake(&self) -> Result<(), String> {
        if self.scale().await? > 0 {
            return Ok(());
        }
        let asked = self.client.set_scale_from(&self.target, 0, 1).await.map_err(|error| self.words(&error))?;
        tracing::info!(scaled = %self.target, asked, "scaled from zero to one");
        Ok(())
    }
}

impl Cluster {
    fn words(&self, error: &crate::kube::client::ApiError) -> String {
        if matches!(error.code(), Some(401 | 403)) {
            // For the log: a caller could do nothing about it.
            let advice = "bind the activator's service account to a role with get and patch on */scale";
            tracing::error!(scaled = %self.target, %error, advice, "it may not be scaled");
        }
        format!("{} could not be scaled", self.target.name)
    }
}

/// A command of the operator's, told the number as its last argument. It cannot be asked, only told again.
struct Commanded {
    command: Vec<String>,
    told: AtomicU32,
}

#[async_trait]
impl Scaler for Commanded {
    async fn scale(&self) -> Result<u32, String> {
        Ok(self.told.load(Relaxed))
    }

    async fn wake(&self) -> Result<(), String> {
        self.set(self.told.load(Relaxed).max(1)).await
    }

    async fn set(&self, replicas: u32) -> Result<(), String> {
        self.told.store(replicas, Relaxed);
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).arg(replicas.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().map_err(|error| format!("{} could not be run: {error}", self.command[0]))?;
        match tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output()).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let words: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(WORDS_MAX).collect();
                Err(format!("{} failed ({}): {words}", self.command[0], output.status))
            }
            Ok(Err(error)) => Err(format!("{} could not be waited for: {error}", self.command[0])),
            Err(_) => Err(format!("{} did not end within {} s", self.command[0], COMMAND_TIMEOUT.as_secs())),
        }
    }
}

/// A service as something that can be woken: admission holds its callers meanwhile, asks for one start however many they
/// are, and tells all of them once if it fails.
pub struct Woken {
    pub service: Arc<Service>,
    pub scaler: Option<Arc<dyn Scaler>>,
}

#[async_trait]
impl Target for Woken {
    async fn start(&self) -> Result<(), String> {
        if self.service.capacity() > 0 {
            return Ok(());
        }
        if let Some(scaler) = &self.scaler {
            scaler.wake().await?;
        }
        let limit = self.service.config.start_timeout;
        let there = tokio::time::timeout(limit, self.service.has_pods()).await;
        there.map_err(|_| format!("no pod of {} answered within {} s", self.service.config.name, limit.as_secs()))
    }

    /// Whoever scales down decides that.
    async fn stop(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::client::fake::{Answer, Fake};
    use crate::kube::client::scale::Kind;
    use http::{Method, StatusCode};
    use serde_json::{Value, json};

    fn cluster(fake: &Fake) -> Arc<dyn Scaler> {
        let target = Ref { namespace: "m".into(), kind: Kind::Deployment, name: "llama".into() };
        scaler(Some(&config::Scale::Kubernetes(target)), Some(&Client::new(fake.kubernetes()))).unwrap()
    }

    const PATH: &str = "/apis/apps/v1/namespaces/m/deployments/llama/scale";

    fn scale(replicas: Value) -> Answer {
        Answer::Json(StatusCode::OK, json!({"kind": "Scale", "spec": {"replicas": replicas}, "status": {}}))
    }

    #[tokio::test]
    async fn is_a_deployment_woken_only_from_zero() {
        let fake = Fake::start().await;
        fake.tells(PATH, scale(json!(3)));
        cluster(&fake).wake().await.unwrap();
        assert_eq!(fake.asked(), 1, "it has pods: nothing is changed");
        fake.tells(PATH, scale(json!(0)));
        fake.tells(PATH, scale(json!(1)));
        cluster(&fake).wake().await.unwrap();
        let asked = fake.world.lock().unwrap().asked.pop().unwrap();
        assert_eq!((asked.0, asked.1.as_str()), (Method::PATCH, PATH));
        assert!(asked.2[0]["op"] == "test" && asked.2[1]["value"] == 1, "{}", asked.2);
        let refused = cluster(&fake).wake().await.unwrap_err();
        assert_eq!(refused, "llama could not be scaled", "and no word of the API's to a caller");
    }

    #[tokio::test]
    async fn what_does_a_command_say_when_it_fails() {
        let command = |script: &str| {
            let words = ["sh", "-c", script, "x"].map(String::from).to_vec();
            scaler(Some(&config::Scale::Command(words)), None).unwrap()
        };
        assert_eq!(command("test $1 = 1").wake().await, Ok(()), "told how many");
        let failed = command("echo no room >&2; exit 3").wake().await.unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.ends_with("no room"), "{failed}");
        let absent = scaler(Some(&config::Scale::Command(vec!["/no/such".into()])), None).unwrap();
        assert!(absent.wake().await.unwrap_err().starts_with("/no/such could not be run"));
    }
}
