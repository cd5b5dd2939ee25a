//! Policies and Secrets followed in the fake API server; `make e2e-kubernetes` does the same with the real one.

use super::*;
use crate::auth::Request;
use crate::auth::authconfig::Compat;
use crate::auth::callbacks::Callbacks;
use crate::auth::methods::Tools;
use crate::config::authconfig::AuthConfig as Config;
use crate::kube::client::fake::Fake;
use crate::message::Head;
use crate::tls::identity::Peer;
use crate::watched::WATCH_PERIOD;
use http::StatusCode;
use serde_json::json;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

const POLICIES: &str = "/apis/authorino.kuadrant.io/v1beta3/namespaces/talks/authconfigs";
const SECRETS: &str = "/api/v1/namespaces/talks/secrets";

fn policy(name: &str, host: &str, spec: Value) -> Value {
    let mut whole = json!({"hosts": [host]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "authorino.kuadrant.io/v1beta3", "kind": "AuthConfig", "spec": whole,
        "metadata": {"name": name, "namespace": "talks", "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": name}]}})
}

fn keys() -> Value {
    json!({"authentication": {"friends": {"apiKey": {"selector": {"matchLabels": {"group": "friends"}}},
        "credentials": {"authorizationHeader": {"prefix": "APIKEY"}}}}})
}

/// As lists have them: without a kind.
fn secret(name: &str, key: &str) -> Value {
    use base64::Engine;
    let data = base64::engine::general_purpose::STANDARD.encode(key);
    json!({"type": "Opaque", "data": {"api_key": data}, "metadata": {"name": name, "namespace": "talks",
        "labels": {"group": "friends"}, "annotations": {APPLIED: format!("the whole of it: {key}")}}})
}

struct World {
    fake: Fake,
    watched: Arc<Watched<Index>>,
    _running: [AbortOnDropHandle<()>; 2],
}

impl World {
    /// Policies from the API, or of the folder.
    async fn start(fake: Fake, folder: Option<PathBuf>) -> World {
        let scope = Scope { namespace: Some("talks".into()), labels: String::new() };
        let config = Config {
            policies: folder.map_or_else(|| Documents::Api(scope.clone()), Documents::Folder),
            secrets: Some(Documents::Api(scope)),
            namespace: "talks".into(),
            compat: Compat::default(),
            audiences: Vec::new(),
            authorities: None,
            keep_credentials: false,
            hosts: Vec::new(),
            timeout: Duration::from_secs(10),
            certificate_peers: Vec::new(),
            kubernetes: fake.kubernetes(),
        };
        let setting = Setting::new(&config, Tools::new(), Callbacks::new(Default::default()));
        let (watched, api) = open(&config, setting).unwrap();
        let (watched, api) = (Arc::new(watched), api.unwrap());
        let follow = tokio::spawn(async move { api.follow().await });
        let watch = tokio::spawn(watched.clone().watch(WATCH_PERIOD));
        World { fake, watched, _running: [follow, watch].map(AbortOnDropHandle::new) }
    }

    fn change(&self, change: impl FnOnce(&mut crate::kube::client::fake::World)) {
        change(&mut self.fake.world.lock().unwrap());
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..400 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let problems: Vec<String> = self.watched.problems().iter().map(ToString::to_string).collect();
        panic!("never: {what}; {problems:?}");
    }

    /// Who is let in with a key; the subject, or the status.
    async fn ask(&self, host: &str, key: &str) -> Result<String, u16> {
        let value = format!("APIKEY {key}").parse().unwrap();
        let head = Head {
            method: http::Method::GET,
            path: "/".into(),
            query: None,
            headers: [(http::header::AUTHORIZATION, value)].into_iter().collect(),
            version: http::Version::HTTP_11,
            request_id: "id".into(),
            arrived_unix_seconds: 1_800_000_000,
        };
        let peer = Peer::plaintext(([127, 0, 0, 1], 1).into());
        let destination = "10.0.0.1:8443".parse().unwrap();
        let request = Request { head: &head, peer: &peer, host, destination, now_unix: 1_800_000_000, extra: None };
        let Some(pipeline) = self.watched.current().find(host).cloned() else { return Err(404) };
        match pipeline.run(request).await {
            Ok(allowed) => {
                let known = allowed.identity.claims.to_string();
                assert!(!known.contains(key), "{known}");
                Ok(allowed.identity.subject)
            }
            Err(refusal) => Err(refusal.refused.refusal().status.as_u16()),
        }
    }
}

#[tokio::test]
async fn is_a_key_taken_while_its_secret_is_there() {
    let fake = Fake::start().await;
    {
        let mut world = fake.world.lock().unwrap();
        world.kept.put(POLICIES, policy("keys", "keys.test", keys()));
        world.kept.make(SECRETS);
    }
    let world = World::start(fake, None).await;
    assert!(!world.watched.current().is_known());
    world.until("the first list", async || world.watched.current().is_known()).await;
    assert_eq!(world.ask("keys.test", "one").await, Err(401));
    world.change(|world| world.kept.put(SECRETS, secret("ada", "one")));
    world.until("a new Secret", async || world.ask("keys.test", "one").await == Ok("ada".into())).await;
    world.change(|world| world.kept.put(SECRETS, secret("ada", "two")));
    world.until("another key", async || world.ask("keys.test", "two").await == Ok("ada".into())).await;
    assert_eq!(world.ask("keys.test", "one").await, Err(401));

    // Away: what it told last stays.
    world.change(|world| {
        world.fault = Some(StatusCode::INTERNAL_SERVER_ERROR);
        world.kept.cut();
    });
    world.until("a failure", async || world.watched.outside_failures() > 0).await;
    assert_eq!(world.ask("keys.test", "two").await, Ok("ada".into()));
    world.change(|world| {
        world.fault = None;
        world.kept.remove(SECRETS, "ada");
    });
    world.until("the end of a key", async || world.ask("keys.test", "two").await == Err(401)).await;
    let asked = world.fake.world.lock().unwrap().asked.clone();
    assert!(asked.iter().all(|(method, ..)| method == "GET"), "nothing is written");
    assert!(asked.iter().any(|(_, path, ..)| path.starts_with(&format!("{SECRETS}?fieldSelector=type%21%3Dhelm"))));
}

#[tokio::test]
async fn what_does_a_bad_policy_leave_in_force() {
    let fake = Fake::start().await;
    {
        let mut world = fake.world.lock().unwrap();
        world.kept.put(POLICIES, policy("keys", "keys.test", keys()));
        world.kept.put(POLICIES, policy("open", "open.test", json!({"authentication": {"all": {"anonymous": {}}}})));
        world.kept.put(SECRETS, secret("ada", "one"));
    }
    let world = World::start(fake, None).await;
    world.until("the first list", async || world.ask("keys.test", "one").await.is_ok()).await;
    let before = world.watched.current().find("open.test").cloned().unwrap();
    world.change(|world| world.kept.put(POLICIES, policy("keys", "keys.test", json!({"authentication": {"x": {}}}))));
    world.until("a problem", async || !world.watched.problems().is_empty()).await;
    let words = world.watched.problems()[0].to_string();
    assert!(words.contains("AuthConfig talks/keys") && words.contains("spec.authentication.x"), "{words}");
    assert_eq!(world.ask("keys.test", "one").await, Ok("ada".into()), "the old one stays");
    let after = world.watched.current().find("open.test").cloned().unwrap();
    assert!(Arc::ptr_eq(&before, &after), "who changed nothing keeps what it remembers");

    // The old one, but not the old keys.
    world.change(|world| world.kept.remove(SECRETS, "ada"));
    world.until("a key's end under a bad policy", async || world.ask("keys.test", "one").await == Err(401)).await;
    world.change(|world| world.kept.put(POLICIES, policy("keys", "new.test", keys())));
    world.until("a good one", async || world.watched.problems().is_empty()).await;
    assert_eq!((world.ask("keys.test", "x").await, world.ask("new.test", "x").await), (Err(404), Err(401)));
    world.change(|world| world.kept.remove(POLICIES, "keys"));
    world.until("none", async || world.ask("new.test", "x").await == Err(404)).await;
}

#[tokio::test]
async fn whose_is_a_host_that_two_want() {
    let anonymous = json!({"authentication": {"all": {"anonymous": {}}}});
    let mut younger = policy("a", "shared.test", anonymous);
    younger["metadata"]["creationTimestamp"] = "2026-02-02T00:00:00Z".into();
    let fake = Fake::start().await;
    {
        let mut world = fake.world.lock().unwrap();
        world.kept.put(POLICIES, younger);
        world.kept.put(POLICIES, policy("b", "shared.test", keys()));
        world.kept.make(SECRETS);
    }
    let world = World::start(fake, None).await;
    world.until("the first list", async || world.watched.current().is_known()).await;
    assert_eq!(world.ask("shared.test", "x").await, Err(401));
    assert!(
        world.watched.problems()[0].to_string().contains("AuthConfig talks/b")
            || world.watched.problems()[0].to_string().contains("talks/b already")
    );
}

#[tokio::test]
async fn do_policies_of_a_folder_see_secrets_of_the_api() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), policy("keys", "keys.test", keys()).to_string()).unwrap();
    let fake = Fake::start().await;
    fake.world.lock().unwrap().kept.put(SECRETS, secret("ada", "one"));
    let world = World::start(fake, Some(folder.path().into())).await;
    world.until("a key", async || world.ask("keys.test", "one").await == Ok("ada".into())).await;
    world.change(|world| world.kept.remove(SECRETS, "ada"));
    world.until("its end", async || world.ask("keys.test", "one").await == Err(401)).await;
}
