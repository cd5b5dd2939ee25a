//! Order, priorities and failures, over evaluators that say what a test wants.

use super::evaluator::{Evaluator, Kept};
use super::*;
use crate::auth::Reason;
use crate::auth::credential::Location as Place_;
use crate::auth::methods::{Known, Method, Presented};
use crate::auth::rules::{Denied, Rule};
use crate::message::Head;
use crate::tls::identity::Peer;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use serde_json::json;
use std::sync::Mutex;

const NOW: u64 = 1_800_000_000;

/// Who was asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Yes,
    No,
    Fault,
    /// Nothing, ever.
    Never,
}

struct Scripted {
    name: String,
    says: Says,
    remote: bool,
    strangers: bool,
    asked: Asked,
}

impl Method for Scripted {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        self.asked.lock().unwrap().push(self.name.clone());
        let known = match self.says {
            Says::Yes => Ok(Some(Identity {
                subject: self.name.clone(),
                issuer: String::new(),
                method: "scripted",
                claims: Arc::new(json!({"name": self.name})),
                spiffe: None,
                expires_at_unix: Some(presented.request.now_unix + 100),
            })),
            Says::No => Err(Reason::Signature),
            Says::Fault => Err(Reason::Unavailable),
            Says::Never => return Box::pin(std::future::pending()),
        };
        Box::pin(std::future::ready(known))
    }

    fn takes_strangers(&self) -> bool {
        self.strangers
    }

    fn is_remote(&self) -> bool {
        self.remote
    }
}

impl Rule for Scripted {
    fn judge<'a>(&'a self, _: &'a Value) -> BoxFuture<'a, Result<Value, Denied>> {
        self.asked.lock().unwrap().push(self.name.clone());
        let words = self.name.clone();
        match self.says {
            Says::Yes => Box::pin(std::future::ready(Ok(json!(words)))),
            Says::No => Box::pin(std::future::ready(Err(Denied { words, fault: false }))),
            Says::Fault => Box::pin(std::future::ready(Err(Denied { words, fault: true }))),
            Says::Never => Box::pin(std::future::pending()),
        }
    }
}

fn scripted(name: &str, says: Says, asked: &Asked) -> Scripted {
    Scripted { name: name.into(), says, remote: false, strangers: false, asked: asked.clone() }
}

fn way(priority: i64, it: Scripted) -> Evaluator<Authentication, Identity> {
    let name = it.name.clone();
    let inner = Authentication::new(Box::new(it), Place_::Bearer);
    Evaluator { priority, ..Evaluator::new(&name, "scripted", inner) }
}

fn rule(priority: i64, it: Scripted) -> Evaluator<Box<dyn Rule>> {
    let name = it.name.clone();
    Evaluator { priority, ..Evaluator::new(&name, "scripted", Box::new(it) as Box<dyn Rule>) }
}

fn head() -> Head {
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer x"));
    Head {
        method: http::Method::POST,
        path: "/v1/models".into(),
        query: Some("a=b".into()),
        headers,
        version: http::Version::HTTP_2,
        request_id: "id".into(),
        arrived_unix_seconds: NOW,
    }
}

/// Nothing here waits, but for what never answers: then there is no outcome.
fn run(pipeline: &Pipeline) -> Option<Result<Allowed, Box<Refusal>>> {
    let (head, peer) = (head(), Peer::plaintext(([127, 0, 0, 1], 1).into()));
    let destination = "10.0.0.1:8443".parse().unwrap();
    let request = Request { head: &head, peer: &peer, host: "model.test", destination, now_unix: NOW, extra: None };
    pipeline.run(request).now_or_never()
}

fn outcome(pipeline: &Pipeline) -> String {
    match run(pipeline) {
        None => "waits".into(),
        Some(Ok(allowed)) => allowed.identity.subject,
        Some(Err(refusal)) => format!("{} {}", refusal.refused.status.as_u16(), refusal.refused.message),
    }
}

fn of(ways: Vec<Evaluator<Authentication, Identity>>, rules: Vec<Evaluator<Box<dyn Rule>>>) -> Pipeline {
    Pipeline {
        name: "test/policy".into(),
        authentication: Phase::new(ways),
        authorization: Phase::new(rules),
        explains: true,
        ..Pipeline::default()
    }
}

#[test]
fn who_is_asked_first_who_a_caller_is() {
    let asked = Asked::default();
    let remote = |name: &str, says| Scripted { remote: true, ..scripted(name, says, &asked) };
    let local = |name: &str, says| scripted(name, says, &asked);
    let strangers = |name: &str| Scripted { strangers: true, ..scripted(name, Says::Yes, &asked) };
    for (ways, expected, order) in [
        // In a group, whoever answers at once comes before whoever asks others.
        (vec![way(0, remote("far", Says::Never)), way(0, local("near", Says::Yes))], "near", "near"),
        (vec![way(0, remote("far", Says::Yes)), way(0, local("near", Says::No))], "far", "near far"),
        // One that never answers does not hold up one that does.
        (vec![way(0, remote("dead", Says::Never)), way(0, remote("far", Says::Yes))], "far", "dead far"),
        (vec![way(1, local("late", Says::Yes)), way(-1, local("early", Says::Yes))], "early", "early"),
        (vec![way(1, local("late", Says::Yes)), way(-1, local("early", Says::No))], "late", "early late"),
        (vec![way(0, remote("dead", Says::Never)), way(1, local("late", Says::Yes))], "waits", "dead"),
        // Whoever was refused is no stranger, in whatever order.
        (vec![way(0, strangers("any")), way(0, local("near", Says::No))], "401 the credential is not accepted", "near"),
        (vec![way(0, strangers("any")), way(0, local("near", Says::Yes))], "near", "near"),
        (vec![way(0, local("near", Says::No)), way(1, strangers("any"))], "401 the credential is not accepted", "near"),
        (vec![way(0, strangers("any"))], "any", "any"),
        (
            vec![way(0, remote("far", Says::Fault)), way(1, local("near", Says::No))],
            "503 the caller could not be checked; try again",
            "far near",
        ),
        (vec![], "401 credential not found", ""),
    ] {
        asked.lock().unwrap().clear();
        assert_eq!(outcome(&of(ways, Vec::new())), expected, "{order}");
        assert_eq!(asked.lock().unwrap().join(" "), order, "{expected}");
    }
}

#[test]
fn what_leniency_is_there_where_asked_for() {
    let asked = Asked::default();
    let strangers = || Scripted { strangers: true, ..scripted("any", Says::Yes, &asked) };
    let known = || way(0, scripted("ada", Says::Yes, &asked));
    let fault = || -> Option<Test> { Some(Box::new(|_| Err("cannot be decided".into()))) };
    let forgiving = Leniency { anonymous_forgives: true, ..Leniency::default() };
    let down = Leniency { provider_down_401: true, ..Leniency::default() };
    let skip = Leniency { when_errors_skip: true, ..Leniency::default() };
    let allow = Leniency { toplevel_when_errors_allow: true, ..Leniency::default() };
    let refused = || vec![way(0, scripted("near", Says::No, &asked)), way(1, strangers())];
    let unreachable = || vec![way(0, scripted("far", Says::Fault, &asked))];
    let conditional = || vec![Evaluator { when: fault(), ..rule(0, scripted("rule", Says::Yes, &asked)) }];
    let toplevel = || Pipeline { when: fault(), ..of(vec![known()], Vec::new()) };
    for (pipeline, lenient, strict, loose) in [
        (of(refused(), Vec::new()), forgiving, "401 the credential is not accepted", "any"),
        (
            of(unreachable(), Vec::new()),
            down,
            "503 the caller could not be checked; try again",
            "401 the credential is not accepted",
        ),
        (of(vec![known()], conditional()), skip, "403 Unauthorized", "ada"),
        (toplevel(), allow, "403 ", "anonymous"),
    ] {
        assert_eq!(outcome(&pipeline), strict);
        assert_eq!(outcome(&Pipeline { leniency: lenient, ..pipeline }), loose);
    }
    // A way in whose condition cannot be decided stays shut under every setting.
    let shut = || vec![Evaluator { when: fault(), ..known() }];
    for leniency in [Leniency::default(), skip, allow] {
        assert_eq!(outcome(&Pipeline { leniency, ..of(shut(), Vec::new()) }), "401 credential not found");
    }
}

#[test]
fn what_is_a_refused_caller_told() {
    let asked = Asked::default();
    let mut pipeline = of(vec![way(0, scripted("users", Says::No, &asked))], Vec::new());
    let refusal = run(&pipeline).unwrap().unwrap_err().refused.refusal();
    assert_eq!(refusal.headers["www-authenticate"], "Bearer realm=\"users\"");
    assert_eq!(refusal.headers[REASON], "the credential is not accepted");
    pipeline.unauthenticated = DenyWith {
        code: http::StatusCode::from_u16(302).ok(),
        message: Some(Box::new(|_| Ok(json!("go there")))),
        headers: vec![(
            http::header::LOCATION,
            Box::new(|root| Ok(json!(format!("https://login{}", root["request"]["path"].as_str().unwrap())))),
        )],
        body: None,
    };
    let refusal = run(&pipeline).unwrap().unwrap_err();
    assert_eq!(refusal.audit.outcome, "unauthenticated");
    let refusal = refusal.refused.refusal();
    assert_eq!(refusal.status.as_u16(), 302);
    assert_eq!(refusal.headers["location"], "https://login/v1/models?a=b");
    assert!(!refusal.headers.contains_key("www-authenticate"), "denyWith's headers are in the challenges' place");
    let denied =
        of(vec![way(0, scripted("ada", Says::Yes, &asked))], vec![rule(0, scripted("rbac", Says::No, &asked))]);
    let refusal = run(&denied).unwrap().unwrap_err();
    assert_eq!((refusal.refused.status.as_u16(), refusal.refused.message.as_str()), (403, "rbac"));
    assert_eq!(refusal.audit.decided_by.as_deref(), Some("rbac"));
    assert_eq!(refusal.into_error().verdict().status, 403);
}

#[test]
fn is_a_verdict_kept_as_long_as_it_may_be() {
    let asked = Asked::default();
    let key = |name: &'static str| -> Make { Box::new(move |root| Ok(root["request"][name].clone())) };
    let kept = |name, ttl| Some(Kept::new(key(name), ttl));
    let users = Evaluator { cache: Some(Kept::new(key("path"), 1000)), ..way(0, scripted("users", Says::Yes, &asked)) };
    let rbac = Evaluator { cache: kept("path", 60), ..rule(0, scripted("rbac", Says::Yes, &asked)) };
    let none = Evaluator { cache: kept("nothing", 60), ..rule(1, scripted("none", Says::Yes, &asked)) };
    let pipeline = of(vec![users], vec![rbac, none]);
    let first = run(&pipeline).unwrap().unwrap();
    assert!(first.audit.cached.is_empty());
    let second = run(&pipeline).unwrap().unwrap();
    assert_eq!(second.audit.cached.iter().map(|name| &**name).collect::<Vec<_>>(), ["users", "rbac"]);
    assert_eq!(asked.lock().unwrap().join(" "), "users rbac none none");
    // Not longer than the setting, nor than the credential.
    let store: Kept<Value> = Kept::new(key("path"), 60);
    let k = store.key(&json!({"request": {"path": "k"}})).unwrap();
    store.put(&k, &json!(1), NOW, None);
    assert_eq!((store.get(&k, NOW + 59), store.get(&k, NOW + 60)), (Some(json!(1)), None));
    store.put(&k, &json!(1), NOW, Some(NOW + 10));
    assert_eq!((store.get(&k, NOW + 9), store.get(&k, NOW + 10)), (Some(json!(1)), None));
    // Nor after an operator had it forgotten; what was asked before that is not kept after it.
    pipeline.forget();
    assert!(run(&pipeline).unwrap().unwrap().audit.cached.is_empty());
    store.forget();
    store.put(&k, &json!(1), NOW, None);
    let k = store.key(&json!({"request": {"path": "k"}})).unwrap();
    assert_eq!(store.get(&k, NOW), None);
    store.put(&k, &json!(2), NOW, None);
    assert_eq!(store.get(&k, NOW), Some(json!(2)));
}

#[test]
fn what_do_rules_see_of_a_request() {
    let (mut head, peer) = (head(), Peer::plaintext(([127, 0, 0, 1], 7).into()));
    head.path = "/pkg.Service/Method".into();
    head.headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    head.headers.append("x-many", HeaderValue::from_static("a"));
    head.headers.append("x-many", HeaderValue::from_static("b"));
    let extra = json!({"request": {"context_extensions": {"a": "b"}}, "source": {"address": "10.1.1.1"}});
    let destination = "10.0.0.1:8443".parse().unwrap();
    let request =
        Request { head: &head, peer: &peer, host: "model.test", destination, now_unix: NOW, extra: Some(&extra) };
    let document = Document::new(request, true);
    let root = document.root();
    for (pointer, expected) in [
        ("/request/method", json!("POST")),
        ("/request/path", json!("/pkg.Service/Method?a=b")),
        ("/request/url_path", json!("/pkg.Service/Method")),
        ("/request/query", json!("a=b")),
        ("/request/protocol", json!("HTTP/2")),
        ("/request/time/seconds", json!(NOW)),
        ("/request/headers/x-many", json!("a,b")),
        ("/request/grpc", json!({"service": "pkg.Service", "method": "Method"})),
        ("/request/context_extensions/a", json!("b")),
        ("/source/address", json!("10.1.1.1")),
        ("/source/port", json!(7)),
        ("/destination/port", json!(8443)),
        ("/context/request/http/method", json!("POST")),
        ("/context/source/address/Address/SocketAddress/address", json!("10.1.1.1")),
        ("/auth/metadata", json!({})),
    ] {
        assert_eq!(root.pointer(pointer), Some(&expected), "{pointer}");
    }
}

#[test]
fn what_do_rules_not_see_where_nothing_is_said() {
    let (mut head, peer) = (head(), Peer::plaintext(([127, 0, 0, 1], 7).into()));
    (head.path, head.query) = ("/a%20b/%2561".into(), Some(String::new()));
    let destination = "10.0.0.1:8443".parse().unwrap();
    let request = Request { head: &head, peer: &peer, host: "model.test", destination, now_unix: NOW, extra: None };
    let document = Document::new(request, true);
    let root = document.root();
    for (pointer, expected) in [
        ("/request/path", Some(json!("/a%20b/%2561?"))),
        ("/request/url_path", Some(json!("/a b/%61"))),
        ("/request/size", Some(json!(-1))),
        ("/request/query", None),
        ("/request/referer", None),
        ("/request/user_agent", None),
        ("/source/principal", None),
        ("/auth/identity", None),
        ("/context/request/http/query", None),
        ("/context/source/principal", None),
        ("/context/context_extensions", None),
        ("/context/metadata_context", None),
    ] {
        assert_eq!(root.pointer(pointer), expected.as_ref(), "{pointer}");
    }
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![4 => Just(Says::Yes), 1 => Just(Says::No), 1 => Just(Says::Fault), 1 => Just(Says::Never)]
}

proptest! {
    /// Whatever the priorities and the order: all must agree, or the request does not pass; and nothing of a later group
    /// is asked when an earlier one did not agree.
    #[test]
    fn does_a_request_pass_only_if_all_rules_agree(rules in proptest::collection::vec((0..4i64, says()), 0..8)) {
        let asked = Asked::default();
        let scripts: Vec<_> = rules.iter().enumerate().map(|(at, (priority, says))| {
            rule(*priority, scripted(&at.to_string(), *says, &asked))
        }).collect();
        let pipeline = of(vec![way(0, scripted("ada", Says::Yes, &Asked::default()))], scripts);
        let passes = matches!(run(&pipeline), Some(Ok(_)));
        prop_assert_eq!(passes, rules.iter().all(|(_, says)| *says == Says::Yes));
        let stop = rules.iter().filter(|(_, says)| *says != Says::Yes).map(|(priority, _)| *priority).min();
        let priorities: Vec<i64> =
            asked.lock().unwrap().iter().map(|name| rules[name.parse::<usize>().unwrap()].0).collect();
        prop_assert!(priorities.is_sorted());
        prop_assert!(priorities.iter().all(|priority| stop.is_none_or(|stop| *priority <= stop)));
    }

    /// The first success decides, in the order of groups; a refusal is never a success.
    #[test]
    fn is_a_caller_known_only_by_one_who_knows_it(ways in proptest::collection::vec((0..4i64, says(), any::<bool>()), 0..8)) {
        let asked = Asked::default();
        let scripts: Vec<_> = ways.iter().enumerate().map(|(at, (priority, says, remote))| {
            way(*priority, Scripted { remote: *remote, ..scripted(&at.to_string(), *says, &asked) })
        }).collect();
        match run(&of(scripts, Vec::new())) {
            Some(Ok(allowed)) => {
                let (priority, says, _) = ways[allowed.identity.subject.parse::<usize>().unwrap()];
                prop_assert_eq!(says, Says::Yes);
                prop_assert!(ways.iter().all(|(other, says, _)| *says != Says::Yes || *other >= priority));
            }
            Some(Err(_)) => prop_assert!(ways.iter().all(|(_, says, _)| !matches!(says, Says::Yes | Says::Never))),
            None => prop_assert!(ways.iter().any(|(_, says, _)| *says == Says::Never)),
        }
    }
}
