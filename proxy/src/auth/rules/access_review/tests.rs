//! SubjectAccessReview against the fake API server: what is asked, what is made of the answer, and of none.

use super::*;
use crate::kube::client::fake::{ACCESS, Answer as Told, Fake};
use http::StatusCode;

const NOW: u64 = 1_800_000_000;

fn action() -> Action {
    let text = str::to_owned;
    Action::Resource(Resource {
        verb: text("get"),
        group: text("serving.kserve.io"),
        resource: text("inferenceservices"),
        namespace: text("models"),
        name: text("llama"),
        ..Resource::default()
    })
}

fn rule(fake: &Fake, action: Action) -> AccessReview {
    let reviewer = Arc::new(Reviewer::new(Client::new(fake.kubernetes()), LIMITS));
    AccessReview::new(
        reviewer,
        Box::new(move |root| Ok(Some(vec![Question::of(&root["auth"]["identity"]["user"], action.clone())]))),
    )
}

fn root(user: &str) -> Value {
    let user = json!({"username": user, "groups": ["system:authenticated"], "extra": {"pod": ["a"]}});
    json!({"request": {"time": {"seconds": NOW}}, "auth": {"identity": {"user": user}}})
}

#[tokio::test]
async fn what_is_asked_and_how_often() {
    let fake = Fake::start().await;
    fake.world.lock().unwrap().may.push("ada".into());
    let rule = rule(&fake, action());
    for _ in 0..3 {
        let value = rule.judge(&root("ada")).await.unwrap();
        assert_eq!(value["allowed"], true);
        let denied = rule.judge(&root("eve")).await.unwrap_err();
        assert_eq!(denied, Denied { words: "not authorized: unknown reason".into(), fault: false });
    }
    assert_eq!(fake.asked(), 2, "one question for each of them");
    let spec = fake.world.lock().unwrap().asked[0].2["spec"].clone();
    let attributes = json!({
        "verb": "get", "namespace": "models", "group": "serving.kserve.io", "resource": "inferenceservices", "name": "llama",
    });
    assert_eq!(
        spec,
        json!({"user": "ada", "groups": ["system:authenticated"], "extra": {"pod": ["a"]},
            "resourceAttributes": attributes})
    );
    let counts = rule.reviewer.memory().counts();
    assert_eq!((counts.good, counts.bad, counts.hits), (1, 1, 4));
}

#[tokio::test]
async fn is_a_path_asked_for_as_a_path() {
    let fake = Fake::start().await;
    fake.world.lock().unwrap().may.push("ada".into());
    let rule = rule(&fake, Action::NonResource { verb: "get".into(), path: "/metrics".into() });
    rule.judge(&root("ada")).await.unwrap();
    let spec = fake.world.lock().unwrap().asked[0].2["spec"].clone();
    assert_eq!(spec["nonResourceAttributes"], json!({"verb": "get", "path": "/metrics"}));
}

#[tokio::test]
async fn what_happens_when_the_server_does_not_decide() {
    let fake = Fake::start().await;
    fake.world.lock().unwrap().may.push("ada".into());
    let rule = rule(&fake, action());
    rule.judge(&root("ada")).await.unwrap();
    fake.world.lock().unwrap().fault = Some(StatusCode::SERVICE_UNAVAILABLE);
    assert!(rule.judge(&root("ada")).await.is_ok(), "what is remembered passes");
    assert!(rule.judge(&root("bob")).await.unwrap_err().fault);
    fake.world.lock().unwrap().fault = None;
    for status in
        [json!(null), json!({}), json!({"allowed": "true"}), json!({"allowed": false, "evaluationError": "x"})]
    {
        fake.tells(ACCESS, Told::Json(StatusCode::CREATED, json!({"status": status})));
        assert!(rule.judge(&root("bob")).await.unwrap_err().fault, "{status}");
    }
    let both = json!({"status": {"allowed": true, "denied": true, "reason": "webhook"}});
    fake.tells(ACCESS, Told::Json(StatusCode::CREATED, both));
    assert_eq!(rule.judge(&root("bob")).await.unwrap_err().words, "not authorized: webhook");
}

#[tokio::test]
async fn is_nothing_asked_nothing_allowed() {
    let fake = Fake::start().await;
    let reviewer = Arc::new(Reviewer::new(Client::new(fake.kubernetes()), LIMITS));
    let none = AccessReview::new(reviewer, Box::new(|_| Ok(Some(Vec::new()))));
    assert!(none.judge(&root("ada")).await.is_err());
}
