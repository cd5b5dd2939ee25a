//! Introspection against a server that answers as it is told: who is let in, how often it is asked, what silence means.

use super::*;
use crate::message::Head;
use crate::tls::identity::Peer;
use serde_json::json;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const NOW: u64 = 1_800_000_000;

/// Answers every question with what stands in `answer`, and keeps the questions.
struct Server {
    address: String,
    answer: Arc<Mutex<(u16, String)>>,
    questions: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/introspect", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new((200, json!({"active": false}).to_string())));
        let questions = Arc::new(Mutex::new(Vec::new()));
        let (said, kept) = (answer.clone(), questions.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (said, kept) = (said.clone(), kept.clone());
                tokio::spawn(async move {
                    let question = read(&mut stream).await;
                    kept.lock().unwrap().push(question);
                    let (status, body) = said.lock().unwrap().clone();
                    let head =
                        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                });
            }
        });
        Server { address, answer, questions, _task: AbortOnDropHandle::new(task) }
    }

    fn says(&self, status: u16, body: Value) {
        *self.answer.lock().unwrap() = (status, body.to_string());
    }

    fn asked(&self) -> usize {
        self.questions.lock().unwrap().len()
    }
}

/// Head and body of one question.
async fn read(stream: &mut tokio::net::TcpStream) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    loop {
        let n = stream.read(&mut piece).await.unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&piece[..n]));
        let length = text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
        if n == 0 || body.is_some_and(|body| body >= length.unwrap_or(0usize)) {
            return text;
        }
    }
}

struct Setting {
    server: Server,
    method: Introspection,
    folder: tempfile::TempDir,
}

async fn setting(change: impl FnOnce(&mut config::Introspection)) -> Setting {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
    std::fs::write(&id, "side:car\n").unwrap();
    std::fs::write(&secret, "s/e=cret\n").unwrap();
    let mut config = config::Introspection::new(server.address.clone(), ClientSecret::Files { id, secret });
    change(&mut config);
    Setting { server, method: Introspection::new(&config), folder }
}

impl Setting {
    async fn ask(&self, token: &str, now_unix: u64) -> Result<Identity, Reason> {
        let head = Head {
            method: http::Method::GET,
            path: "/".into(),
            query: None,
            headers: http::HeaderMap::new(),
            version: http::Version::HTTP_11,
            request_id: String::new(),
            arrived_unix_seconds: 0,
        };
        let peer = Peer::plaintext(([127, 0, 0, 1], 1).into());
        let destination = "10.0.0.1:8443".parse().unwrap();
        let request = Request { head: &head, peer: &peer, host: "model.test", destination, now_unix, extra: None };
        self.method.known(token, &request).await
    }

    async fn label(&self, token: &str) -> &'static str {
        self.ask(token, NOW).await.map_or_else(Reason::label, |_| "accepted")
    }
}

#[tokio::test]
async fn who_is_a_good_token_and_how_is_it_asked() {
    let setting = setting(|config| config.token_type_hint = Some("access_token".into())).await;
    setting.server.says(200, json!({"active": true, "sub": "ada", "iss": "https://a", "scope": "x y", "exp": NOW + 5}));
    for _ in 0..3 {
        let identity = setting.ask("a b+c/d", NOW).await.unwrap();
        assert_eq!((identity.subject.as_str(), identity.issuer.as_str()), ("ada", "https://a"));
        assert_eq!((identity.method, identity.expires_at_unix), (NAME, Some(NOW + 5)));
        assert_eq!(identity.claims["scope"], "x y");
    }
    assert_eq!(setting.server.asked(), 1, "remembered");
    let question = setting.server.questions.lock().unwrap()[0].clone();
    let (head, body) = question.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /introspect HTTP/1.1\r\n"), "{head}");
    let basic = format!("authorization: Basic {}", STANDARD.encode("side%3Acar:s%2Fe%3Dcret"));
    assert!(head.contains(&basic) && head.contains("content-type: application/x-www-form-urlencoded"), "{head}");
    assert_eq!(body, "token=a%20b%2Bc%2Fd&token_type_hint=access_token");
    // The end of the token is the end of what is remembered of it.
    setting.server.says(200, json!({"active": false}));
    assert_eq!(setting.ask("a b+c/d", NOW + 5).await.unwrap_err(), Reason::Rejected);
    // A secret that was rotated is used at once.
    std::fs::write(setting.folder.path().join("secret"), "new").unwrap();
    let _ = setting.ask("other", NOW).await;
    let last = setting.server.questions.lock().unwrap().last().unwrap().clone();
    assert!(last.contains(&STANDARD.encode("side%3Acar:new")), "{last}");
}

#[tokio::test]
async fn which_answers_let_in() {
    let setting = setting(|config| {
        config.issuer = Some("https://a".into());
        config.audiences = vec!["models".into(), "other".into()];
        config.timeout = Duration::from_secs(20);
    })
    .await;
    let good = json!({"active": true, "sub": "ada", "iss": "https://a", "aud": "models", "exp": NOW + 60});
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        changed
    };
    let cases = [
        (200, good.clone(), "accepted"),
        (200, with("aud", json!(["x", "other"])), "accepted"),
        (200, with("exp", Value::Null), "accepted"),
        (200, with("active", json!(false)), "rejected"),
        (200, json!({"active": false}), "rejected"),
        (200, with("exp", json!(NOW)), "expired"),
        (200, with("exp", json!("soon")), "malformed"),
        (200, with("nbf", json!(NOW + 1)), "not_yet_valid"),
        (200, with("iss", json!("https://b")), "issuer"),
        (200, with("iss", Value::Null), "issuer"),
        (200, with("aud", json!("x")), "audience"),
        (200, with("aud", Value::Null), "audience"),
        (200, with("sub", json!("a\nb")), "subject"),
        (200, json!({"active": true, "iss": "https://a", "aud": "models"}), "subject"),
        (200, json!({"active": true, "iss": "https://a", "aud": "models", "client_id": "batch"}), "accepted"),
        // Whatever is no clear answer is none.
        (200, with("active", json!("true")), "unavailable"),
        (200, json!({}), "unavailable"),
        (200, json!([true]), "unavailable"),
        (201, good.clone(), "unavailable"),
        (302, good.clone(), "unavailable"),
        (400, good.clone(), "unavailable"),
        (401, good.clone(), "unavailable"),
        (429, good.clone(), "unavailable"),
        (500, good.clone(), "unavailable"),
    ];
    for (index, (status, body, want)) in cases.into_iter().enumerate() {
        setting.server.says(status, body.clone());
        assert_eq!(setting.label(&format!("token {index}")).await, want, "{status} {body}");
    }
}

#[tokio::test]
async fn what_if_nobody_answers() {
    let mut setting = setting(|_| ()).await;
    setting.server.says(200, json!({"active": true, "sub": "ada"}));
    assert_eq!(setting.label("known").await, "accepted");
    setting.server.says(503, json!({}));
    assert_eq!(setting.label("stranger").await, "unavailable");
    assert_eq!(setting.label("known").await, "accepted", "who is remembered passes");
    setting.server.says(200, json!({"active": true, "sub": "eve"}));
    assert_eq!(setting.label("stranger").await, "accepted", "a failure is not remembered");
    // Nobody listens; no secret can be read.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    setting.method.config.endpoint = format!("http://{closed}/");
    assert_eq!(setting.label("another").await, "unavailable");
    setting.method.config.endpoint = setting.server.address.clone();
    std::fs::remove_file(setting.folder.path().join("secret")).unwrap();
    assert_eq!(setting.label("another").await, "unavailable");
}

#[tokio::test]
async fn is_a_token_asked_about_once_however_many_show_it() {
    let setting = setting(|_| ()).await;
    setting.server.says(200, json!({"active": true, "sub": "ada"}));
    let all = (0..50).map(|_| setting.label("same"));
    assert!(futures_util::future::join_all(all).await.iter().all(|label| *label == "accepted"));
    assert_eq!(setting.server.asked(), 1);
}

#[test]
fn which_settings_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
    std::fs::write(&id, "id").unwrap();
    let config = config::Method::Introspection(config::Introspection::new(
        "http://a/".into(),
        ClientSecret::Files { id, secret: secret.clone() },
    ));
    let problem = |config: &config::Method| open(config, &Tools::new()).err().unwrap();
    assert_eq!(problem(&config).path, ".client_secret_file");
    std::fs::write(&secret, "\n").unwrap();
    assert!(problem(&config).message.ends_with("is empty"));
}
