//! `opa: {externalPolicy: …}`: a Rego policy that a server keeps for many, fetched when it is first needed and again
//! after its `ttl`.
//!
//! Denies until it has been fetched once. While the server is down, or sends what is no policy, the last one rules on;
//! one caller at a time waits for a new one.

use super::{NAME, Rego, RegoVersion};
use crate::auth::ConfigProblem;
use crate::auth::endpoint::{Endpoint, Kept, RawHttpEndpoint};
use crate::auth::rules::{Denied, Rule};
use crate::auth::site::{Site, parse, problem};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;

const KEY: &str = "externalPolicy";
/// Of a policy without a `ttl`: for as long as the process lives, or until policies are read again.
const KEPT_WITHOUT_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Setting {
    external_policy: Map<String, Value>,
    #[serde(default)]
    all_values: bool,
    #[serde(default)]
    version: RegoVersion,
}

struct External {
    endpoint: Endpoint,
    keep: Duration,
    version: RegoVersion,
    all_values: bool,
    policy: Kept<Rego>,
}

/// Whether a rule's text is elsewhere. A text that is here comes first, as Authorino has it.
pub fn is_external(setting: &Value) -> bool {
    let rego = setting.get("rego").and_then(Value::as_str).unwrap_or_default();
    rego.is_empty() && setting.get(KEY).is_some_and(Value::is_object)
}

/// `setting` is at `path`, which ends with `opa`.
pub fn open(
    mut setting: Value,
    path: &str,
    site: &Site<'_>,
    problems: &mut Vec<ConfigProblem>,
) -> Option<Box<dyn Rule>> {
    if let Value::Object(fields) = &mut setting {
        fields.remove("rego");
    }
    let mut setting: Setting = parse(setting, path, problems)?;
    let path = format!("{path}.{KEY}");
    let ttl = match setting.external_policy.remove("ttl") {
        None => 0,
        Some(ttl) => parse(ttl, &format!("{path}.ttl"), problems)?,
    };
    let raw: RawHttpEndpoint = parse(Value::Object(setting.external_policy), &path, problems)?;
    let url = raw.url.as_deref().unwrap_or_default();
    if url.contains('{') || raw.url_expression.is_some() {
        problem(problems, path, "is one policy for all requests, so its address can say nothing of a request");
        return None;
    }
    // Whatever an error page says is no policy.
    let endpoint = raw.compile(&path, &Site { any_status: false, ..*site }, problems)?;
    let keep = if ttl == 0 { KEPT_WITHOUT_TTL } else { Duration::from_secs(ttl) };
    let Setting { version, all_values, .. } = setting;
    Some(Box::new(External { endpoint, keep, version, all_values, policy: Kept::default() }))
}

impl External {
    /// The text, or `{"result": {"raw": text}}` as OPA's own API says it.
    async fn fetch(&self) -> Result<(Rego, Duration), String> {
        let answer = self.endpoint.call(&Value::Null).await?;
        let text = answer.as_str().or_else(|| answer.pointer("/result/raw")?.as_str());
        let text = text.ok_or("the answer has no policy as result.raw")?;
        let rego = Rego::compile(text, self.version, self.all_values).map_err(|problem| problem.to_string())?;
        Ok((rego, self.keep))
    }
}

impl Rule for External {
    fn judge<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, Denied>> {
        Box::pin(async move {
            let policy = self.policy.get_or_last(|| self.fetch()).await;
            policy.map_err(|words| Denied { words: format!("{NAME}: {KEY}: {words}"), fault: true })?.evaluate(root)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::endpoint::testing::{Ground, Server, json, status, words};
    use bytes::Bytes;
    use http::Response;
    use serde_json::json as value;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn open_at(url: &str, more: Value) -> Result<Box<dyn Rule>, String> {
        let mut setting = value!({"rego": "", "externalPolicy": {"url": url}});
        for (name, field) in more.as_object().unwrap() {
            setting["externalPolicy"][name] = field.clone();
        }
        assert!(is_external(&setting));
        let ground = Ground::new(&[("ns/registry/password", "hunter2")]);
        let mut problems = Vec::new();
        open(setting, "authorization.a.opa", &ground.site(), &mut problems).ok_or_else(|| words(&problems))
    }

    #[tokio::test]
    async fn which_policy_rules() {
        const TEXT: &str = "allow { input.method == \"GET\" }";
        type Answer = fn() -> Response<Bytes>;
        let cases: [(Answer, bool); 6] = [
            (|| Response::new(TEXT.into()), true),
            (|| json(value!({"result": {"raw": TEXT}})), true),
            (|| json(value!({"result": TEXT})), false),
            (|| Response::new("allow {".into()), false),
            (|| Response::new("allow if true".into()), false),
            (|| status(404), false),
        ];
        for (answer, rules) in cases {
            let server = Server::start(move |_| answer()).await;
            let rule = open_at(&format!("{}/policy.rego", server.origin), value!({})).unwrap();
            assert_eq!(rule.judge(&value!({"method": "GET"})).await.is_ok(), rules);
            let denied = rule.judge(&value!({"method": "PUT"})).await.unwrap_err();
            assert_eq!(denied.fault, !rules, "{denied:?}");
            assert_eq!(server.seen().len(), 1, "fetched once, or a failure of a moment ago answers");
        }
    }

    #[tokio::test]
    async fn does_the_last_policy_rule_on_while_the_server_is_down() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let server = Server::start(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Response::new("allow { true }".into()),
            _ => status(503),
        })
        .await;
        let shown = value!({"ttl": 1, "sharedSecretRef": {"name": "registry", "key": "password"}});
        let rule = open_at(&server.origin, shown).unwrap();
        assert!(rule.judge(&value!({})).await.is_ok());
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(rule.judge(&value!({})).await.is_ok() && rule.judge(&value!({})).await.is_ok());
        let seen = server.seen();
        assert_eq!(seen.len(), 2, "asked again once its time is over, and not by everybody");
        assert_eq!(seen[0].headers()["authorization"], "Bearer hunter2");
    }

    #[test]
    fn which_settings_are_refused() {
        for (url, more, expected) in [
            ("", value!({}), "authorization.a.opa.externalPolicy.url"),
            ("http://a/{request.path}", value!({}), "can say nothing of a request"),
            ("http://a", value!({"urlExpression": "'http://b'"}), "can say nothing of a request"),
            ("http://a", value!({"ttl": "soon"}), "externalPolicy.ttl"),
            ("http://a", value!({"uri": "x"}), "unknown field `uri`"),
        ] {
            let refused = open_at(url, more.clone()).err().unwrap_or_else(|| panic!("{url} {more} was taken"));
            assert!(refused.contains(expected), "{refused}");
        }
        assert!(!is_external(&value!({"rego": "allow { true }", "externalPolicy": {"url": "http://a"}})));
    }
}
