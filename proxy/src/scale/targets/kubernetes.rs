//! A foreign server of a Deployment or a StatefulSet, which sleeps by having no pods: its scale subresource.
//!
//! From nothing to something and back, never between: how many pods there are beyond the first is an autoscaler's to say.
//! When this sidecar ends, the pods stay.

use super::external::Address;
use super::{Target, within};
use crate::kube::client::scale::Ref;
use crate::kube::client::{ApiError, Client};
use crate::scale::progress::Told;
use async_trait::async_trait;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Of the API, which has others to answer.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Pods get thirty seconds to end, by default.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Kubernetes {
    client: Client,
    scaled: Ref,
    /// When awake.
    replicas: u32,
    address: Address,
    start_timeout: Duration,
    told: Told,
}

impl Kubernetes {
    /// `address`: where the server takes connections once a pod is there.
    pub fn new(client: Client, scaled: Ref, replicas: u32, address: Address, start_timeout: Duration) -> Self {
        Kubernetes { client, scaled, replicas, address, start_timeout, told: Told::default() }
    }

    async fn awake(&self) -> Result<(), String> {
        loop {
            // What another scaled up meanwhile stays as it is.
            match self.client.set_scale_from(&self.scaled, 0, self.replicas).await {
                Ok(_) => break,
                // Not allowed, or no such thing: asking again changes nothing.
                Err(error) if error.code().is_some_and(|code| code < 500 && code != 429) => {
                    return Err(format!("{} cannot be scaled: {error}", self.scaled));
                }
                Err(error) => {
                    tracing::warn!(%error, scaled = %self.scaled, "asked again");
                    tokio::time::sleep(ASK_EVERY).await;
                }
            }
        }
        while !self.address.connects().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// To nothing, and until nothing is left.
    async fn asleep(&self) -> Result<(), ApiError> {
        self.client.set_scale(&self.scaled, 0).await?;
        while self.client.scale(&self.scaled).await?.there > 0 {
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Target for Kubernetes {
    async fn start(&self) -> Result<(), String> {
        within(&self.told, self.start_timeout, self.awake()).await.unwrap_or_else(|| {
            Err(format!("no pod of {} took a connection within {} s", self.scaled, self.start_timeout.as_secs()))
        })
    }

    async fn stop(&self) {
        match tokio::time::timeout(STOP_TIMEOUT, self.asleep()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, scaled = %self.scaled, "it cannot be scaled to nothing"),
            Err(_) => tracing::warn!(scaled = %self.scaled, "its pods take long to end"),
        }
    }

    async fn leave(&self) {}

    fn told(&self) -> Option<&Told> {
        Some(&self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::client::fake::{Answer, Fake};
    use crate::kube::client::scale::Kind;
    use http::StatusCode;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    fn scale(wanted: u32, there: u32) -> Answer {
        let (spec, status) = (json!({"replicas": wanted}), json!({"replicas": there, "selector": "app=m"}));
        Answer::Json(StatusCode::OK, json!({"kind": "Scale", "spec": spec, "status": status}))
    }

    fn scaled() -> Ref {
        Ref { namespace: "models".into(), kind: Kind::Deployment, name: "m".into() }
    }

    fn asked(fake: &Fake) -> Vec<Value> {
        let world = fake.world.lock().unwrap();
        world.asked.iter().filter(|asked| asked.0 == "PATCH").map(|asked| asked.2.clone()).collect()
    }

    #[tokio::test]
    async fn is_it_scaled_from_nothing_and_back() {
        let fake = Fake::start().await;
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(server.local_addr().unwrap());
        let client = Client::new(fake.kubernetes());
        let target = Kubernetes::new(client, scaled(), 2, address, Duration::from_secs(5));
        let path = scaled().path();
        fake.tells(&path, scale(2, 0));
        target.start().await.unwrap();
        assert_eq!(asked(&fake)[0][1]["value"], 2);
        for answer in [scale(0, 2), scale(0, 0)] {
            fake.tells(&path, answer);
        }
        target.stop().await;
        assert_eq!(asked(&fake)[1], json!({"spec": {"replicas": 0}}));
        target.leave().await;
        assert_eq!(asked(&fake).len(), 2, "it stays when we go");
    }

    #[tokio::test]
    async fn what_is_said_of_one_that_cannot_be_scaled() {
        let fake = Fake::start().await;
        let target = Kubernetes::new(
            Client::new(fake.kubernetes()),
            scaled(),
            1,
            Address::Tcp("127.0.0.1:1".parse().unwrap()),
            Duration::from_millis(300),
        );
        let words = target.start().await.unwrap_err();
        assert!(words.contains("Deployment models/m cannot be scaled"), "{words}");
        fake.tells(&scaled().path(), scale(1, 0));
        assert!(target.start().await.unwrap_err().contains("no pod of Deployment models/m"), "nobody is there");
    }
}
