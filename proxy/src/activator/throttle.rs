//! Which pod of a service a request goes to, and how many may go at once. Pure: time and chance are arguments.
//!
//! Every activator counts what it sent itself, and knows nothing of the others. No pod belongs to one of them: where two
//! share a service, the pod says so. A request is sent with the wish not to be queued there; a sidecar without a free
//! place refuses at once, having done nothing; that pod rests for a moment, and the next one is asked. So a request waits
//! here only if no pod anywhere is free, and waits here, where the first pod to come free gets it.
//!
//! Not slices of pods for each activator, as Knative has it: with two activators, two pods and one request at a time, a
//! request waits there in front of its own busy pod while the other's is idle (knative/serving#13331), and every pod that
//! comes or goes is dealt out anew.

#[cfg(test)]
mod slicing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// As many as come.
pub const UNLIMITED: usize = usize::MAX >> 1;
/// Up to so many at once, pods are filled one after the other: what is left empty can be taken away.
const FILL_FIRST_MAX: usize = 3;
/// How long a pod rests that had no room: short against any answer, and doubled so that a service that is full
/// everywhere is asked ten times a second and not a thousand.
const REST_MIN: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_millis(80);

/// What is known of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Listed, but nobody has seen it answer.
    Cold,
    Ready,
    /// No longer listed; what it was given ends there.
    Gone,
}

/// A pod as whoever lists pods sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub address: SocketAddr,
    /// The kubelet has seen it answer.
    pub ready: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pod {
    state: State,
    /// It was ready, and is no longer listed as such: it stays in use while it answers, and is asked whether it does.
    doubted: bool,
    in_flight: usize,
    /// It had no room; until then it is not asked again.
    rests_until: Duration,
    rest: Duration,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// There; a place is taken.
    Pod(SocketAddr),
    /// All are busy. Ask again when a place comes free, or then.
    Busy(Option<Duration>),
    /// There is no pod.
    Nobody,
}

/// How many pods are in each state, and what they can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub ready: usize,
    pub cold: usize,
    pub in_flight: usize,
    pub capacity: usize,
}

pub struct Throttle {
    /// Requests a pod takes at once; 0: as many as come.
    concurrency: usize,
    pods: BTreeMap<SocketAddr, Pod>,
    /// Those in use, in order of address.
    ready: Vec<SocketAddr>,
    /// Where the next look begins.
    next: usize,
}

impl Throttle {
    /// `offset`: a number of this activator's own, so that not all of them begin with the same pod.
    pub fn new(concurrency: usize, offset: usize) -> Throttle {
        Throttle { concurrency, pods: BTreeMap::new(), ready: Vec::new(), next: offset }
    }

    /// What all pods together take at once.
    pub fn capacity(&self) -> usize {
        match (self.concurrency, self.ready.len()) {
            (_, 0) => 0,
            (0, _) => UNLIMITED,
            (each, pods) => each.saturating_mul(pods).min(UNLIMITED),
        }
    }

    /// Those in use.
    pub fn ready(&self) -> &[SocketAddr] {
        &self.ready
    }

    pub fn census(&self) -> Census {
        let cold = self.pods.values().filter(|pod| pod.state == State::Cold).count();
        let in_flight = self.pods.values().map(|pod| pod.in_flight).sum();
        Census { ready: self.ready.len(), cold, in_flight, capacity: self.capacity() }
    }

    pub fn state(&self, address: SocketAddr) -> Option<State> {
        self.pods.get(&address).map(|pod| pod.state)
    }

    /// These are the pods now. What the kubelet has seen ready is believed; the others have to answer first.
    pub fn replace(&mut self, listed: &[Listed]) {
        for pod in self.pods.values_mut() {
            pod.doubted = true;
        }
        let mut there = BTreeMap::new();
        for Listed { address, ready } in listed {
            // An address in two slices, as may be for a moment, is as good as the better of the two says.
            *there.entry(*address).or_insert(false) |= ready;
        }
        for (address, ready) in &there {
            let pod = self.pods.entry(*address).or_insert(Pod {
                state: State::Cold,
                doubted: false,
                in_flight: 0,
                rests_until: Duration::ZERO,
                rest: Duration::ZERO,
            });
            match (ready, pod.state) {
                (true, _) => (pod.state, pod.doubted) = (State::Ready, false),
                (false, State::Gone) => pod.state = State::Cold,
                (false, _) => {}
            }
        }
        self.pods.retain(|address, pod| {
            if !there.contains_key(address) {
                pod.state = State::Gone;
            }
            pod.state != State::Gone || pod.in_flight > 0
        });
        self.index();
    }

    /// Pods that have to be asked whether they answer.
    pub fn to_probe(&self) -> Vec<SocketAddr> {
        let asked = |pod: &Pod| pod.state == State::Cold || (pod.state == State::Ready && pod.doubted);
        self.pods.iter().filter(|(_, pod)| asked(pod)).map(|(address, _)| *address).collect()
    }

    /// One of them was asked.
    pub fn probed(&mut self, address: SocketAddr, answers: bool) {
        let state = if answers { State::Ready } else { State::Cold };
        self.becomes(address, state);
    }

    /// It takes no connection: nobody else is sent there until it has answered a probe.
    pub fn failed(&mut self, address: SocketAddr) {
        self.becomes(address, State::Cold);
    }

    fn becomes(&mut self, address: SocketAddr, state: State) {
        let Some(pod) = self.pods.get_mut(&address).filter(|pod| pod.state != State::Gone) else { return };
        if pod.state != state {
            pod.state = state;
            self.index();
        }
    }

    fn index(&mut self) {
        let ready = self.pods.iter().filter(|(_, pod)| pod.state == State::Ready);
        self.ready = ready.map(|(address, _)| *address).collect();
    }

    /// It had no room: others fill it too.
    pub fn refused(&mut self, address: SocketAddr, now: Duration) {
        if let Some(pod) = self.pods.get_mut(&address) {
            pod.rest = (pod.rest * 2).clamp(REST_MIN, REST_MAX);
            pod.rests_until = now + pod.rest;
        }
    }

    /// It took a request.
    pub fn took(&mut self, address: SocketAddr) {
        if let Some(pod) = self.pods.get_mut(&address) {
            (pod.rest, pod.rests_until) = (Duration::ZERO, Duration::ZERO);
        }
    }

    /// Chooses a pod and takes a place there. `chance` gives any numbers.
    pub fn pick(&mut self, now: Duration, chance: &mut dyn FnMut() -> u64) -> Pick {
        if self.ready.is_empty() {
            return Pick::Nobody;
        }
        let found = match self.concurrency {
            0 => self.lighter_of_two(now, chance).or_else(|| self.look(self.next, now)),
            1..=FILL_FIRST_MAX => self.look(self.next, now),
            _ => {
                self.next = self.next.wrapping_add(1);
                self.look(self.next, now)
            }
        };
        let Some(address) = found else { return Pick::Busy(self.soonest(now)) };
        self.pods.get_mut(&address).expect("every ready pod is known").in_flight += 1;
        Pick::Pod(address)
    }

    fn pod(&self, address: &SocketAddr) -> &Pod {
        self.pods.get(address).expect("every ready pod is known")
    }

    fn has_room(&self, address: &SocketAddr) -> bool {
        self.concurrency == 0 || self.pod(address).in_flight < self.concurrency
    }

    /// The first from `start` on that has room and does not rest.
    fn look(&self, start: usize, now: Duration) -> Option<SocketAddr> {
        let count = self.ready.len();
        let begin = start % count;
        let (before, from) = self.ready.split_at(begin);
        let free = |address: &&SocketAddr| self.has_room(address) && self.pod(address).rests_until <= now;
        from.iter().chain(before).find(free).copied()
    }

    /// Of two, the one with less to do; `None` if both rest.
    fn lighter_of_two(&self, now: Duration, chance: &mut dyn FnMut() -> u64) -> Option<SocketAddr> {
        let count = self.ready.len() as u64;
        let first = chance() % count;
        // Another one, if there is another.
        let second = if count > 1 { (first + 1 + chance() % (count - 1)) % count } else { first };
        let two = [first, second].map(|at| self.ready[at as usize]);
        let awake = two.into_iter().filter(|address| self.pod(address).rests_until <= now);
        awake.min_by_key(|address| self.pod(address).in_flight)
    }

    /// When the first that has room here ends its rest.
    fn soonest(&self, now: Duration) -> Option<Duration> {
        let resting = self.ready.iter().filter(|address| self.has_room(address));
        resting.map(|address| self.pod(address).rests_until).filter(|until| *until > now).min()
    }

    /// A place is given back.
    pub fn release(&mut self, address: SocketAddr) {
        let Some(pod) = self.pods.get_mut(&address) else { return };
        pod.in_flight = pod.in_flight.checked_sub(1).expect("a place is given back once");
        if pod.state == State::Gone && pod.in_flight == 0 {
            self.pods.remove(&address);
        }
    }
}
