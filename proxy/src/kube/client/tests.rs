//! The client against the fake API server: what it asks, and what it makes of the answers.

use super::fake::{Answer, Fake};
use super::*;
use http::StatusCode;
use serde_json::json;

fn object(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version}})
}

fn gone() -> Value {
    json!({"kind": "Status", "reason": "Expired", "message": "too old", "code": 410})
}

#[tokio::test]
async fn what_is_asked_for_each_verb() {
    let fake = Fake::start().await;
    let client = Client::new(fake.kubernetes());
    let (path, body) = ("/apis/apps/v1/namespaces/a/deployments/b/scale", json!({"spec": {"replicas": 1}}));
    for _ in 0..5 {
        fake.tells(path, Answer::Json(StatusCode::OK, object("b", "1")));
    }
    assert_eq!(client.get(path).await.unwrap()["metadata"]["name"], "b");
    client.create(path, &body).await.unwrap();
    client.replace(path, &body).await.unwrap();
    client.patch(path, Patch::Merge, &body).await.unwrap();
    client.delete(path).await.unwrap();
    let asked = std::mem::take(&mut fake.world.lock().unwrap().asked);
    let methods: Vec<_> = asked.iter().map(|(method, ..)| method.as_str()).collect();
    assert_eq!(methods, ["GET", "POST", "PUT", "PATCH", "DELETE"]);
    assert!(asked[1..4].iter().all(|(_, _, sent, _)| *sent == body));
}

#[tokio::test]
async fn what_is_said_of_a_refusal() {
    let fake = Fake::start().await;
    let client = Client::new(fake.kubernetes());
    let error = client.get("/api/v1/nothing").await.unwrap_err();
    assert_eq!(error.code(), Some(404));
    assert_eq!(error.to_string(), "the Kubernetes API answered 404 NotFound: the server says NotFound");
    fake.tells("/x", Answer::Json(StatusCode::OK, json!("\u{0}")));
    assert!(client.get("/x").await.is_ok());
    let absent = Kubernetes { server: "http://127.0.0.1:1".into(), ..fake.kubernetes() };
    assert!(matches!(Client::new(absent).get("/x").await, Err(ApiError::Fetch(FetchError::Connect(_)))));
    let silent = Kubernetes { timeout: Duration::from_millis(20), ..fake.kubernetes() };
    fake.world.lock().unwrap().delay = Duration::from_secs(60);
    assert!(matches!(Client::new(silent).get("/x").await, Err(ApiError::Fetch(FetchError::Timeout(_)))));
}

#[tokio::test]
async fn is_a_renewed_token_shown() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let client = Client::new(Kubernetes { token_file: Some(file.clone()), ..fake.kubernetes() });
    assert!(matches!(client.get("/x").await, Err(ApiError::Token { .. })));
    for token in ["first", "second, longer"] {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let _ = client.get("/x").await;
        let asked = fake.world.lock().unwrap().asked.last().unwrap().3.clone();
        assert_eq!(asked, format!("Bearer {token}"));
    }
}

#[tokio::test]
async fn is_a_list_read_to_its_end() {
    let fake = Fake::start().await;
    let client = Client::new(fake.kubernetes());
    let secrets = Collection { path: "/s".into(), labels: "app=a,b in (c)".into(), fields: String::new() };
    let first = "/s?labelSelector=app%3Da%2Cb%20in%20%28c%29&limit=500";
    let page = |names: &[&str], more: &str| {
        let items: Vec<Value> = names.iter().map(|name| object(name, "1")).collect();
        Answer::Json(StatusCode::OK, json!({"metadata": {"resourceVersion": "9", "continue": more}, "items": items}))
    };
    fake.tells(first, page(&["a", "b"], "x/y"));
    // Too old between two pages: begun once more.
    fake.tells(&format!("{first}&continue=x%2Fy"), Answer::Json(StatusCode::GONE, gone()));
    fake.tells(first, page(&["a", "b"], "z"));
    fake.tells(&format!("{first}&continue=z"), page(&["c"], ""));
    let list = client.list(&secrets).await.unwrap();
    assert_eq!((list.items.len(), list.resource_version.as_str(), fake.asked()), (3, "9", 4));
}

#[tokio::test]
async fn is_a_collection_followed_through_what_happens_to_a_watch() {
    let fake = Fake::start().await;
    let client = Client::new(fake.kubernetes());
    let what = Collection { path: "/s".into(), ..Collection::default() };
    let list = |version: &str| {
        let items = [object("a", "1")];
        Answer::Json(StatusCode::OK, json!({"metadata": {"resourceVersion": version}, "items": items}))
    };
    let watch =
        |version: &str| format!("/s?watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=290");
    let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
    fake.tells("/s?limit=500", list("5"));
    let lines = vec![event("ADDED", object("b", "6")), event("BOOKMARK", object("", "8"))];
    fake.tells(&watch("5"), Answer::Lines(lines));
    let lines = vec![event("DELETED", object("b", "9")), event("ERROR", gone())];
    fake.tells(&watch("8"), Answer::Lines(lines));
    fake.tells("/s?limit=500", list("20"));
    fake.tells(&watch("20"), Answer::Lines(vec![event("MODIFIED", object("a", "21"))]));
    let mut told = Vec::new();
    let (done, ended) = tokio::sync::oneshot::channel();
    let mut done = Some(done);
    let follow = client.follow(
        &what,
        || 1.0,
        |change| {
            told.push(match change {
                Change::All(all) => format!("all {}", all.len()),
                Change::Put(object) => format!("put {}", object["metadata"]["name"]),
                Change::Removed(object) => format!("removed {}", object["metadata"]["name"]),
                Change::Failed(error) => format!("failed {}", error.code().unwrap_or(0)),
            });
            if told.len() == 6 {
                let _ = done.take().unwrap().send(());
            }
        },
    );
    tokio::select! {
        _ = follow => unreachable!("it never ends"),
        told = ended => told.unwrap(),
    }
    // The last: nothing more is told, so the next watch meets a 404.
    assert_eq!(told, ["all 1", "put \"b\"", "removed \"b\"", "all 1", "put \"a\"", "failed 404"]);
}
