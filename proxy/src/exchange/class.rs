//! Whose turn a request takes and what it costs: its ticket for the queue.
//!
//! The inference gateway's headers (`x-gateway-inference-fairness-id`, `-objective`, and llm-d's later spelling of both)
//! are believed of trusted callers, and of authorizers that set them. From everybody else they are taken away as soon as
//! the caller is known, so that no server behind believes them either.

use super::floor::{Floor, caller};
use super::{Exchange, Routed};
use crate::admission::Ticket;
use crate::admission::rate;
use crate::admission::{BANDS_MAX, Class};
use crate::auth::methods::anonymous;
use crate::auth::request::{self, Edit};
use crate::auth::{Authorized, Caller};
use crate::config::rate_limits::Source;
use crate::config::{Cost, Queue};
use crate::dialects::Ask;
use crate::forward::BYTES_PER_TOKEN;
use crate::message::Head;
use crate::policy::RequestPrincipal;
use crate::tls::identity::SpiffeId;
use http::HeaderName;
use outrider_protos::worker::v1::GenerateRequest;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

static FAIRNESS_IDS: [HeaderName; 2] = [
    HeaderName::from_static("x-gateway-inference-fairness-id"),
    HeaderName::from_static("x-llm-d-inference-fairness-id"),
];
static OBJECTIVES: [HeaderName; 2] =
    [HeaderName::from_static("x-gateway-inference-objective"), HeaderName::from_static("x-llm-d-inference-objective")];
/// Tokens of an answer whose length its caller does not bound: longer than most, and far from what a context leaves room
/// for, by which a few requests would have the worker for themselves.
const ANSWER_ASSUMED: u64 = 512;

/// Issuer and subject.
type Who<'a> = (&'a str, &'a str);

/// Knows what the configuration says of turns and costs.
pub struct Classes {
    cost: Cost,
    key: Source,
    weights: HashMap<String, u32>,
    /// By objective.
    priorities: HashMap<String, Rank>,
    usual: Rank,
    trusted: Vec<String>,
    /// Flows are hashed with a secret: nobody can choose a name that meets another.
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Rank {
    band: u8,
    wait_max: Option<Duration>,
}

impl Classes {
    pub fn new(config: &Queue) -> Classes {
        let fairness = &config.fairness;
        let bands = fairness.bands();
        let band = |priority| bands.iter().position(|it| *it == priority).unwrap_or(0).min(BANDS_MAX - 1) as u8;
        let rank = |priority, wait_max| Rank { band: band(priority), wait_max };
        let priorities = fairness.priorities.iter().map(|(name, it)| (name.clone(), rank(it.priority, it.wait_max)));
        Classes {
            cost: config.cost,
            key: fairness.key.clone(),
            weights: fairness.weights.clone().into_iter().collect(),
            priorities: priorities.collect(),
            usual: rank(0, None),
            trusted: fairness.trusted.clone(),
            hasher: RandomState::new(),
        }
    }

    /// Whether what is counted are tokens.
    pub fn counts_tokens(&self) -> bool {
        self.cost == Cost::Tokens
    }

    /// Takes from the head what only a trusted caller may say, unless this is one; gives the edits that did.
    fn strip(&self, head: &mut Head, who: Option<Who<'_>>, peer: Option<&SpiffeId>) -> Vec<Edit> {
        let own = if let Source::Header(name) = &self.key { Some(name) } else { None };
        let names = FAIRNESS_IDS.iter().chain(&OBJECTIVES).chain(own);
        let strips: Vec<Edit> = names.filter(|it| head.headers.contains_key(*it)).cloned().map(Edit::Strip).collect();
        if strips.is_empty() || self.trusts(who, peer) {
            return Vec::new();
        }
        request::apply(&strips, head);
        strips
    }

    fn trusts(&self, who: Option<Who<'_>>, peer: Option<&SpiffeId>) -> bool {
        // Whose issuer is nobody may have chosen its name itself.
        let who = who.filter(|(issuer, _)| !issuer.is_empty());
        self.trusted.iter().any(|trusted| {
            let subject = who.and_then(|(issuer, _)| trusted.strip_prefix(issuer)?.strip_prefix('/'));
            trusted == "*"
                || peer.is_some_and(|peer| peer.as_str() == trusted)
                || subject.is_some_and(|subject| who.is_some_and(|(_, it)| it == subject))
        })
    }

    /// What such a request asks of the queue; its head has none of what its caller may not say.
    fn ticket(&self, who: &rate::Caller<'_>, peer: Option<&SpiffeId>, is_anonymous: bool) -> Ticket {
        let given = |names: &[HeaderName]| names.iter().find(|it| who.headers.contains_key(*it)).cloned();
        let (kind, issuer, name) = match (given(&FAIRNESS_IDS), peer.filter(|_| is_anonymous)) {
            (Some(header), _) => (1u8, "", who.value(&Source::Header(header))),
            (None, Some(peer)) if self.key == Source::Identity => (0, "", peer.as_str().into()),
            _ => match who.value(&self.key) {
                // Whoever lacks the claim or the header is told apart by who it is.
                name if name.is_empty() || self.key == Source::Identity => (0, who.issuer, who.subject.into()),
                name => (1, "", name),
            },
        };
        let objective = given(&OBJECTIVES).map(|header| who.value(&Source::Header(header)));
        let rank = objective.and_then(|it| self.priorities.get(&*it)).copied().unwrap_or(self.usual);
        let weight = self.weights.get(&*name).copied().unwrap_or(1);
        let flow = self.hasher.hash_one((kind, issuer, &*name));
        let class = Class { band: rank.band, flow, weight };
        Ticket { class, wait_max: rank.wait_max, cost: 1, ..Ticket::default() }
    }

    /// What an understood request, whose body has so many bytes, takes of the worker.
    pub fn cost(&self, ask: &Ask, bytes: usize) -> u64 {
        if self.cost == Cost::Requests {
            return 1;
        }
        // As the limits of tokens estimate a prompt that nobody counted yet.
        let prompt = (bytes as u64).div_ceil(BYTES_PER_TOKEN);
        match ask {
            Ask::Generate(request) => prompt.saturating_add(answer(request)),
            Ask::GenerateMany(requests) => requests.iter().map(answer).fold(prompt, u64::saturating_add),
            Ask::Embed(_) => prompt,
            _ => 1,
        }
        .max(1)
    }
}

/// Tokens the answer may have.
fn answer(request: &GenerateRequest) -> u64 {
    request.stopping.as_ref().and_then(|it| it.max_tokens).map_or(ANSWER_ASSUMED, u64::from)
}

impl Exchange {
    /// The caller is known: what only a trusted one may say of itself goes.
    pub(super) fn must_be_trusted(
        &self,
        head: &mut Head,
        by: Option<&Caller>,
        token: Option<&RequestPrincipal>,
        floor: &Floor<'_>,
    ) -> Vec<Edit> {
        let who = by.map(Caller::identity).map(|identity| match token {
            Some(token) if identity.method == anonymous::NAME => (&*token.issuer, &*token.subject),
            _ => (&*identity.issuer, &*identity.subject),
        });
        self.classes.strip(head, who, floor.busy().facts().peer.spiffe.as_ref())
    }

    /// The caller may ask: whose turn it is.
    pub(super) fn ticket(
        &self,
        by: Option<&Authorized>,
        token: Option<&RequestPrincipal>,
        routed: &Routed,
        floor: &Floor<'_>,
    ) -> Ticket {
        let Some(identity) = by.map(Authorized::identity) else { return Ticket::default() };
        let is_anonymous = identity.method == anonymous::NAME && token.is_none();
        let peer = floor.busy().facts().peer.spiffe.as_ref();
        self.classes.ticket(&caller(identity, token, &routed.head), peer, is_anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Fairness, Priority};
    use http::{HeaderMap, Method};
    use outrider_protos::worker::v1::Stopping;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn classes(key: Source, trusted: &[&str]) -> Classes {
        let rank = |priority, minutes: u64| Priority { priority, wait_max: Some(Duration::from_secs(minutes * 60)) };
        let fairness = Fairness {
            key,
            weights: BTreeMap::from([("ada".into(), 5)]),
            priorities: BTreeMap::from([("chat".into(), rank(10, 1)), ("batch".into(), rank(-10, 60))]),
            trusted: trusted.iter().map(ToString::to_string).collect(),
        };
        let wait_max = Duration::from_secs(300);
        Classes::new(&Queue { requests_max: 1, bytes_max: 1, wait_max, cost: Cost::Tokens, fairness })
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn who<'a>(issuer: &'a str, subject: &'a str, headers: &'a HeaderMap, claims: &'a Value) -> rate::Caller<'a> {
        rate::Caller { issuer, subject, claims, headers, method: &Method::POST, path: "/" }
    }

    #[test]
    fn whose_headers_are_believed() {
        let peer = SpiffeId::parse("spiffe://a.test/ns/edge/sa/gateway").unwrap();
        let classes = classes(Source::Identity, &["spiffe://a.test/ns/edge/sa/gateway", "https://issuer.test/ada"]);
        for (who, peer, believed) in [
            (None, None, false),
            (None, Some(&peer), true),
            (Some(("https://issuer.test", "ada")), None, true),
            (Some(("https://other.test", "ada")), None, false),
            (Some(("https://issuer.test", "ad")), None, false),
            (Some(("", "https://issuer.test/ada")), None, false),
            (Some(("", "spiffe://a.test/ns/edge/sa/gateway")), None, false),
        ] {
            assert_eq!(classes.trusts(who, peer), believed, "{who:?} {peer:?}");
        }
        assert!(super::tests::classes(Source::Identity, &["*"]).trusts(None, None));
    }

    #[test]
    fn whose_turn_does_a_request_take() {
        let (none, null) = (HeaderMap::new(), json!({}));
        let of = |classes: &Classes, who: &rate::Caller<'_>| classes.ticket(who, None, false);
        let by_identity = classes(Source::Identity, &["*"]);
        let ada = of(&by_identity, &who("i", "ada", &none, &null));
        assert_eq!((ada.class.weight, ada.class.band, ada.wait_max), (5, 1, None), "the usual band is the middle one");
        assert_eq!(of(&by_identity, &who("i", "ada", &none, &null)), ada);
        let others = [("i", "bob"), ("j", "ada")].map(|(issuer, subject)| (issuer, subject, &none));
        for (issuer, subject, headers) in others {
            assert_ne!(of(&by_identity, &who(issuer, subject, headers, &null)).class.flow, ada.class.flow, "{issuer}");
        }
        let tenant = headers(&[("x-gateway-inference-fairness-id", "ada"), ("x-gateway-inference-objective", "batch")]);
        let named = of(&by_identity, &who("i", "gateway", &tenant, &null));
        assert_ne!(named.class.flow, ada.class.flow, "a name in a header is nobody's identity");
        assert_eq!((named.class.band, named.wait_max), (2, Some(Duration::from_secs(3600))));
        let newer = headers(&[("x-llm-d-inference-fairness-id", "ada"), ("x-llm-d-inference-objective", "chat")]);
        let newer = of(&by_identity, &who("i", "gateway", &newer, &null));
        assert_eq!((newer.class.flow, newer.class.band), (named.class.flow, 0));
        let unknown = headers(&[("x-gateway-inference-objective", "nonsense")]);
        assert_eq!(of(&by_identity, &who("i", "ada", &unknown, &null)).class.band, 1);

        let by_claim = classes(Source::Claim("org.id".into()), &["*"]);
        let claims = json!({"org": {"id": "gold"}});
        let gold = of(&by_claim, &who("i", "ada", &none, &claims));
        assert_eq!(of(&by_claim, &who("i", "bob", &none, &claims)).class, gold.class);
        let lacking = [of(&by_claim, &who("i", "ada", &none, &null)), of(&by_claim, &who("i", "bob", &none, &null))];
        assert_ne!(lacking[0].class.flow, lacking[1].class.flow, "whoever lacks the claim is itself");
    }

    #[test]
    fn does_an_anonymous_peer_have_a_turn_of_its_own() {
        let (none, null) = (HeaderMap::new(), json!({}));
        let classes = classes(Source::Identity, &[]);
        let peers = ["spiffe://a.test/a", "spiffe://a.test/b"].map(|id| SpiffeId::parse(id).unwrap());
        let of = |peer| classes.ticket(&who("", "anonymous", &none, &null), peer, true).class.flow;
        assert_ne!(of(Some(&peers[0])), of(Some(&peers[1])));
        assert_eq!(of(None), of(None));
    }

    #[test]
    fn what_does_a_question_cost() {
        let classes = classes(Source::Identity, &[]);
        let generate = |max_tokens| GenerateRequest {
            stopping: Some(Stopping { max_tokens, ..Stopping::default() }),
            ..GenerateRequest::default()
        };
        for (ask, bytes, cost) in [
            (Ask::Generate(generate(Some(100))), 400, 200),
            (Ask::Generate(generate(None)), 401, 101 + ANSWER_ASSUMED),
            (Ask::GenerateMany(vec![generate(Some(10)), generate(Some(20))]), 40, 40),
            (Ask::Embed(Default::default()), 4000, 1000),
            (Ask::Infer(Default::default()), 4000, 1),
            (Ask::About { wake: true }, 0, 1),
        ] {
            assert_eq!(classes.cost(&ask, bytes), cost, "{ask:?}");
        }
    }
}
