//! Which reviews a request needs, by the file.

use super::*;
use serde_json::json;

fn root(method: &str, target: &str, headers: Value) -> Value {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let user = json!({"username": "ada", "uid": "7", "groups": ["models"]});
    json!({
        "request": {"method": method, "url_path": path, "query": query, "headers": headers},
        "auth": {"identity": {"user": user}},
    })
}

/// `verb namespace/resource/subresource/name` of each question; `-` where none is needed.
fn asked(yaml: &str, root: &Value) -> String {
    let told = match Authorization::parse(yaml).unwrap().questions(root) {
        Ok(told) => told,
        Err(denied) => return format!("{}: {}", if denied.fault { "fault" } else { "denied" }, denied.words),
    };
    let one = |question: Question| match question.action {
        Action::Resource(it) => {
            format!("{} {}/{}/{}/{}", it.verb, it.namespace, it.resource, it.subresource, it.name)
        }
        Action::NonResource { verb, path } => format!("{verb} {path}"),
    };
    told.map_or("-".into(), |told| told.into_iter().map(one).collect::<Vec<_>>().join(" | "))
}

/// What KServe's Open Data Hub build writes.
const KSERVE: &str = "
authorization:
  resourceAttributes:
    {namespace: models, apiGroup: serving.kserve.io, apiVersion: v1beta1, resource: inferenceservices, name: llama, verb: get}
";

const REWRITES: &str = "
authorization:
  rewrites: {byQueryParameter: {name: namespace}, byHttpHeader: {name: X-Tenant}}
  resourceAttributes: {apiVersion: v1, resource: namespace, subresource: metrics, namespace: '{{ .Value }}'}
";

const ENDPOINTS: &str = "
authorization:
  endpoints:
    - path: /api/v1/jobs/*/events
      mappings:
        - methods: [post]
          resources:
            - rewrites: {byHttpHeader: {name: X-Tenant}}
              resourceAttributes: {namespace: '{{.FromHeader}}', resource: status-events}
        - methods: [get]
          resources:
            - rewrites: {byPathSegment: {index: 3}}
              resourceAttributes: {name: '{{.Value}}', resource: jobs, verb: list}
  resourceAttributes: {resource: services, namespace: a, name: b}
";

#[test]
fn what_is_asked_of_a_request() {
    let none = json!({});
    let cases = [
        ("", root("GET", "/metrics?x=1", none.clone()), "get /metrics"),
        ("authorization: {}", root("OPTIONS", "/x", none.clone()), "* /x"),
        (KSERVE, root("POST", "/v1/chat/completions", none.clone()), "get models/inferenceservices//llama"),
        (
            REWRITES,
            root("POST", "/m?namespace=a&namespace=b%20c", none.clone()),
            "create a/namespace/metrics/ | create b c/namespace/metrics/",
        ),
        (
            REWRITES,
            root("GET", "/m?namespace=a", json!({"x-tenant": "t"})),
            "get a/namespace/metrics/ | get t/namespace/metrics/",
        ),
        (REWRITES, root("GET", "/m", none.clone()), "fault: Bad Request. The request or configuration is malformed."),
        (ENDPOINTS, root("POST", "/api/v1/jobs/7/events", json!({"x-tenant": "t"})), "create t/status-events//"),
        (
            ENDPOINTS,
            root("POST", "/api/v1/jobs/7/events", none.clone()),
            "fault: Bad Request. The request or configuration is malformed.",
        ),
        (ENDPOINTS, root("GET", "/api/v1/jobs/7/events", none.clone()), "list /jobs//7"),
        (ENDPOINTS, root("PUT", "/api/v1/jobs/7/events", none.clone()), "denied: Forbidden"),
        (ENDPOINTS, root("DELETE", "/api/v1/jobs/7", none.clone()), "delete a/services//b"),
    ];
    for (yaml, root, expected) in cases {
        assert_eq!(asked(yaml, &root), expected, "{yaml} {root}");
    }
}

#[test]
fn who_needs_no_review() {
    let yaml = |entry: &str| format!("authorization: {{static: [{entry}]}}");
    let request = root("GET", "/metrics", json!({}));
    for (entry, expected) in [
        ("{user: {name: ada}, verb: get, path: /metrics}", "-"),
        ("{User: {name: ada}, path: /metrics}", "-"),
        ("{path: /metrics}", "-"),
        ("{user: {groups: [models]}, path: /metrics}", "-"),
        ("{user: {groups: [others]}, path: /metrics}", "get /metrics"),
        ("{user: {name: eve}, path: /metrics}", "get /metrics"),
        ("{user: {name: ada}, verb: create, path: /metrics}", "get /metrics"),
        ("{user: {name: ada}, resourceRequest: true}", "get /metrics"),
    ] {
        assert_eq!(asked(&yaml(entry), &request), expected, "{entry}");
    }
    let service = "authorization: {resourceAttributes: {resource: services, name: b}, static: [{resourceRequest: true, resource: services}]}";
    assert_eq!(asked(service, &request), "-");
}

#[test]
fn which_files_are_refused() {
    for bad in [
        "authorization: {resourceAttribute: {}}",
        "authorization: {resourceAttributes: {namespace: '{{ .Other }}'}}",
        "authorization: {static: [{resourceRequest: true, path: /x}]}",
        "authorization: {static: [{user: {name: ada}}]}",
        "authorization: {endpoints: [{path: /x, mappings: []}]}",
        "authorization: {endpoints: [{path: ' ', mappings: [{methods: [get], resources: [{}]}]}]}",
        "authorization: []",
        "- x",
    ] {
        assert!(Authorization::parse(bad).is_err(), "{bad}");
    }
}
