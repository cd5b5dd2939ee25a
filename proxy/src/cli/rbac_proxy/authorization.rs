//! The `authorization` section of kube-rbac-proxy's configuration file: which reviews a request needs.
//!
//! Pure: text in, questions out. Understands what upstream and Open Data Hub's fork understand (`verb`, `endpoints`,
//! `byPathSegment`). A key that neither knows is refused: a misspelt restriction would be none.

use super::template::{Template, Values};
use crate::auth::rules::Denied;
use crate::auth::rules::access_review::{Action, Question, Resource};
use crate::percent;
use serde::Deserialize;
use serde_json::Value;

/// What is said where a request lacks what its reviews are made from.
pub const BAD_REQUEST: &str = "Bad Request. The request or configuration is malformed.";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    authorization: Raw,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Raw {
    rewrites: Option<Rewrites>,
    resource_attributes: Option<Attributes>,
    #[serde(rename = "static")]
    allowed: Vec<Static>,
    endpoints: Vec<RawEndpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rewrites {
    #[serde(rename = "byQueryParameter")]
    query: Option<Named>,
    #[serde(rename = "byHttpHeader")]
    header: Option<Named>,
    #[serde(rename = "byPathSegment")]
    segment: Option<Segment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Segment {
    index: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Attributes {
    namespace: Template,
    api_group: Template,
    api_version: Template,
    resource: Template,
    subresource: Template,
    name: Template,
    verb: Template,
}

/// A caller who needs no review; empty fields fit all.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Static {
    #[serde(alias = "User")]
    user: User,
    verb: String,
    namespace: String,
    api_group: String,
    resource: String,
    /// As upstream spells it.
    #[serde(alias = "subresource")]
    subresource: String,
    name: String,
    resource_request: bool,
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct User {
    name: String,
    /// Read by upstream, and looked at by nobody there; here a caller must be in one of them.
    groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    path: String,
    mappings: Vec<Mapping>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    methods: Vec<String>,
    resources: Vec<EndpointRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct EndpointRule {
    rewrites: Rewrites,
    resource_attributes: Attributes,
}

/// Which reviews a request needs.
#[derive(Debug, Default)]
pub struct Authorization {
    rewrites: Option<Rewrites>,
    attributes: Option<Attributes>,
    allowed: Vec<Static>,
    endpoints: Vec<RawEndpoint>,
}

impl Authorization {
    pub fn parse(text: &str) -> Result<Authorization, String> {
        // An empty file is what upstream takes for no restriction beyond the path.
        let file: Option<File> = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        let raw = file.unwrap_or_default().authorization;
        for one in &raw.allowed {
            if one.resource_request != one.path.is_empty() {
                return Err("authorization.static: an entry has either resourceRequest: true or a path".into());
            }
        }
        for (at, endpoint) in raw.endpoints.iter().enumerate() {
            let empty = endpoint.path.trim().is_empty()
                || endpoint.mappings.is_empty()
                || endpoint.mappings.iter().any(|it| it.methods.is_empty() || it.resources.is_empty());
            if empty {
                return Err(format!(
                    "authorization.endpoints[{at}]: needs a path, and mappings with methods and resources"
                ));
            }
        }
        let (rewrites, attributes) = (raw.rewrites, raw.resource_attributes);
        Ok(Authorization { rewrites, attributes, allowed: raw.allowed, endpoints: raw.endpoints })
    }

    /// What has to be asked of a request; `None`: nothing, for it is allowed without.
    pub fn questions(&self, root: &Value) -> Result<Option<Vec<Question>>, Denied> {
        let seen = Seen { root };
        let user = &root["auth"]["identity"]["user"];
        let actions = self.actions(&seen)?;
        if actions.is_empty() {
            return Err(malformed());
        }
        let questions = actions.into_iter().map(|action| Question::of(user, action));
        let asked: Vec<Question> =
            questions.filter(|question| !self.allowed.iter().any(|it| it.fits(question))).collect();
        Ok(Some(asked).filter(|asked| !asked.is_empty()))
    }

    fn actions(&self, seen: &Seen<'_>) -> Result<Vec<Action>, Denied> {
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| fits_path(&endpoint.path, seen.path())) {
            return endpoint.actions(seen);
        }
        let verb = verb(seen.method()).unwrap_or("*").to_owned();
        let Some(attributes) = &self.attributes else {
            return Ok(vec![Action::NonResource { verb, path: seen.path().into() }]);
        };
        let of = |value: &str| attributes.action(&Values { value, ..Values::default() }, &verb);
        match &self.rewrites {
            None => Ok(vec![of("")]),
            Some(rewrites) => Ok(seen.values(rewrites).iter().map(|value| of(value)).collect()),
        }
    }
}

impl RawEndpoint {
    fn actions(&self, seen: &Seen<'_>) -> Result<Vec<Action>, Denied> {
        let takes =
            |mapping: &&Mapping| mapping.methods.iter().any(|method| method.eq_ignore_ascii_case(seen.method()));
        let Some(mapping) = self.mappings.iter().find(takes) else {
            return Err(Denied { words: "Forbidden".into(), fault: false });
        };
        let actions = mapping.resources.iter().map(|rule| {
            let one = |named: &Option<Named>, find: &dyn Fn(&str) -> Option<String>| match named {
                Some(named) => find(&named.name).filter(|value| !value.is_empty()).map(Some).ok_or_else(malformed),
                None => Ok(None),
            };
            let header = one(&rule.rewrites.header, &|name| seen.header(name))?.unwrap_or_default();
            let query =
                one(&rule.rewrites.query, &|name| seen.parameters(name).into_iter().next())?.unwrap_or_default();
            let segment = match &rule.rewrites.segment {
                Some(segment) => seen.segment(segment.index).ok_or_else(malformed)?,
                None => String::new(),
            };
            let method = verb(seen.method()).unwrap_or_default();
            let value = [&header, &query, &segment].into_iter().find(|it| !it.is_empty()).map_or("", String::as_str);
            let values = Values { value, header: &header, query: &query, segment: &segment, method };
            Ok(rule.resource_attributes.action(&values, method))
        });
        actions.collect()
    }
}

impl Attributes {
    fn action(&self, values: &Values<'_>, verb: &str) -> Action {
        let own = self.verb.fill(values);
        Action::Resource(Resource {
            verb: if own.is_empty() { verb.to_owned() } else { own },
            namespace: self.namespace.fill(values),
            group: self.api_group.fill(values),
            version: self.api_version.fill(values),
            resource: self.resource.fill(values),
            subresource: self.subresource.fill(values),
            name: self.name.fill(values),
        })
    }
}

impl Static {
    fn fits(&self, question: &Question) -> bool {
        let all = |own: &str, asked: &str| own.is_empty() || own == asked;
        let member = self.user.groups.is_empty() || self.user.groups.iter().any(|it| question.groups.contains(it));
        if !all(&self.user.name, &question.user) || !member || !all(&self.verb, question.action.verb()) {
            return false;
        }
        match &question.action {
            Action::NonResource { path, .. } => !self.resource_request && all(&self.path, path),
            Action::Resource(it) => {
                self.resource_request
                    && all(&self.namespace, &it.namespace)
                    && all(&self.api_group, &it.group)
                    && all(&self.resource, &it.resource)
                    && all(&self.subresource, &it.subresource)
                    && all(&self.name, &it.name)
            }
        }
    }
}

/// A request's document, read as reviews need it.
struct Seen<'a> {
    root: &'a Value,
}

impl Seen<'_> {
    fn text(&self, name: &str) -> &str {
        self.root["request"][name].as_str().unwrap_or_default()
    }

    fn method(&self) -> &str {
        self.text("method")
    }

    fn path(&self) -> &str {
        self.text("url_path")
    }

    /// Of several lines with this name, all as one value: no namespace has a comma in its name.
    fn header(&self, name: &str) -> Option<String> {
        self.root["request"]["headers"][name.to_ascii_lowercase()].as_str().map(str::to_owned)
    }

    fn parameters(&self, name: &str) -> Vec<String> {
        let pairs = self.text("query").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value)).collect()
    }

    fn segment(&self, index: usize) -> Option<String> {
        let found = self.path().split('/').filter(|segment| !segment.is_empty()).nth(index);
        found.map(str::to_owned)
    }

    fn values(&self, rewrites: &Rewrites) -> Vec<String> {
        let query = rewrites.query.iter().filter(|it| !it.name.is_empty()).flat_map(|it| self.parameters(&it.name));
        let header = rewrites.header.iter().filter(|it| !it.name.is_empty()).filter_map(|it| self.header(&it.name));
        let segment = rewrites.segment.iter().filter_map(|it| self.segment(it.index));
        query.chain(header).chain(segment).collect()
    }
}

/// A `*` stands for exactly one segment.
fn fits_path(pattern: &str, path: &str) -> bool {
    let segments = |text: &str| text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let (pattern, path) = (segments(pattern), segments(path));
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(own, asked)| own == "*" || own == asked)
}

fn verb(method: &str) -> Option<&'static str> {
    Some(match method {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => return None,
    })
}

/// `application/x-www-form-urlencoded`, as Go reads queries.
fn decoded(text: &str) -> String {
    percent::decoded(&text.replace('+', " ")).into_owned()
}

fn malformed() -> Denied {
    Denied { words: BAD_REQUEST.into(), fault: true }
}

#[cfg(test)]
mod tests;
