//! AuthConfigs and requests drawn by a seed: what both Authorino and we are asked. Pure.

use outrider_protos::ext_authz::v3::attribute_context::{HttpRequest, Peer, Request};
use outrider_protos::ext_authz::v3::{Address, AttributeContext, CheckRequest, SocketAddress};
use serde_json::{Map, Value, json};

/// SplitMix64: small, and the same everywhere.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Once in so many times.
    fn rarely(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// What is loaded, and what is asked then.
pub struct Case {
    pub authconfigs: Vec<Value>,
    pub secrets: Vec<Value>,
    pub checks: Vec<CheckRequest>,
}

const CHECKS: usize = 12;
const HOSTS: [&str; 6] =
    ["talker.test", "talker.test:8080", "api.talker.test", "deep.api.talker.test", "other.test", "TALKER.test"];
const PATHS: [&str; 7] = ["/", "/admin", "/a/b", "/a/b?x=1&key=janes-key", "/models/7?y=", "/greetings/en", "/a%20b"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
/// Of the authorization JSON: some there, some absent, some numbers or objects.
const SELECTORS: [&str; 16] = [
    "context.request.http.method",
    "context.request.http.path",
    "context.request.http.headers.x-role",
    "request.headers.x-role",
    "request.url_path",
    "request.query",
    "request.method",
    "request.host",
    "request.headers.x-count",
    "request.headers.x-list.@this",
    "request.headers.x-list|@extract:{\"sep\":\",\",\"pos\":1}",
    "request.headers.x-role|@case:upper",
    "request.path.@extract:{\"sep\":\"/\",\"pos\":1}",
    "auth.identity.anonymous",
    "auth.identity.metadata.labels.group",
    "source.address",
];
const VALUES: [&str; 12] =
    ["GET", "admin", "/admin", "/a/b", "ADMIN", "a", "", "7", "true", "jane", "127.0.0.1", "^/(a|models)"];
const OPERATORS: [&str; 5] = ["eq", "neq", "incl", "excl", "matches"];
const PREDICATES: [&str; 8] = [
    "request.method == 'GET'",
    "request.url_path.startsWith('/a')",
    "'x-role' in request.headers && request.headers['x-role'] == 'admin'",
    "request.headers['x-role'] == 'admin'",
    "request.host.endsWith('.test')",
    "has(auth.identity.metadata)",
    "size(request.query) > 0",
    "int(request.headers['x-count']) > 3",
];
const REGOS: [&str; 4] = [
    "allow { input.context.request.http.method == \"GET\" }",
    "allow { input.request.headers[\"x-role\"] == \"admin\" }",
    "default allow = false\nallow { startswith(input.context.request.http.path, \"/a\") }",
    "allow { input.auth.identity.metadata.labels.group == \"staff\" }",
];

pub fn case(draw: &mut Draw) -> Case {
    let mut authconfigs = vec![authconfig(draw, "one", &["talker.test", "*.api.talker.test"])];
    if draw.rarely(2) {
        authconfigs.push(authconfig(draw, "two", &["*.talker.test"]));
    }
    let secrets = vec![secret("jane", "janes-key", "staff"), secret("john", "johns-key", "guests")];
    let checks = (0..CHECKS).map(|_| check(draw)).collect();
    Case { authconfigs, secrets, checks }
}

fn secret(name: &str, key: &str, group: &str) -> Value {
    let labels = json!({"audience": "talker", "group": group, "authorino.kuadrant.io/managed-by": "authorino"});
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"api_key": base64(key.as_bytes())},
           "metadata": {"name": name, "namespace": "default", "labels": labels, "uid": name}})
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize] as char;
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

fn authconfig(draw: &mut Draw, name: &str, hosts: &[&str]) -> Value {
    let mut spec = Map::new();
    spec.insert("hosts".into(), json!(hosts));
    spec.insert("patterns".into(), json!({"named": [pattern(draw)]}));
    if draw.rarely(5) {
        spec.insert("when".into(), json!([condition(draw, 1)]));
    }
    let mut authentication = Map::new();
    for number in 0..1 + draw.below(2) {
        authentication.insert(format!("who-{number}"), method(draw));
    }
    spec.insert("authentication".into(), authentication.into());
    let mut authorization = Map::new();
    for number in 0..draw.below(3) {
        authorization.insert(format!("may-{number}"), rule(draw));
    }
    spec.insert("authorization".into(), authorization.into());
    spec.insert("response".into(), response(draw));
    json!({"apiVersion": "authorino.kuadrant.io/v1beta3", "kind": "AuthConfig",
           "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// What all evaluators may have.
fn common(draw: &mut Draw, mut evaluator: Value) -> Value {
    if draw.rarely(4) {
        evaluator["when"] = json!([condition(draw, 1)]);
    }
    if draw.rarely(3) {
        evaluator["priority"] = json!(draw.below(3));
    }
    evaluator
}

fn method(draw: &mut Draw) -> Value {
    let mut method = match draw.below(4) {
        0 => json!({"anonymous": {}}),
        1 => json!({"plain": {"selector": "context.request.http.headers.x-user|@this"}}),
        _ => json!({"apiKey": {"selector": {"matchLabels": {"audience": "talker"}}}}),
    };
    if method.get("apiKey").is_some() {
        match draw.below(5) {
            0 => method["credentials"] = json!({"customHeader": {"name": "X-API-Key"}}),
            1 => method["credentials"] = json!({"queryString": {"name": "key"}}),
            2 => method["credentials"] = json!({"cookie": {"name": "KEY"}}),
            3 => method["credentials"] = json!({"authorizationHeader": {"prefix": "APIKEY"}}),
            _ => {}
        }
    }
    if method.get("plain").is_none() && draw.rarely(3) {
        method["defaults"] = json!({"tier": {"value": "free"}, "seen": {"selector": *draw.one(&SELECTORS)}});
    }
    if method.get("plain").is_none() && draw.rarely(4) {
        method["overrides"] = json!({"tier": {"expression": "request.method + '-tier'"}});
    }
    common(draw, method)
}

fn pattern(draw: &mut Draw) -> Value {
    json!({"selector": *draw.one(&SELECTORS), "operator": *draw.one(&OPERATORS), "value": *draw.one(&VALUES)})
}

fn condition(draw: &mut Draw, depth: usize) -> Value {
    match draw.below(if depth == 0 { 4 } else { 7 }) {
        0..=2 => pattern(draw),
        3 => json!({"predicate": *draw.one(&PREDICATES)}),
        4 => json!({"patternRef": "named"}),
        kind => {
            let several: Vec<Value> = (0..1 + draw.below(3)).map(|_| condition(draw, depth - 1)).collect();
            json!({(if kind == 5 { "all" } else { "any" }): several})
        }
    }
}

fn rule(draw: &mut Draw) -> Value {
    let rule = match draw.below(4) {
        0 => json!({"opa": {"rego": *draw.one(&REGOS)}}),
        _ => {
            let patterns: Vec<Value> = (0..1 + draw.below(2)).map(|_| condition(draw, 2)).collect();
            json!({"patternMatching": {"patterns": patterns}})
        }
    };
    common(draw, rule)
}

/// A value, a selector, a template or an expression.
fn value_from(draw: &mut Draw) -> Value {
    match draw.below(5) {
        0 => json!({"value": *draw.one(&VALUES)}),
        1 => json!({"value": {"n": 7, "list": [true, "x"]}}),
        2 => json!({"selector": format!("Hello, {{{}}}!", draw.one(&SELECTORS))}),
        3 => json!({"expression": "request.method + ' ' + request.url_path"}),
        _ => json!({"selector": *draw.one(&SELECTORS)}),
    }
}

fn response(draw: &mut Draw) -> Value {
    let mut response = Map::new();
    for which in ["unauthenticated", "unauthorized"] {
        if draw.rarely(3) {
            let mut deny = Map::new();
            if draw.rarely(2) {
                deny.insert("code".into(), json!([302, 404, 429][draw.below(3)]));
            }
            if draw.rarely(2) {
                deny.insert("message".into(), value_from(draw));
            }
            if draw.rarely(2) {
                deny.insert("headers".into(), json!({"x-denied": value_from(draw)}));
            }
            if draw.rarely(2) {
                deny.insert("body".into(), value_from(draw));
            }
            response.insert(which.into(), deny.into());
        }
    }
    let mut success = Map::new();
    if draw.rarely(2) {
        let properties = json!({"a": value_from(draw), "b": value_from(draw)});
        let said = json!({"plain": value_from(draw)});
        let headers = json!({"x-said": common(draw, said),
                             "x-known": {"json": {"properties": properties}}});
        success.insert("headers".into(), headers);
    }
    if draw.rarely(2) {
        let properties = json!({"a": value_from(draw), "who": {"selector": "auth.identity.metadata.name"}});
        success.insert("dynamicMetadata".into(), json!({"said": {"json": {"properties": properties}}}));
    }
    response.insert("success".into(), success.into());
    response.into()
}

fn check(draw: &mut Draw) -> CheckRequest {
    let mut http = HttpRequest {
        id: "an-id".into(),
        method: (*draw.one(&METHODS)).into(),
        path: (*draw.one(&PATHS)).into(),
        host: HOSTS[if draw.rarely(3) { draw.below(HOSTS.len()) } else { 0 }].into(),
        scheme: "http".into(),
        protocol: "HTTP/1.1".into(),
        ..HttpRequest::default()
    };
    let mut header = |name: &str, value: &str| drop(http.headers.insert(name.into(), value.into()));
    let key = *draw.one(&["janes-key", "johns-key", "nobodys-key"]);
    match draw.below(6) {
        0 => header("x-api-key", key),
        1 => header("cookie", &format!("other=1; KEY={key}")),
        2 => header("authorization", &format!("APIKEY {key}")),
        3 | 4 => header("authorization", &format!("Bearer {key}")),
        _ => {}
    }
    for (name, values) in [
        ("x-role", &["admin", "user"][..]),
        ("x-user", &["jane", "{\"name\":\"jane\",\"tier\":\"gold\"}"][..]),
        ("x-count", &["7", "2", "many"][..]),
        ("x-list", &["a,b,c", "a"][..]),
    ] {
        if !draw.rarely(3) {
            header(name, values[draw.below(values.len())]);
        }
    }
    let end = |port_value| Peer {
        address: Some(Address { socket_address: Some(SocketAddress { address: "127.0.0.1".into(), port_value }) }),
        ..Peer::default()
    };
    let attributes = AttributeContext {
        source: Some(end(40_000)),
        destination: Some(end(8000)),
        request: Some(Request { time: None, http: Some(http) }),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}
