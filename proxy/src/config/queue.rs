//! `queue`: how many may wait for the worker and for how long, whose turn it is, and what a request costs.
//!
//! What a caller says of itself in a header is believed of those who are trusted, and of nobody else.

use super::quantity::Quantity;
use super::rate_limits::Source;
use super::raw::Problems;
use crate::admission::BANDS_MAX;
use http::HeaderName;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// A flow worth more than this has the worker for itself, which is what priorities are for.
const WEIGHT_MAX: u32 = 1000;

#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub requests_max: usize,
    pub bytes_max: usize,
    pub wait_max: Duration,
    pub cost: Cost,
    pub fairness: Fairness,
}

/// What is counted against what the worker can do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Every request is one.
    Requests,
    /// LLM tokens: those of the prompt, estimated, and those the answer may have; against the worker's KV cache.
    Tokens,
}

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Fairness {
    /// Whoever has the same one, shares one turn.
    pub key: Source,
    /// Turns, by the value of the key; everybody else has one.
    pub weights: BTreeMap<String, u32>,
    /// By the objective a trusted caller names.
    pub priorities: BTreeMap<String, Priority>,
    /// Whose headers are believed: SPIFFE ids of peers, `ISSUER/SUBJECT` of credentials, `*` for everybody.
    pub trusted: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// Higher goes first; requests without an objective have 0.
    pub priority: i32,
    /// In the place of `queue.wait_max`.
    pub wait_max: Option<Duration>,
}

impl Fairness {
    /// All priorities there are, the highest first; the bands of the queue.
    pub fn bands(&self) -> Vec<i32> {
        let named = self.priorities.values().map(|it| it.priority);
        let all: BTreeSet<i32> = named.chain([0]).collect();
        all.into_iter().rev().collect()
    }
}

impl Queue {
    pub(super) fn dump(&self) -> Value {
        let fairness = &self.fairness;
        let priority = |it: &Priority| json!({"priority": it.priority, "wait_max_seconds": it.wait_max.map(|it| it.as_secs_f64())});
        json!({
            "requests_max": self.requests_max,
            "bytes_max": self.bytes_max,
            "wait_max_seconds": self.wait_max.as_secs_f64(),
            "cost": if self.cost == Cost::Tokens { "tokens" } else { "requests" },
            "fairness": {
                "key": match &fairness.key {
                    Source::Claim(path) => json!({"claim": path}),
                    Source::Header(name) => json!({"header": name.as_str()}),
                    _ => json!("identity"),
                },
                "weights": fairness.weights,
                "priorities": fairness.priorities.iter().map(|(name, it)| (name.clone(), priority(it))).collect::<Value>(),
                "trusted": fairness.trusted,
            },
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQueue {
    requests_max: Option<usize>,
    bytes_max: Option<Quantity>,
    wait_max: Option<Quantity>,
    cost: Option<String>,
    #[serde(default)]
    fairness: RawFairness,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFairness {
    key: Option<RawKey>,
    #[serde(default)]
    weights: BTreeMap<String, u32>,
    #[serde(default)]
    priorities: BTreeMap<String, RawPriority>,
    #[serde(default)]
    trusted: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawKey {
    Word(String),
    Of(RawOf),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOf {
    claim: Option<String>,
    header: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawPriority {
    Number(i32),
    Of(RawRank),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRank {
    priority: i32,
    wait_max: Option<Quantity>,
}

impl RawQueue {
    pub(super) fn validate(self, p: &mut Problems) -> Queue {
        let cost = match self.cost.as_deref() {
            None | Some("requests") => Cost::Requests,
            Some("tokens") => Cost::Tokens,
            Some(other) => {
                p.add("queue.cost", format!("`{other}` is none of requests, tokens"));
                Cost::Requests
            }
        };
        Queue {
            requests_max: p.count("queue.requests_max", self.requests_max, 1000),
            bytes_max: p.size("queue.bytes_max", &self.bytes_max, 64 * MIB),
            // Longer than any cold start of a large model, shorter than most callers' patience.
            wait_max: p.duration("queue.wait_max", &self.wait_max, Duration::from_secs(300)),
            cost,
            fairness: self.fairness.validate(p),
        }
    }
}

impl RawFairness {
    fn validate(self, p: &mut Problems) -> Fairness {
        let key = self.key.map_or(Source::Identity, |key| key.validate(p));
        for (name, weight) in &self.weights {
            if !(1..=WEIGHT_MAX).contains(weight) {
                p.add(&format!("queue.fairness.weights.{name}"), format!("must be from 1 to {WEIGHT_MAX}"));
            }
        }
        for (at, who) in self.trusted.iter().enumerate() {
            // A bare subject would be whoever of any issuer has that name.
            if who != "*" && !who.contains('/') {
                let words = "must be a SPIFFE id, ISSUER/SUBJECT of a credential, or `*` for everybody";
                p.add(&format!("queue.fairness.trusted[{at}]"), words);
            }
        }
        let mut priorities = BTreeMap::new();
        for (name, raw) in self.priorities {
            let path = format!("queue.fairness.priorities.{name}.wait_max");
            let (priority, wait_max) = match raw {
                RawPriority::Number(priority) => (priority, None),
                RawPriority::Of(RawRank { priority, wait_max }) => (priority, wait_max),
            };
            let given = wait_max.is_some();
            let wait_max = p.duration(&path, &wait_max, Duration::from_secs(300));
            priorities.insert(name, Priority { priority, wait_max: given.then_some(wait_max) });
        }
        let fairness = Fairness { key, weights: self.weights, priorities, trusted: self.trusted };
        if fairness.bands().len() > BANDS_MAX {
            let words =
                format!("are of {} different numbers, 0 among them; {BANDS_MAX} at most", fairness.bands().len());
            p.add("queue.fairness.priorities", words);
        }
        if fairness.trusted.is_empty() && (!fairness.priorities.is_empty() || matches!(fairness.key, Source::Header(_)))
        {
            p.add("queue.fairness.trusted", "must name somebody, or no header is ever believed; `*` is everybody");
        }
        fairness
    }
}

impl RawKey {
    fn validate(self, p: &mut Problems) -> Source {
        const PATH: &str = "queue.fairness.key";
        match self {
            RawKey::Word(word) if word == "identity" => Source::Identity,
            RawKey::Of(RawOf { claim: Some(path), header: None }) => Source::Claim(path),
            RawKey::Of(RawOf { claim: None, header: Some(name) }) => match HeaderName::try_from(&name) {
                Ok(name) => Source::Header(name),
                Err(_) => {
                    p.add(PATH, format!("`{name}` is no name of a header"));
                    Source::Identity
                }
            },
            _ => {
                p.add(PATH, "is `identity`, `{claim: a.b}` or `{header: x-tenant}`");
                Source::Identity
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> (Queue, String) {
        let raw: RawQueue = serde_yaml_ng::from_str(yaml).unwrap();
        let mut problems = Problems::default();
        (raw.validate(&mut problems), problems.words())
    }

    #[test]
    fn what_may_be_said_of_the_queue() {
        let yaml = "
            cost: tokens
            fairness:
              key: {claim: org.id}
              weights: {gold: 4}
              priorities: {interactive: 10, batch: {priority: -10, wait_max: 1h}}
              trusted: [spiffe://outrider.local/ns/edge/sa/gateway]";
        let (queue, problems) = parse(yaml);
        assert_eq!(problems, "");
        assert_eq!((queue.cost, &queue.fairness.key), (Cost::Tokens, &Source::Claim("org.id".into())));
        assert_eq!(queue.fairness.bands(), [10, 0, -10]);
        assert_eq!(queue.fairness.priorities["batch"].wait_max, Some(Duration::from_secs(3600)));
        assert_eq!(queue.dump()["fairness"]["priorities"]["interactive"]["priority"], 10);
        let (queue, problems) = parse("{}");
        assert_eq!((problems.as_str(), queue.requests_max, queue.fairness.bands()), ("", 1000, vec![0]));
    }

    #[test]
    fn what_of_it_contradicts_itself() {
        for (yaml, words) in [
            ("cost: money", "queue.cost: `money` is none of requests, tokens"),
            ("fairness: {key: colour}", "queue.fairness.key: is `identity`"),
            ("fairness: {key: {header: 'a b'}, trusted: ['*']}", "`a b` is no name of a header"),
            ("fairness: {key: {header: x-tenant}}", "queue.fairness.trusted: must name somebody"),
            ("fairness: {priorities: {a: 1}}", "queue.fairness.trusted: must name somebody"),
            ("fairness: {trusted: [ada]}", "queue.fairness.trusted[0]: must be a SPIFFE id"),
            ("fairness: {weights: {ada: 0}}", "queue.fairness.weights.ada: must be from 1 to 1000"),
            ("fairness: {priorities: {a: {priority: 1, wait_max: 0s}}, trusted: ['*']}", "a.wait_max: must be more"),
            (
                "fairness: {priorities: {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8}, trusted: ['*']}",
                "are of 9 different numbers",
            ),
        ] {
            let problems = parse(yaml).1;
            assert!(problems.contains(words), "{yaml}: {problems}");
        }
    }
}
