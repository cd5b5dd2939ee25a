//! `kubernetesSubjectAccessReview`: what the Kubernetes API is asked of a request.

use super::secrets::problem;
use crate::auth::ConfigProblem;
use crate::auth::rules::access_review::{AccessReview, Action, Ask, LIMITS, Question, Resource, Reviewer};
use crate::auth::rules::{Denied, Rule};
use crate::auth::values::{RawValueFrom, ValueFrom};
use crate::config::Kubernetes;
use crate::kube::client::Client;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

pub(super) const NAME: &str = "kubernetesSubjectAccessReview";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    user: Option<RawValueFrom>,
    #[serde(default)]
    groups: Vec<String>,
    authorization_groups: Option<RawValueFrom>,
    resource_attributes: Option<RawResource>,
    /// Milliseconds.
    timeout: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawResource {
    group: Option<RawValueFrom>,
    resource: Option<RawValueFrom>,
    #[serde(alias = "subResource")]
    subresource: Option<RawValueFrom>,
    name: Option<RawValueFrom>,
    namespace: Option<RawValueFrom>,
    verb: Option<RawValueFrom>,
}

/// The same, ready to be made from requests.
struct Compiled {
    user: Option<ValueFrom>,
    groups: Vec<String>,
    authorization_groups: Option<ValueFrom>,
    resource: Option<[Option<ValueFrom>; 6]>,
}

pub(super) fn open(
    settings: Value,
    path: &str,
    kubernetes: &Kubernetes,
    problems: &mut Vec<ConfigProblem>,
) -> Option<Box<dyn Rule>> {
    let raw: Raw = match serde_json::from_value(settings) {
        Ok(raw) => raw,
        Err(error) => {
            problems.push(problem(path, error.to_string()));
            return None;
        }
    };
    let before = problems.len();
    if raw.user.is_none() && raw.groups.is_empty() && raw.authorization_groups.is_none() {
        problems.push(problem(path, "asks about nobody; give `user`, `authorizationGroups` or both"));
    }
    let mut kubernetes = kubernetes.clone();
    if let Some(milliseconds) = raw.timeout.filter(|milliseconds| *milliseconds > 0) {
        kubernetes.timeout = Duration::from_millis(milliseconds);
    }
    let mut value = |raw: &Option<RawValueFrom>, name: &str| {
        let compiled = raw.as_ref()?.compile(&format!("{path}.{name}"));
        compiled.map_err(|problem| problems.push(problem)).ok()
    };
    let compiled = Compiled {
        user: value(&raw.user, "user"),
        authorization_groups: value(&raw.authorization_groups, "authorizationGroups"),
        resource: raw.resource_attributes.as_ref().map(|it| {
            [
                value(&it.verb, "resourceAttributes.verb"),
                value(&it.namespace, "resourceAttributes.namespace"),
                value(&it.group, "resourceAttributes.group"),
                value(&it.resource, "resourceAttributes.resource"),
                value(&it.subresource, "resourceAttributes.subresource"),
                value(&it.name, "resourceAttributes.name"),
            ]
        }),
        groups: raw.groups,
    };
    if problems.len() > before {
        return None;
    }
    let reviewer = Arc::new(Reviewer::new(Client::new(kubernetes), LIMITS));
    let ask: Ask = Box::new(move |root| compiled.question(root).map(|question| Some(vec![question])).map_err(fault));
    Some(Box::new(AccessReview::new(reviewer, ask)))
}

fn fault(words: String) -> Denied {
    Denied { words, fault: true }
}

impl Compiled {
    fn question(&self, root: &Value) -> Result<Question, String> {
        let user = text(self.user.as_ref(), root)?;
        let mut groups = self.groups.clone();
        if let Some(from) = &self.authorization_groups {
            groups.extend(list(from.resolve(root).map_err(|fault| fault.to_string())?)?);
        }
        if user.is_empty() && groups.is_empty() {
            return Err("the request has no user to ask about".into());
        }
        let action = match &self.resource {
            Some(fields) => Action::Resource(resource(fields, root)?),
            None => {
                let of = |name: &str| root["request"][name].as_str().unwrap_or_default();
                Action::NonResource { verb: of("method").to_ascii_lowercase(), path: of("url_path").to_owned() }
            }
        };
        Ok(Question { user, uid: String::new(), groups, extra: Map::new(), action })
    }
}

fn resource(
    [verb, namespace, group, resource, subresource, name]: &[Option<ValueFrom>; 6],
    root: &Value,
) -> Result<Resource, String> {
    let of = |from: &Option<ValueFrom>| text(from.as_ref(), root);
    Ok(Resource {
        verb: of(verb)?,
        namespace: of(namespace)?,
        group: of(group)?,
        version: String::new(),
        resource: of(resource)?,
        subresource: of(subresource)?,
        name: of(name)?,
    })
}

fn text(from: Option<&ValueFrom>, root: &Value) -> Result<String, String> {
    from.map_or(Ok(String::new()), |from| from.text(root).map_err(|fault| fault.to_string()))
}

/// Groups are a list, or a text that is one in JSON.
fn list(value: Value) -> Result<Vec<String>, String> {
    let value = match value {
        Value::String(text) => serde_json::from_str(&text).map_err(|_| "authorizationGroups is no list".to_owned())?,
        value => value,
    };
    serde_json::from_value(value).map_err(|_| "authorizationGroups is no list of texts".into())
}
