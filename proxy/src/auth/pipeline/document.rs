//! The authorization JSON: all that rules can see of a request, as one document.
//!
//! Built when the first evaluator asks for it, and then once. Names and shapes are Authorino's, who leaves out what is
//! empty: a rule about an attribute that is not there is decided as one about nothing.

use crate::auth::{Identity, Request};
use crate::percent;
use crate::tls::identity::SpiffeId;
use http::Version;
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

/// A request as rules see it, perhaps not yet built.
pub struct Document<'a> {
    request: Request<'a>,
    /// Whether something reads `context`, which says all of it twice.
    context: bool,
    root: OnceLock<Value>,
}

impl<'a> Document<'a> {
    pub fn new(request: Request<'a>, context: bool) -> Document<'a> {
        Document { request, context, root: OnceLock::new() }
    }

    pub fn request(&self) -> &Request<'a> {
        &self.request
    }

    pub fn root(&self) -> &Value {
        self.root.get_or_init(|| build(&self.request, self.context))
    }

    /// As it is now, built if it was not.
    pub fn into_root(self) -> Value {
        self.root();
        self.root.into_inner().unwrap_or_default()
    }
}

fn build(request: &Request<'_>, context: bool) -> Value {
    let head = request.head;
    let headers = headers(request);
    let target = match &head.query {
        Some(query) => format!("{}?{query}", head.path),
        None => head.path.clone(),
    };
    let size = head.header("content-length").and_then(|text| text.parse::<i64>().ok()).unwrap_or(-1);
    let mut root = json!({
        "request": {
            "id": head.request_id,
            "time": {"seconds": request.now_unix, "nanos": 0},
            "protocol": protocol(head.version),
            "scheme": if request.peer.tls { "https" } else { "http" },
            "host": request.host,
            "method": head.method.as_str(),
            "path": target,
            // As the server behind reads it: a rule about `/a b` is about `/a%20b`. A slash is never in it that was not in
            // the path, for an encoded one is refused before.
            "url_path": percent::decoded(&head.path),
            "size": size,
        },
        "source": {
            "address": request.peer.address.ip().to_canonical().to_string(),
            "port": request.peer.address.port(),
        },
        "destination": {
            "address": request.destination.ip().to_canonical().to_string(),
            "port": request.destination.port(),
        },
        "auth": {"metadata": {}, "authorization": {}, "response": {}, "callbacks": {}},
    });
    let said = |name: &str| headers.get(name).and_then(Value::as_str);
    for (part, name, text) in [
        ("request", "query", head.query.as_deref()),
        ("request", "referer", said("referer")),
        ("request", "user_agent", said("user-agent")),
        ("source", "principal", request.peer.spiffe.as_ref().map(SpiffeId::as_str)),
    ] {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            root[part][name] = text.into();
        }
    }
    let kind = headers.get("content-type").and_then(Value::as_str).unwrap_or_default();
    if kind.starts_with("application/grpc")
        && let Some((service, method)) = head.path.strip_prefix('/').and_then(|path| path.split_once('/'))
        && !(service.is_empty() || method.is_empty() || method.contains('/'))
    {
        root["request"]["grpc"] = json!({"service": service, "method": method});
    }
    root["request"]["headers"] = Value::Object(headers);
    if let Some(extra) = request.extra {
        merge(&mut root, extra);
    }
    if context {
        root["context"] = raw(&root);
    }
    root
}

/// As Envoy names them.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Lower-case names; of several lines with one name, all, as Envoy joins them.
fn headers(request: &Request<'_>) -> Map<String, Value> {
    let all = &request.head.headers;
    let mut headers = Map::with_capacity(all.keys_len());
    for name in all.keys() {
        let mut lines = all.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
        let first = lines.next().unwrap_or_default().into_owned();
        headers.insert(name.as_str().to_owned(), lines.fold(first, |all, line| all + "," + &line).into());
    }
    headers
}

/// The same in the shape of Envoy's AttributeContext, for rules written before there were better names.
fn raw(root: &Value) -> Value {
    let request = &root["request"];
    let mut http = Map::new();
    for name in ["id", "method", "headers", "path", "host", "scheme", "query", "size", "protocol", "body"] {
        if let Some(value) = request.get(name) {
            http.insert(name.into(), value.clone());
        }
    }
    let end = |of: &Value| {
        let address = json!({"Address": {"SocketAddress": {
            "address": of["address"], "PortSpecifier": {"PortValue": of["port"]},
        }}});
        let mut end = json!({"address": address});
        if let Some(principal) = of.get("principal") {
            end["principal"] = principal.clone();
        }
        end
    };
    let mut raw = json!({
        "request": {"time": request["time"], "http": http},
        "source": end(&root["source"]),
        "destination": end(&root["destination"]),
    });
    let more = [("context_extensions", request.get("context_extensions")), ("metadata_context", root.get("metadata"))];
    for (name, value) in more {
        if let Some(value) = value {
            raw[name] = value.clone();
        }
    }
    raw
}

/// What a gateway said goes over what we see of the gateway's own connection.
fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

/// Writes what an evaluator found out where later ones look for it.
pub fn tell(root: &mut Value, phase: &str, name: &str, value: Value) {
    if let Some(Value::Object(found)) = root.get_mut("auth").and_then(|auth| auth.get_mut(phase)) {
        found.insert(name.to_owned(), value);
    }
}

pub fn tell_identity(root: &mut Value, identity: &Identity) {
    root["auth"]["identity"] = (*identity.claims).clone();
}
