//! From the command line to what callers meet: the real pipeline, and the fake API server behind it.

use super::*;
use crate::auth::Request;
use crate::error::Error as Refused;
use crate::kube::client::fake::Fake;
use crate::message::Head;
use crate::tls::identity::Peer;
use http::{HeaderMap, Method, StatusCode, Version};

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(more: &[&str]) -> Args {
    let line = ["rbac-proxy", "--secure-listen-address=127.0.0.1:0", "--upstream=http://127.0.0.1:8080"];
    <Line as clap::Parser>::try_parse_from(line.iter().chain(more)).unwrap().args
}

struct Setting {
    fake: Fake,
    authenticator: std::sync::Arc<Authenticator>,
    _folder: tempfile::TempDir,
}

async fn setting(file: &str, more: &[&str]) -> Setting {
    let fake = Fake::start().await;
    fake.knows("good", "ada", &["https://kubernetes.default.svc"]);
    fake.knows("poor", "eve", &["https://kubernetes.default.svc"]);
    fake.world.lock().unwrap().may.push("ada".into());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, file).unwrap();
    let flag = format!("--config-file={}", path.display());
    let args = args(&[more, &[flag.as_str()]].concat());
    let authenticator = authenticator(&args, fake.kubernetes()).unwrap().into();
    Setting { fake, authenticator, _folder: folder }
}

/// Status and body; or the headers that the server behind is told.
type Told = Result<Vec<(String, String)>, (StatusCode, String)>;

impl Setting {
    async fn ask(&self, method: &str, path: &str, token: &str) -> Told {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", "root".parse().unwrap());
        if !token.is_empty() {
            headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let head = Head {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            path: path.into(),
            query: None,
            headers,
            version: Version::HTTP_11,
            request_id: String::new(),
            arrived_unix_seconds: 0,
        };
        let peer = Peer::plaintext(([127, 0, 0, 1], 1).into());
        let destination = "127.0.0.1:8443".parse().unwrap();
        let now_unix = 1_800_000_000;
        let request = Request { head: &head, peer: &peer, host: "model.test", destination, now_unix, extra: None };
        let told = match self.authenticator.identify(request).await {
            Ok(caller) => self.authenticator.authorize(caller, now_unix).await,
            Err(refusal) => Err(refusal),
        };
        let authorized = told.map_err(|refusal| match refusal.into_error() {
            Refused::Denied { refusal, .. } => {
                (refusal.status, String::from_utf8_lossy(&refusal.body).trim_end().to_owned())
            }
            other => panic!("{other}"),
        })?;
        let mut head = head;
        crate::auth::request::apply(authorized.edits(), &mut head);
        Ok(head.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-remote")).map(pair).collect())
    }
}

fn pair((name, value): (&HeaderName, &http::HeaderValue)) -> (String, String) {
    (name.to_string(), value.to_str().unwrap().to_owned())
}

const KSERVE: &str = "
authorization:
  resourceAttributes: {namespace: models, apiGroup: serving.kserve.io, resource: inferenceservices, name: llama, verb: get}
";

#[tokio::test]
async fn who_passes_and_what_are_the_others_told() {
    let setting = setting(KSERVE, &["--auth-header-fields-enabled=true"]).await;
    let told = setting.ask("POST", "/v1/chat/completions", "good").await.unwrap();
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(told, [text("x-remote-user", "ada"), text("x-remote-groups", "system:authenticated|models")]);
    let refused = |status, words: &str| Err((status, words.to_owned()));
    for token in ["", "unknown"] {
        assert_eq!(setting.ask("GET", "/", token).await, refused(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    let words = "Forbidden (user=eve, verb=get, resource=inferenceservices, subresource=)";
    assert_eq!(setting.ask("POST", "/", "poor").await, refused(StatusCode::FORBIDDEN, words));
    setting.fake.world.lock().unwrap().fault = Some(StatusCode::INTERNAL_SERVER_ERROR);
    assert!(setting.ask("GET", "/", "good").await.is_ok(), "what is remembered passes");
    let words = "Service Unavailable";
    assert_eq!(setting.ask("GET", "/", "another").await, refused(StatusCode::SERVICE_UNAVAILABLE, words));
}

#[tokio::test]
async fn what_happens_when_a_review_fails_or_lacks_its_parameter() {
    let plain = setting("", &[]).await;
    assert!(plain.ask("GET", "/metrics", "good").await.is_ok());
    plain.fake.world.lock().unwrap().fault = Some(StatusCode::BAD_GATEWAY);
    let words = "Authorization error (user=ada, verb=create, resource=, subresource=)";
    let refused = |status, words: &str| Err((status, words.to_owned()));
    assert_eq!(plain.ask("POST", "/metrics", "good").await, refused(StatusCode::INTERNAL_SERVER_ERROR, words));
    let file = "authorization: {rewrites: {byQueryParameter: {name: ns}}, resourceAttributes: {resource: pods}}";
    let rewritten = setting(file, &[]).await;
    let words = "Bad Request. The request or configuration is malformed.";
    assert_eq!(rewritten.ask("GET", "/", "good").await, refused(StatusCode::BAD_REQUEST, words));
}

#[tokio::test]
async fn which_paths_are_ignored_and_which_do_not_exist() {
    let ignoring = setting("", &["--ignore-paths=/healthz,/public/*", "--auth-header-fields-enabled"]).await;
    let told = ignoring.ask("GET", "/public/a", "").await;
    assert_eq!(told, Ok(Vec::new()), "nobody may say who he is, where nobody was asked");
    assert!(ignoring.ask("GET", "/public/a/b", "").await.is_err());
    assert_eq!(ignoring.fake.asked(), 0);
    let allowing = setting("", &["--allow-paths=/metrics"]).await;
    let nowhere = Err((StatusCode::NOT_FOUND, "404 page not found".to_owned()));
    assert_eq!(allowing.ask("GET", "/other", "good").await, nowhere);
    assert!(allowing.ask("GET", "/metrics", "good").await.is_ok());
}

#[tokio::test]
async fn which_audiences_are_asked_for() {
    let any = setting("", &[]).await;
    any.ask("GET", "/", "good").await.unwrap();
    let spec = any.fake.world.lock().unwrap().asked[0].2["spec"].clone();
    assert_eq!(spec, json!({"token": "good"}));
    let other = setting("", &["--auth-token-audiences=models,others"]).await;
    assert!(other.ask("GET", "/", "good").await.is_err());
}

#[test]
fn is_the_command_line_a_configuration() {
    let line = |more: &[&str]| {
        let yaml = yaml(&args(more), "127.0.0.1:8080").unwrap();
        Config::parse(&yaml.to_string(), Path::new(""), Path::new("x")).unwrap()
    };
    let plain = line(&[]);
    assert_eq!((plain.tls.mode, plain.healthz), (config::TlsMode::Simple, None));
    let more = line(&[
        "--proxy-endpoints-port=8643",
        "--upstream-timeout=60s",
        "--upstream-force-h2c",
        "--http2-max-concurrent-streams=7",
        "--tls-cert-file=/c",
        "--tls-private-key-file=/k",
    ]);
    assert_eq!(more.healthz, Some("127.0.0.1:8643".parse().unwrap()));
    assert_eq!(more.limits.streams_max, 7);
    let config::Behind::Forward(forward) = more.behind else { panic!("a worker") };
    assert_eq!(forward.response_timeout, Some(std::time::Duration::from_secs(60)));
    let base = tempfile::tempdir().unwrap();
    let mut folder = Folder::at(base.path().join("folder"));
    let mut to = |url: &str, authorities: Option<&str>| {
        let upstream_ca_file = authorities.map(|name| base.path().join(name));
        upstream(&Args { upstream: url.into(), upstream_ca_file, ..args(&[]) }, &mut folder)
    };
    for bad in ["ftp://x", "http://127.0.0.1:8080/base", "127.0.0.1:8080", "", "https://x/base"] {
        assert!(to(bad, None).is_err(), "{bad}");
    }
    assert_eq!(to("http://localhost:8080", None).unwrap(), "127.0.0.1:8080");
    assert!(to("https://localhost:8443", Some("nothing.pem")).unwrap_err().contains("nothing.pem"));
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(base.path().join("ca.pem"), authority.cert.pem()).unwrap();
    let socket = to("https://localhost:8443", Some("ca.pem")).unwrap();
    assert!(std::path::Path::new(socket.strip_prefix("unix:").unwrap()).exists());
    assert_eq!(address(":8443").unwrap().port(), 8443);
}

#[tokio::test]
async fn are_tokens_of_an_issuer_taken_in_the_place_of_reviews() {
    use crate::auth::issuer::{Issuer, Token};
    let issuer = Issuer::generate();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let documents = [
        ("/.well-known/openid-configuration", json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string()),
        ("/keys", issuer.jwks()),
    ];
    // One question for each connection; ends with the test's process.
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut tcp in listener.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0; 1024]);
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match tcp.read(&mut byte) {
                    Ok(count) if count > 0 => head.extend_from_slice(&byte[..count]),
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let body =
                documents.iter().find(|(path, _)| head.starts_with(&format!("GET {path} "))).map(|(_, body)| body);
            let body = body.cloned().unwrap_or_default();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _ = tcp.write_all(answer.as_bytes());
        }
    });
    let flags = [
        format!("--oidc-issuer={url}"),
        "--oidc-clientID=models".into(),
        "--oidc-username-claim=sub".into(),
        "--oidc-sign-alg=ES256".into(),
        "--auth-header-fields-enabled".into(),
    ];
    let setting = setting("", &flags.each_ref().map(String::as_str)).await;
    let claims = json!({"groups": ["a", "b"]}).as_object().unwrap().clone();
    let token = |audience: &str| {
        issuer.mint(Token {
            issuer: &url,
            subject: "ada",
            audience,
            issued_at_unix: 1_800_000_000,
            ttl_seconds: 60,
            claims: claims.clone(),
        })
    };
    let _tended = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(setting.authenticator.clone().tend()));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let told = setting.ask("GET", "/", &token("models")).await;
    assert_eq!(told, Ok(vec![pair("x-remote-user", "ada"), pair("x-remote-groups", "a|b")]));
    assert_eq!(setting.ask("GET", "/", &token("others")).await.unwrap_err().0, StatusCode::UNAUTHORIZED);
    assert_eq!(setting.ask("GET", "/", "good").await.unwrap_err().0, StatusCode::UNAUTHORIZED);
    let asked = setting.fake.world.lock().unwrap().asked.clone();
    assert!(asked.iter().all(|(_, path, ..)| path.ends_with("subjectaccessreviews")), "no token is reviewed");
}
