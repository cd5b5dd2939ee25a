//! TokenReview against the fake API server: who is let in, how often it is asked, and what its silence means.

use super::*;
use crate::auth::verdicts::{Limits, Which};
use crate::kube::client::fake::Fake;
use crate::message::Head;
use crate::tls::identity::Peer;
use http::{HeaderMap, Method as Verb, StatusCode};
use std::time::Duration;

const NOW: u64 = 1_800_000_000;

struct Setting {
    fake: Fake,
    method: TokenReview,
}

async fn setting(audiences: Audiences) -> Setting {
    let fake = Fake::start().await;
    fake.knows("good", "system:serviceaccount:a:b", &["model.test", "models"]);
    let config = config::TokenReview { audiences, kubernetes: fake.kubernetes(), limits: Limits::default() };
    Setting { method: TokenReview::new(&config), fake }
}

fn head() -> Head {
    Head {
        method: Verb::GET,
        path: "/".into(),
        query: None,
        headers: HeaderMap::new(),
        version: http::Version::HTTP_11,
        request_id: String::new(),
        arrived_unix_seconds: 0,
    }
}

impl Setting {
    async fn ask(&self, token: &str, now_unix: u64) -> Result<Identity, Reason> {
        let (head, peer) = (head(), Peer::plaintext(([127, 0, 0, 1], 1).into()));
        let destination = "10.0.0.1:8443".parse().unwrap();
        let request = Request { head: &head, peer: &peer, host: "model.test:8443", destination, now_unix, extra: None };
        self.method.known(token, &request).await
    }
}

fn jwt(claims: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

#[tokio::test]
async fn who_is_a_good_token() {
    let setting = setting(Audiences::Host).await;
    let token = jwt(&json!({"iss": "https://cluster.test", "exp": NOW + 60}));
    setting.fake.knows(&token, "system:serviceaccount:a:b", &["model.test"]);
    for _ in 0..3 {
        let identity = setting.ask(&token, NOW).await.unwrap();
        assert_eq!((identity.subject.as_str(), identity.method), ("system:serviceaccount:a:b", "token_review"));
        assert_eq!((identity.issuer.as_str(), identity.expires_at_unix), ("https://cluster.test", Some(NOW + 60)));
        assert_eq!(identity.claims["user"]["groups"][1], "models");
    }
    assert_eq!(setting.fake.asked(), 1, "the second and third were remembered");
    let spec = setting.fake.world.lock().unwrap().asked[0].2["spec"].clone();
    assert_eq!(spec, json!({"token": token, "audiences": ["model.test"]}));
    // The verdict ends with the token, though verdicts are kept for longer.
    assert!(setting.ask(&token, NOW + 59).await.is_ok());
    assert_eq!(setting.ask(&token, NOW + 60).await.unwrap_err(), Reason::Expired);
    assert_eq!(setting.fake.asked(), 1);
}

#[tokio::test]
async fn which_tokens_are_refused_and_why() {
    let these = |names: &[&str]| Audiences::These(names.iter().map(|name| name.to_string()).collect());
    let ended = jwt(&json!({"exp": NOW}));
    let cases = [
        (Audiences::Host, "good", Ok(())),
        (Audiences::Server, "good", Ok(())),
        (these(&["other", "models"]), "good", Ok(())),
        (these(&["other"]), "good", Err(Reason::Rejected)),
        (Audiences::Host, "unknown", Err(Reason::Rejected)),
        (Audiences::Host, ended.as_str(), Err(Reason::Expired)),
        (Audiences::Host, "a.b.c", Err(Reason::Rejected)),
    ];
    for (audiences, token, expected) in cases {
        let setting = setting(audiences.clone()).await;
        let told = setting.ask(token, NOW).await.map(drop);
        assert_eq!(told, expected, "{token} {audiences:?}");
        if token == ended {
            assert_eq!(setting.fake.asked(), 0, "what has ended is not worth a question");
        }
    }
}

#[test]
fn what_does_a_status_say() {
    let good = json!({"username": "ada"});
    let cases = [
        (json!({"authenticated": true, "user": good, "audiences": ["a"]}), &["a", "b"][..], Ok("ada")),
        (json!({"authenticated": true, "user": good}), &[], Ok("ada")),
        // A server that knows nothing of audiences.
        (json!({"authenticated": true, "user": good}), &["a"], Err(Reason::Audience)),
        (json!({"authenticated": true, "user": good, "audiences": ["c"]}), &["a"], Err(Reason::Audience)),
        (json!({"authenticated": true, "user": {}}), &[], Err(Reason::Subject)),
        (json!({"authenticated": "true", "user": good}), &[], Err(Reason::Rejected)),
        (json!({"user": good}), &[], Err(Reason::Rejected)),
        (json!({"error": "no"}), &[], Err(Reason::Rejected)),
    ];
    for (status, audiences, expected) in cases {
        let answer = read(status.clone(), audiences, Says::default()).unwrap();
        assert_eq!(answer.good, expected.is_ok(), "{status}");
        let told = answer.value.as_ref().map(|reviewed| reviewed.subject.as_str()).map_err(|reason| *reason);
        assert_eq!(told, expected, "{status}");
    }
    for nothing in [json!(null), json!("yes"), json!([])] {
        assert!(read(nothing, &[], Says::default()).is_err());
    }
}

#[tokio::test]
async fn what_happens_while_the_server_does_not_answer() {
    let setting = setting(Audiences::Host).await;
    setting.ask("good", NOW).await.unwrap();
    for fault in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TOO_MANY_REQUESTS, StatusCode::FORBIDDEN] {
        setting.fake.world.lock().unwrap().fault = Some(fault);
        assert!(setting.ask("good", NOW + 119).await.is_ok(), "what is remembered passes");
        assert_eq!(setting.ask("new", NOW).await.unwrap_err(), Reason::Unavailable);
    }
    setting.fake.world.lock().unwrap().fault = None;
    setting.fake.knows("new", "ada", &["model.test"]);
    assert!(setting.ask("new", NOW).await.is_ok(), "an error is not remembered");
}

#[tokio::test]
async fn is_a_silent_server_waited_for_without_end() {
    let fake = Fake::start().await;
    fake.world.lock().unwrap().delay = Duration::from_secs(600);
    let limits = Limits { wait_max: Duration::from_millis(50), ..Limits::default() };
    let config = config::TokenReview { audiences: Audiences::Host, kubernetes: fake.kubernetes(), limits };
    let setting = Setting { method: TokenReview::new(&config), fake };
    assert_eq!(setting.ask("good", NOW).await.unwrap_err(), Reason::Unavailable);
}

#[tokio::test]
async fn does_an_operator_make_it_forget() {
    let setting = setting(Audiences::Host).await;
    setting.ask("good", NOW).await.unwrap();
    setting.fake.world.lock().unwrap().tokens.clear();
    assert!(setting.ask("good", NOW).await.is_ok());
    let (name, memory) = setting.method.remembers().unwrap();
    assert_eq!((name, memory.forget(&Which::Subject("system:serviceaccount:a:b".into()))), ("token_review", 1));
    assert_eq!(setting.ask("good", NOW).await.unwrap_err(), Reason::Rejected);
}

#[tokio::test]
async fn does_a_flood_of_bad_tokens_push_out_a_good_one() {
    let setting = setting(Audiences::Host).await;
    let limits = Limits { asked_per_second: 100_000, asking_max: 64, ..Limits::default() };
    let config = config::TokenReview { audiences: Audiences::Host, kubernetes: setting.fake.kubernetes(), limits };
    let setting = Setting { method: TokenReview::new(&config), fake: setting.fake };
    setting.ask("good", NOW).await.unwrap();
    let names: Vec<String> = (0..1000).map(|i| format!("bad-{i}")).collect();
    let told = futures_util::future::join_all(names.iter().map(|name| setting.ask(name, NOW))).await;
    assert!(told.into_iter().all(|told| told.is_err()));
    let asked = setting.fake.asked();
    assert!(asked <= 1001, "{asked}");
    setting.ask("good", NOW).await.unwrap();
    assert_eq!(setting.fake.asked(), asked, "the good one is still remembered");
}

#[test]
fn which_host_is_the_audience() {
    for (host, expected) in [("a.test", "a.test"), ("a.test:8443", "a.test"), ("[::1]:80", "[::1]"), (":80", ":80")] {
        assert_eq!(without_port(host), expected);
    }
}
