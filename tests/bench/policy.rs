//! What a rule costs for one request, over an authorization JSON as a gateway's ext_authz makes it.
//!
//! Never asserts a time. Beside it stands what Authorino publishes for its whole pipeline: 364 µs, 883 allocations.

use criterion::{Criterion, criterion_group, criterion_main};
use outrider::auth::expressions::Expression;
use outrider::auth::patterns::{Compat, NamedPatterns};
use outrider::auth::rules::{self, Opening, Rego, RegoVersion, Rule};
use outrider::auth::selectors::{Selector, Template};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Duration;

/// Some 60 values: the attributes of a request with a dozen headers, and the claims of a JWT.
fn root() -> Value {
    let request = json!({
        "id": "7f1c0a52-3c1c-4a54-9c4e-0f6e3fd2a6c1", "time": {"seconds": 1764000000, "nanos": 12345},
        "protocol": "HTTP/2", "scheme": "https", "host": "llama.models.example.com", "method": "POST",
        "path": "/v1/chat/completions?stream=true", "url_path": "/v1/chat/completions", "query": "stream=true",
        "headers": {
            ":authority": "llama.models.example.com", ":method": "POST", ":path": "/v1/chat/completions?stream=true",
            "accept": "*/*", "accept-encoding": "gzip", "authorization": format!("Bearer {}", "x".repeat(800)),
            "content-length": "412", "content-type": "application/json", "traceparent": "00-0af7651916cd43dd-b7ad-01",
            "user-agent": "openai-python/1.50", "x-forwarded-for": "10.1.2.3", "x-forwarded-proto": "https",
            "x-request-id": "7f1c0a52-3c1c-4a54-9c4e-0f6e3fd2a6c1", "x-team": "search",
        },
        "user_agent": "openai-python/1.50", "size": 412, "context_extensions": {"host": "llama.models.example.com"},
    });
    json!({
        "metadata": {"filter_metadata": {}}, "request": request,
        "source": {"address": "10.1.2.3", "port": 43210, "principal": "spiffe://cluster.local/ns/search/sa/frontend"},
        "destination": {"address": "10.1.2.9", "port": 8443, "principal": "spiffe://cluster.local/ns/models/sa/llama"},
        "auth": {
            "identity": {
                "iss": "https://issuer.example.com", "sub": "0e1f7a5c-alice", "aud": ["models"], "exp": 1764003600,
                "iat": 1764000000, "azp": "frontend", "email": "alice@example.com", "email_verified": true,
                "realm_access": {"roles": ["offline_access", "models-user", "team-search"]},
                "groups": ["search", "ml", "everyone"], "scope": "openid email models.read",
            },
            "metadata": {"quota": {"tier": "gold", "left": 1000}}, "authorization": {}, "response": {}, "callbacks": {},
        },
    })
}

fn open(name: &str, setting: Value) -> Box<dyn Rule> {
    let named = NamedPatterns::new();
    let opening = Opening { named: &named, compat: Compat::default(), path: "bench" };
    let kind = rules::kind(name).expect("a rule of the table");
    (kind.open)(&setting, opening).unwrap_or_else(|problem| panic!("{problem}"))
}

fn rule(criterion: &mut Criterion, name: &str, rule: &dyn Rule, root: &Value) {
    let judge = || futures_util::FutureExt::now_or_never(rule.judge(black_box(root))).expect("waits for nothing");
    assert!(judge().is_ok(), "{name} lets this request through");
    criterion.bench_function(name, |bencher| bencher.iter(judge));
}

fn policy(criterion: &mut Criterion) {
    let root = root();
    let selector = Selector::parse("auth.identity.realm_access.roles").expect("a good path");
    criterion
        .bench_function("selector, four keys", |bencher| bencher.iter(|| selector.find(black_box(&root)).exists()));
    let selector = Selector::parse(r#"auth.identity.groups.#(=="ml")"#).expect("a good path");
    criterion.bench_function("selector, query", |bencher| bencher.iter(|| selector.find(black_box(&root)).exists()));
    let template = Template::parse("{auth.identity.azp}/{request.headers.x-team}").expect("a good template");
    criterion.bench_function("template, two paths", |bencher| bencher.iter(|| template.text(black_box(&root))));

    let patterns = json!({"patterns": [
        {"selector": "request.method", "operator": "eq", "value": "POST"},
        {"selector": "request.url_path", "operator": "matches", "value": "^/v1/(chat/)?completions$"},
        {"selector": "auth.identity.realm_access.roles", "operator": "incl", "value": "models-user"},
    ]});
    rule(criterion, "rule, three patterns", &*open("patternMatching", patterns), &root);
    let predicate = "request.method == 'POST' && request.headers['x-team'] == 'search' && \
                     'models-user' in auth.identity.realm_access.roles";
    rule(criterion, "rule, CEL", &*open("cel", json!({"predicate": predicate})), &root);
    let expression =
        Expression::compile("auth.identity.groups.exists(g, g == request.headers['x-team'])").expect("CEL");
    criterion.bench_function("CEL, a loop over three", |bencher| bencher.iter(|| expression.holds(black_box(&root))));
    let rego = "allow { input.request.method == \"POST\"; startswith(input.request.url_path, \"/v1/\"); \
                input.auth.identity.realm_access.roles[_] == \"models-user\" }";
    let rego = Rego::compile(rego, RegoVersion::V0, false).expect("a good policy");
    rule(criterion, "rule, Rego", &rego, &root);
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = policy
}
criterion_main!(benches);
