//! In Authorino's place: Envoy asks us, over gRPC and over HTTP, before it lets a request through to a server.

use crate::mesh::request;
use http::HeaderValue;
use outrider_tests::authorizer::Authorizer;
use outrider_tests::client::{Answer, Connection, Protocol};
use outrider_tests::envoy::{Envoy, cluster, listener};
use outrider_tests::upstream::Echo;
use serde_json::{Value, json};

const POLICY: &str = r#"
apiVersion: authorino.kuadrant.io/v1beta3
kind: AuthConfig
metadata: {name: talker, namespace: default}
spec:
  hosts: [talker.test]
  authentication:
    friends:
      apiKey: {selector: {matchLabels: {audience: talker}}}
      credentials: {authorizationHeader: {prefix: APIKEY}}
  authorization:
    no-admin:
      patternMatching:
        patterns: [{selector: context.request.http.path, operator: neq, value: /admin}]
  response:
    unauthorized:
      code: 451
      message: {value: Not for you}
      headers: {x-why: {value: law}}
      body: {value: gone}
    success:
      headers:
        x-friend: {plain: {selector: auth.identity.metadata.name}}
"#;

const SECRET: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: jane, namespace: default, labels: {audience: talker, authorino.kuadrant.io/managed-by: authorino}}
stringData: {api_key: janes-own-key}
"#;

fn authorizer() -> Authorizer {
    let config = "auth: {authconfig: {folder: policies, secrets: secrets, namespace: default}}\n";
    Authorizer::start(config, &[("policies/talker.yaml", POLICY), ("secrets/jane.yaml", SECRET)])
}

/// Envoy's filter that asks.
fn asking(service: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3", "failure_mode_allow": false,
    });
    for (name, value) in service.as_object().expect("an object") {
        config[name] = value.clone();
    }
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    json!({"http_filters": [
        {"name": "asking", "typed_config": config},
        {"name": "router", "typed_config": {"@type": router}},
    ]})
}

/// One Envoy with a listener for each way to ask.
fn gateway(authorizer: &Authorizer, echo: &Echo) -> Envoy {
    let grpc = json!({"grpc_service": {"envoy_grpc": {"cluster_name": "grpc"}, "timeout": "5s"}});
    let http = json!({"http_service": {
        "server_uri": {"uri": "http://authorizer", "cluster": "http", "timeout": "5s"}, "path_prefix": "/check",
        "authorization_response": {"allowed_upstream_headers": {"patterns": [{"exact": "x-friend"}]},
                                   "allowed_client_headers": {"patterns": [{"prefix": "x-"}, {"exact": "www-authenticate"}]}},
    }});
    Envoy::start(
        &[listener("grpc", "echo", None, asking(grpc)), listener("http", "echo", None, asking(http))],
        &[
            cluster("echo", &echo.address, "http1", None),
            cluster("grpc", &authorizer.address("grpc"), "http2", None),
            cluster("http", &authorizer.address("http"), "http1", None),
        ],
    )
}

async fn ask(envoy: &Envoy, name: &str, host: &str, path: &str, credential: &str) -> Answer {
    let tcp = tokio::net::TcpStream::connect(envoy.address(name)).await.expect("Envoy's listener");
    let mut connection = Connection::handshake(tcp, Protocol::Http1).await.expect("a connection");
    let mut asked = request("GET", path, "");
    *asked.uri_mut() = path.parse().expect("a path");
    asked.headers_mut().insert("host", HeaderValue::from_str(host).expect("a host"));
    // What only the policy may say.
    asked.headers_mut().insert("x-friend", HeaderValue::from_static("mallory"));
    if !credential.is_empty() {
        asked.headers_mut().insert("authorization", HeaderValue::from_str(credential).expect("a credential"));
    }
    connection.ask(asked).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_envoy_let_through_whom_we_let_through_and_say_what_we_say() {
    let (authorizer, echo) = (authorizer(), Echo::start().await);
    let envoy = gateway(&authorizer, &echo);
    for name in ["grpc", "http"] {
        let good = ask(&envoy, name, "talker.test", "/hello?a=b", "APIKEY janes-own-key").await;
        assert_eq!(good.status.as_u16(), 200, "{name}: {good:?}");
        assert_eq!(good.headers["seen-x-friend"], "jane", "{name}: the policy's word, and not the caller's");
        assert!(!good.headers.contains_key("seen-authorization"), "{name}: the credential is not for the server");

        for credential in ["", "APIKEY another", "Bearer janes-own-key"] {
            let stranger = ask(&envoy, name, "talker.test", "/hello", credential).await;
            assert_eq!(stranger.status.as_u16(), 401, "{name} {credential}: {stranger:?}");
            assert_eq!(stranger.headers["www-authenticate"], "APIKEY realm=\"friends\"", "{name}");
            assert!(stranger.headers.contains_key("x-ext-auth-reason"), "{name}");
        }
        let denied = ask(&envoy, name, "talker.test", "/admin", "APIKEY janes-own-key").await;
        assert_eq!((denied.status.as_u16(), &*denied.text()), (451, "gone"), "{name}: {denied:?}");
        assert_eq!(
            (&denied.headers["x-why"], &denied.headers["x-ext-auth-reason"]),
            (&"law".parse().expect("a value"), &"Not for you".parse().expect("a value"))
        );

        let unknown = ask(&envoy, name, "nobody.test", "/hello", "APIKEY janes-own-key").await;
        assert_eq!(unknown.status.as_u16(), 404, "{name}: {unknown:?}");
        let with_port = ask(&envoy, name, "talker.test:8080", "/hello", "APIKEY janes-own-key").await;
        assert_eq!(with_port.status.as_u16(), 200, "{name}: a port changes no host");
    }
    // Without us nobody passes.
    drop(authorizer);
    for name in ["grpc", "http"] {
        let shut = ask(&envoy, name, "talker.test", "/hello", "APIKEY janes-own-key").await;
        assert_eq!(shut.status.as_u16(), 403, "{name}: {shut:?}");
        assert!(!shut.headers.contains_key("seen-path"), "{name}");
    }
}
