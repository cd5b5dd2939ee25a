//! The Kubernetes API says whether a caller may (SubjectAccessReview, authorization.k8s.io/v1): RBAC, and whatever else
//! the cluster authorizes by.
//!
//! Asks once for each user and action, and believes the answer for a while. A server that does not answer denies. Never
//! reads a clock: the document says when the request came.

use super::{Denied, Rule};
use crate::auth::methods::Memory;
use crate::auth::verdicts::{Answer, Kept, Limits, Remembers, Unknown, Verdicts};
use crate::kube::client::Client;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub const NAME: &str = "access_review";

const PATH: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// Of what the API gives as its reason.
const REASON_CHARS_MAX: usize = 256;

/// What a caller would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Resource(Resource),
    /// Of the API's own paths: `/metrics`.
    NonResource {
        verb: String,
        path: String,
    },
}

/// Empty fields are left out, and mean what the API says they mean: all of that kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    pub verb: String,
    pub namespace: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
}

/// Who would do what.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// What the authenticator knows beside, by name; an object of arrays.
    pub extra: Map<String, Value>,
    pub action: Action,
}

impl Action {
    pub fn verb(&self) -> &str {
        match self {
            Action::Resource(resource) => &resource.verb,
            Action::NonResource { verb, .. } => verb,
        }
    }

    /// The resource and what is below it; both empty for a path.
    pub fn resource(&self) -> (&str, &str) {
        match self {
            Action::Resource(resource) => (&resource.resource, &resource.subresource),
            Action::NonResource { .. } => ("", ""),
        }
    }
}

impl Question {
    /// By a TokenReview's `status.user`, or by anything of that shape.
    pub fn of(user: &Value, action: Action) -> Question {
        let text = |name: &str| user[name].as_str().unwrap_or_default().to_owned();
        let groups = user["groups"].as_array().into_iter().flatten();
        Question {
            user: text("username"),
            uid: text("uid"),
            groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
            extra: user["extra"].as_object().cloned().unwrap_or_default(),
            action,
        }
    }

    /// `spec` of a SubjectAccessReview.
    fn spec(&self) -> Value {
        let mut spec = Map::new();
        put(&mut spec, "user", &self.user);
        put(&mut spec, "uid", &self.uid);
        if !self.groups.is_empty() {
            spec.insert("groups".into(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            spec.insert("extra".into(), Value::Object(self.extra.clone()));
        }
        let mut attributes = Map::new();
        put(&mut attributes, "verb", self.action.verb());
        let name = match &self.action {
            Action::Resource(it) => {
                let fields = [
                    ("namespace", &it.namespace),
                    ("group", &it.group),
                    ("version", &it.version),
                    ("resource", &it.resource),
                    ("subresource", &it.subresource),
                    ("name", &it.name),
                ];
                for (name, value) in fields {
                    put(&mut attributes, name, value);
                }
                "resourceAttributes"
            }
            Action::NonResource { path, .. } => {
                put(&mut attributes, "path", path);
                "nonResourceAttributes"
            }
        };
        spec.insert(name.into(), Value::Object(attributes));
        Value::Object(spec)
    }
}

fn put(into: &mut Map<String, Value>, name: &str, value: &str) {
    if !value.is_empty() {
        into.insert(name.into(), value.into());
    }
}

/// Why the API allows or not; empty if it does not say.
pub type Said = String;

/// Asks, and remembers.
pub struct Reviewer {
    client: Client,
    verdicts: Arc<Verdicts<Said>>,
}

/// As kube-rbac-proxy remembers them: what is allowed for five minutes, what is denied for half a minute.
pub const LIMITS: Limits = Limits { good_seconds: 300, bad_seconds: 30, ..Limits::TOKENS };

impl Reviewer {
    pub fn new(client: Client, limits: Limits) -> Reviewer {
        Reviewer { client, verdicts: Arc::new(Verdicts::new(limits)) }
    }

    pub fn memory(&self) -> Arc<dyn Remembers> {
        self.verdicts.clone()
    }

    /// Whether it may, and why.
    pub async fn ask(&self, question: &Question, now_unix: u64) -> Result<Arc<Kept<Said>>, Unknown> {
        let spec = question.spec();
        // The whole question is the key: nobody is taken for another of the same name in other groups.
        let key = self.verdicts.key(b"", [spec.to_string().as_str()]);
        self.verdicts.ask(&key, now_unix, || self.review(spec, &question.user)).await
    }

    async fn review(&self, spec: Value, user: &str) -> Result<Answer<Said>, String> {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let review = self.client.create(PATH, &review).await.map_err(|error| error.advice())?;
        read(&review["status"], user)
    }
}

/// What a review's status says; an error if nothing that should be remembered.
fn read(status: &Value, user: &str) -> Result<Answer<Said>, String> {
    let text =
        |name: &str| status[name].as_str().unwrap_or_default().chars().take(REASON_CHARS_MAX).collect::<String>();
    let Some(allowed) = status["allowed"].as_bool() else {
        return Err("the SubjectAccessReview does not say whether it is allowed".into());
    };
    // `denied` beside `allowed` is a contradiction, and then the stricter word is taken.
    let good = allowed && status["denied"] != true;
    let fault = text("evaluationError");
    if !good && !fault.is_empty() {
        return Err(format!("the Kubernetes API could not decide: {fault}"));
    }
    let reason = text("reason");
    let bytes = reason.len();
    let (subject, issuer) = (user.to_owned(), String::new());
    Ok(Answer { good, value: reason, bytes, subject, issuer, expires_at_unix: None })
}

/// What is asked of a request, as its document has it; all must be allowed. `None`: it is allowed without.
pub type Ask = Box<dyn Fn(&Value) -> Result<Option<Vec<Question>>, Denied> + Send + Sync>;

/// The words of a denial, for whoever reads them.
pub type Words = fn(&Question, &str) -> String;

/// The rule.
pub struct AccessReview {
    pub reviewer: Arc<Reviewer>,
    pub ask: Ask,
    pub denied: Words,
    /// When the API could not be asked.
    pub unknown: Words,
}

impl AccessReview {
    /// In Authorino's words.
    pub fn new(reviewer: Arc<Reviewer>, ask: Ask) -> AccessReview {
        AccessReview {
            reviewer,
            ask,
            denied: |_, reason| not_authorized(reason),
            unknown: |_, why| not_authorized(why),
        }
    }
}

fn not_authorized(reason: &str) -> String {
    let reason = if reason.is_empty() { "unknown reason" } else { reason };
    format!("not authorized: {reason}")
}

impl Rule for AccessReview {
    fn judge<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, Denied>> {
        Box::pin(async move {
            let now_unix = root["request"]["time"]["seconds"].as_u64().unwrap_or_default();
            let mut allowed = Vec::new();
            let Some(questions) = (self.ask)(root)? else {
                return Ok(json!({"allowed": true, "reason": "no review needed"}));
            };
            for question in questions {
                match self.reviewer.ask(&question, now_unix).await {
                    Ok(kept) if kept.good => allowed.push(json!({"allowed": true, "reason": kept.value})),
                    Ok(kept) => return Err(Denied { words: (self.denied)(&question, &kept.value), fault: false }),
                    Err(error) => {
                        tracing::warn!(%error, "an access could not be reviewed; its caller was refused");
                        return Err(Denied { words: (self.unknown)(&question, &error.to_string()), fault: true });
                    }
                }
            }
            // Nothing asked is nothing allowed.
            allowed.pop().ok_or_else(|| Denied { words: not_authorized("nothing to review"), fault: true })
        })
    }

    fn remembers(&self) -> Option<Memory> {
        Some((NAME, self.reviewer.memory()))
    }
}

#[cfg(test)]
mod tests;
