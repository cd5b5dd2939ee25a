//! Limits as callers meet them.

use super::*;
use http::{HeaderMap, Method};
use proptest::prelude::*;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

fn rates(yaml: &str) -> Rates {
    let text = format!(
        "{{tls: {{mode: disable}}, auth: {{methods: [{{anonymous: {{}}}}]}}, worker: {{socket: w, models: [m]}}, \
         rate_limits: {{limits: [{yaml}]}}}}"
    );
    let path = std::path::Path::new("test.yaml");
    Rates::new(&crate::config::Config::parse(&text, path, path).unwrap().rate_limits)
}

struct Asker {
    subject: &'static str,
    claims: Value,
    headers: HeaderMap,
    path: &'static str,
}

fn asker(subject: &'static str) -> Asker {
    Asker { subject, claims: json!({}), headers: HeaderMap::new(), path: "/v1/chat/completions" }
}

impl Asker {
    fn begin(&self, rates: &Rates, now: Duration) -> Result<Tab, Quota> {
        let (issuer, method) = ("https://issuer", &Method::POST);
        let Asker { subject, claims, headers, path } = self;
        rates.begin(&Caller { issuer, subject, claims, headers, method, path }, now)
    }

    /// How many requests pass at one moment.
    fn passes(&self, rates: &Rates, now: Duration) -> usize {
        (0..1000).take_while(|_| self.begin(rates, now).is_ok()).count()
    }
}

fn chat(estimate: u64) -> Work<'static> {
    Work { model: Some("m"), prompt_estimate: Some(estimate) }
}

#[test]
fn whose_budget_is_it() {
    let all = rates("{name: a, limit: 3, window: 1m, key: global}");
    assert_eq!(asker("ann").passes(&all, SECOND) + asker("bob").passes(&all, SECOND), 3);
    let each = rates("{name: a, limit: 3, window: 1m, key: identity}");
    assert_eq!(asker("ann").passes(&each, SECOND) + asker("bob").passes(&each, SECOND), 6);
    let plan = rates("{name: a, limit: 3, window: 1m, key: {claim: plan.name}, overrides: {gold: 5}}");
    let with = |plan: Value| Asker { claims: json!({"plan": plan}), ..asker("ann") };
    assert_eq!(with(json!({"name": "gold"})).passes(&plan, SECOND), 5);
    assert_eq!(with(json!({"name": "tin"})).passes(&plan, SECOND), 3);
    // Who shows none of it has one budget together.
    assert_eq!(with(json!(7)).passes(&plan, SECOND) + asker("bob").passes(&plan, SECOND), 3);
    let mut loud = asker("ann");
    let header = rates("{name: a, limit: 3, window: 1m, key: {header: x-user}}");
    assert_eq!(loud.passes(&header, SECOND), 3);
    loud.headers.append("x-user", "a".parse().unwrap());
    assert_eq!(loud.passes(&header, SECOND), 3);
    loud.headers.append("x-user", "b".parse().unwrap());
    assert_eq!(loud.passes(&header, SECOND), 3);
    let by_plan =
        rates("{name: a, limit: 1, window: 1m, key: identity, overrides: {gold: 4}, overrides_by: {claim: plan}}");
    assert_eq!(with(json!("gold")).passes(&by_plan, SECOND), 4);
    assert_eq!(asker("bob").passes(&by_plan, SECOND), 1);
}

#[test]
fn which_requests_are_meant() {
    let some = rates("{name: a, limit: 1, window: 1m, key: identity, when: {path_prefix: /v1/chat, method: POST}}");
    for (path, meant) in [
        ("/v1/chat", true),
        ("/v1/chat/completions", true),
        ("/v1/%63hat/completions", true),
        ("/v1/chatter", false),
        ("/v2/chat", false),
    ] {
        let passes = Asker { path, ..asker(path) }.passes(&some, SECOND);
        assert_eq!(passes == 1, meant, "{path}: {passes}");
    }
    let model = rates("{name: a, limit: 1, window: 1m, key: identity, when: {model: m}}");
    let read = |model_name| {
        let mut tab = asker("ann").begin(&model, SECOND).unwrap();
        model.read(&mut tab, Work { model: Some(model_name), prompt_estimate: None }, SECOND).is_ok()
    };
    assert!(read("n") && read("m") && read("n"));
    assert!(!read("m"));
}

#[test]
fn does_a_refused_request_cost_anything() {
    let two =
        rates("{name: wide, limit: 10, window: 1m, key: global}, {name: narrow, limit: 1, window: 1m, key: identity}");
    assert_eq!(asker("ann").passes(&two, SECOND), 1);
    for _ in 0..20 {
        let quota = asker("ann").begin(&two, SECOND).unwrap_err();
        assert_eq!((&*quota.name, quota.remaining, quota.retry_after), ("narrow", 0, 60 * SECOND));
    }
    let tab = asker("bob").begin(&two, SECOND).unwrap();
    let standing: Vec<_> = two.standing(&tab, SECOND).iter().map(|quota| (quota.limit, quota.remaining)).collect();
    assert_eq!(standing, [(10, 8), (1, 0)]);
}

#[test]
fn how_are_tokens_charged() {
    let tokens = rates("{name: t, unit: total_tokens, limit: 100, window: 100s, key: identity}");
    let ann = asker("ann");
    let mut tab = ann.begin(&tokens, SECOND).unwrap();
    assert!(!tab.is_running());
    tokens.read(&mut tab, chat(40), SECOND).unwrap();
    let left = |tab: &Tab| tokens.standing(tab, SECOND)[0].remaining;
    assert!(tab.is_running());
    assert_eq!(left(&tab), 60);
    // The prompt was counted, and then the answer came piece by piece.
    for (prompt, completion, rest) in [(Some(10), 0, 90), (Some(10), 1, 89), (Some(10), 50, 40), (Some(10), 95, 0)] {
        assert!(tokens.flow(&mut tab, Flow { prompt, completion }, SECOND).is_none());
        assert_eq!(left(&tab), rest);
    }
    let charged = tokens.settle(&mut tab, Flow { prompt: Some(10), completion: 95 }, SECOND);
    assert_eq!(charged, [(0, 105)]);
    // Now it is refused, until the debt of five is paid and one more is there.
    let mut next = ann.begin(&tokens, SECOND).unwrap();
    let quota = tokens.read(&mut next, chat(1), SECOND).unwrap_err();
    assert_eq!((quota.tokens, quota.retry_after), (true, 6 * SECOND));
    let mut next = ann.begin(&tokens, SECOND).unwrap();
    // What needs no tokens goes on.
    assert!(tokens.read(&mut next, Work::default(), SECOND).is_ok());
    let mut next = ann.begin(&tokens, 7 * SECOND).unwrap();
    assert!(tokens.read(&mut next, chat(1), 7 * SECOND).is_ok());
}

#[test]
fn what_becomes_of_an_estimate() {
    let tokens = rates("{name: t, unit: prompt_tokens, limit: 100, window: 100s, key: identity}");
    for (flow, charged) in [
        (Flow { prompt: None, completion: 0 }, 0),
        (Flow { prompt: None, completion: 7 }, 30),
        (Flow { prompt: Some(90), completion: 7 }, 90),
    ] {
        let name = Box::leak(format!("{flow:?}").into_boxed_str());
        let mut tab = asker(name).begin(&tokens, SECOND).unwrap();
        tokens.read(&mut tab, chat(30), SECOND).unwrap();
        assert_eq!(tokens.settle(&mut tab, flow, SECOND)[0].1, charged);
        let mut tab = asker(name).begin(&tokens, SECOND).unwrap();
        tokens.read(&mut tab, chat(0), SECOND).unwrap();
        assert_eq!(tokens.standing(&tab, SECOND)[0].remaining, 100 - charged);
    }
}

#[test]
fn when_is_a_stream_cut() {
    let tokens = rates("{name: t, unit: completion_tokens, limit: 5, window: 1h, key: identity, cut: true}");
    let mut tab = asker("ann").begin(&tokens, SECOND).unwrap();
    tokens.read(&mut tab, chat(1000), SECOND).unwrap();
    let cut = |tab: &mut Tab, completion| tokens.flow(tab, Flow { prompt: Some(900), completion }, SECOND);
    assert!(cut(&mut tab, 4).is_none());
    assert_eq!(cut(&mut tab, 5).map(|quota| quota.name.to_string()).as_deref(), Some("t"));
}

proptest! {
    /// Whatever comes, what was settled is what was charged: nothing is lost and nothing invented.
    #[test]
    fn do_charges_and_debts_agree(requests in prop::collection::vec((0u64..50, prop::option::of(0u64..50), 0u64..50), 1..20)) {
        let tokens = rates("{name: t, unit: total_tokens, limit: 1000000, window: 1h, key: global}");
        let mut sum = 0;
        for (estimate, prompt, completion) in requests {
            let mut tab = asker("ann").begin(&tokens, SECOND).unwrap();
            tokens.read(&mut tab, chat(estimate), SECOND).unwrap();
            tokens.flow(&mut tab, Flow { prompt: None, completion: completion / 2 }, SECOND);
            sum += tokens.settle(&mut tab, Flow { prompt, completion }, SECOND)[0].1;
        }
        let mut tab = asker("bob").begin(&tokens, SECOND).unwrap();
        tokens.read(&mut tab, chat(0), SECOND).unwrap();
        prop_assert_eq!(tokens.standing(&tab, SECOND)[0].remaining, 1_000_000 - sum);
    }
}
