//! How many replicas a Deployment or a StatefulSet shall have, asked and said through its `scale` subresource.
//!
//! Only that subresource: whoever may call this may scale, and neither read nor write a pod template. Decides nothing.

use super::{ApiError, Client, Patch};
use crate::percent;
use serde_json::{Value, json};
use std::fmt;

/// What can be scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Deployment,
    StatefulSet,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ref {
    pub namespace: String,
    pub kind: Kind,
    pub name: String,
}

impl Ref {
    /// Where the API keeps its scale.
    pub fn path(&self) -> String {
        let plural = match self.kind {
            Kind::Deployment => "deployments",
            Kind::StatefulSet => "statefulsets",
        };
        let (namespace, name) = (percent::part(&self.namespace), percent::part(&self.name));
        format!("/apis/apps/v1/namespaces/{namespace}/{plural}/{name}/scale")
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// `autoscaling/v1` Scale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`.
    pub wanted: u32,
    /// `status.replicas`: pods that are there, ready or not.
    pub there: u32,
    /// `status.selector`, as a query's `labelSelector`.
    pub selector: String,
}

impl Scale {
    /// A count of zero is left out by the API.
    fn read(answer: &Value) -> Result<Scale, ApiError> {
        if answer["kind"] != "Scale" {
            return Err(ApiError::Nonsense("what was asked for a scale is none".into()));
        }
        let count =
            |at: &str| u32::try_from(answer.pointer(at).and_then(Value::as_u64).unwrap_or(0)).unwrap_or(u32::MAX);
        let selector = answer["status"]["selector"].as_str().unwrap_or_default().to_owned();
        Ok(Scale { wanted: count("/spec/replicas"), there: count("/status/replicas"), selector })
    }
}

impl Client {
    /// Replicas that are wanted now.
    pub async fn scale_of(&self, target: &Ref) -> Result<u32, ApiError> {
        Ok(self.scale(target).await?.wanted)
    }

    /// The same, and what is there.
    pub async fn scale(&self, target: &Ref) -> Result<Scale, ApiError> {
        Scale::read(&self.get(&target.path()).await?)
    }

    /// Whatever is wanted now, this is wanted from now on.
    pub async fn set_scale(&self, target: &Ref, replicas: u32) -> Result<(), ApiError> {
        let patch = json!({"spec": {"replicas": replicas}});
        Scale::read(&self.patch(&target.path(), Patch::Merge, &patch).await?).map(drop)
    }

    /// Only if `from` is still wanted; tells whether it was. For whoever must not undo what another scaled meanwhile.
    pub async fn set_scale_from(&self, target: &Ref, from: u32, to: u32) -> Result<bool, ApiError> {
        // Zero is not there to be tested: as JSON patches have it, what is absent equals null (kube-apiserver).
        let test = if from == 0 { Value::Null } else { from.into() };
        let patch = json!([
            {"op": "test", "path": "/spec/replicas", "value": test},
            {"op": "add", "path": "/spec/replicas", "value": to},
        ]);
        match self.patch(&target.path(), Patch::Json, &patch).await {
            Ok(answer) => Scale::read(&answer).map(|_| true),
            Err(error) if error.code() == Some(422) => match self.scale_of(target).await? {
                now if now == from => Err(error),
                _ => Ok(false),
            },
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Answer, Fake};
    use super::*;
    use http::StatusCode;

    fn target() -> Ref {
        Ref { namespace: "models".into(), kind: Kind::StatefulSet, name: "llama".into() }
    }

    fn scale(spec: Value) -> Answer {
        let status = json!({"replicas": 2, "selector": "app=llama"});
        Answer::Json(StatusCode::OK, json!({"kind": "Scale", "spec": spec, "status": status}))
    }

    #[tokio::test]
    async fn how_many_are_wanted_and_made_so() {
        let fake = Fake::start().await;
        let client = Client::new(fake.kubernetes());
        let path = "/apis/apps/v1/namespaces/models/statefulsets/llama/scale";
        for spec in [json!({"replicas": 3}), json!({}), json!({"replicas": 5})] {
            fake.tells(path, scale(spec));
        }
        assert_eq!(client.scale_of(&target()).await, Ok(3));
        let expected = Scale { wanted: 0, there: 2, selector: "app=llama".into() };
        assert_eq!(client.scale(&target()).await, Ok(expected));
        client.set_scale(&target(), 5).await.unwrap();
        let asked = fake.world.lock().unwrap().asked.pop().unwrap();
        assert_eq!((asked.0.as_str(), asked.2), ("PATCH", json!({"spec": {"replicas": 5}})));
        assert_eq!(client.scale_of(&target()).await.unwrap_err().code(), Some(404));
        fake.tells(path, Answer::Json(StatusCode::OK, json!({"kind": "Deployment"})));
        assert!(matches!(client.scale_of(&target()).await, Err(ApiError::Nonsense(_))));
    }

    #[tokio::test]
    async fn is_what_another_scaled_left_alone() {
        let fake = Fake::start().await;
        let client = Client::new(fake.kubernetes());
        let path = target().path();
        let refused = json!({"reason": "Invalid", "message": "testing value failed", "code": 422});
        let refused = || Answer::Json(StatusCode::UNPROCESSABLE_ENTITY, refused.clone());
        for (answers, from, expected) in [
            (vec![scale(json!({"replicas": 1}))], 0, Ok(true)),
            (vec![refused(), scale(json!({"replicas": 4}))], 1, Ok(false)),
            (vec![refused(), scale(json!({"replicas": 1}))], 1, Err(Some(422))),
        ] {
            answers.into_iter().for_each(|answer| fake.tells(&path, answer));
            let told = client.set_scale_from(&target(), from, 7).await;
            assert_eq!(told.map_err(|error| error.code()), expected, "{from}");
        }
        let tested = fake.world.lock().unwrap().asked[0].2[0]["value"].clone();
        assert_eq!(tested, Value::Null, "none is not there");
    }
}
