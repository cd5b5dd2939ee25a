//! The flows of one band, and whose turn it is among them. Pure.
//!
//! Self-clocked fair queuing: the first of each flow is due at a moment of the band's own clock, its flow's last such
//! moment and its cost by the flow's weight later; whoever is due first is next, and the clock is then what that one was
//! due at. While two flows wait, what each was served by its weight differs by one largest cost of each at most, whatever
//! the costs are: deficit round robin has the same bound only with a quantum as large as the largest cost, and lets
//! everybody wait for a whole quantum of everybody else. A flow without anybody waiting is forgotten: it owes nothing,
//! for what it was served was paid for before.

use super::{Class, Full, Waiting};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Moments of the band's clock for one unit of cost by a weight of one: weights up to this share without rounding much.
const UNIT: u128 = 1 << 20;
/// What a flow holds is compared by its weight in these parts.
const PARTS: u64 = 1 << 16;

#[derive(Debug, Default)]
pub struct Band {
    flows: HashMap<u64, Flow>,
    /// When the first of each flow is due; of equals, the earlier place.
    due: BTreeSet<(u128, u64, u64)>,
    /// What each flow holds by its weight: requests, and bytes.
    requests: BTreeSet<(u64, u64)>,
    bytes: BTreeSet<(u64, u64)>,
    clock: u128,
    len: usize,
    /// Turns of other bands since the last of this one, while somebody waits here.
    pub passed_over: u32,
}

#[derive(Debug)]
struct Flow {
    waiting: BTreeMap<u64, Waiting>,
    bytes: usize,
    /// Of the request that began it.
    weight: u32,
    /// What its last turn was due at, or the clock when it began.
    paid: u128,
}

impl Flow {
    fn first(&self) -> (u64, Waiting) {
        let (number, waiting) = self.waiting.first_key_value().expect("a flow goes when nobody waits in it");
        (*number, *waiting)
    }

    fn due(&self) -> (u128, u64) {
        let (number, waiting) = self.first();
        (self.paid + u128::from(waiting.cost) * UNIT / u128::from(self.weight), number)
    }

    fn share(&self, full: Full) -> u64 {
        share(if full == Full::Requests { self.waiting.len() } else { self.bytes }, self.weight)
    }
}

fn share(held: usize, weight: u32) -> u64 {
    (held as u64).saturating_mul(PARTS) / u64::from(weight)
}

/// Somebody who had to go, with all that is needed to undo it.
#[derive(Debug)]
pub struct Seat {
    pub number: u64,
    pub waiting: Waiting,
    flow: u64,
    weight: u32,
    paid: u128,
    passed_over: u32,
}

impl Band {
    pub fn push(&mut self, class: Class, number: u64, waiting: Waiting) {
        let (paid, passed_over) = (self.clock, self.passed_over);
        self.seat_again(Seat { number, waiting, flow: class.flow, weight: class.weight, paid, passed_over });
    }

    /// Joins its flow, or begins it as the seat says.
    pub fn seat_again(&mut self, seat: Seat) {
        self.unlist(seat.flow);
        let flow = self.flows.entry(seat.flow).or_insert_with(|| Flow {
            waiting: BTreeMap::new(),
            bytes: 0,
            weight: seat.weight,
            paid: seat.paid,
        });
        flow.bytes += seat.waiting.bytes;
        let before = flow.waiting.insert(seat.number, seat.waiting);
        debug_assert!(before.is_none(), "a place belongs to one request");
        self.len += 1;
        self.passed_over = seat.passed_over;
        self.list(seat.flow);
    }

    /// Who is next here; `band` is where this is.
    pub fn first(&self, band: u8) -> Option<(Class, u64, Waiting)> {
        let (_, _, name) = self.due.first()?;
        let flow = &self.flows[name];
        let (number, waiting) = flow.first();
        Some((Class { band, flow: *name, weight: flow.weight }, number, waiting))
    }

    /// Whoever is next leaves, and its flow has paid.
    pub fn pop(&mut self) {
        let Some((due, number, name)) = self.due.first().copied() else { return };
        self.clock = due;
        self.unlist(name);
        if let Some(flow) = self.flows.get_mut(&name) {
            flow.paid = due;
        }
        self.take(name, number);
    }

    /// Somebody leaves from the middle.
    pub fn remove(&mut self, flow: u64, number: u64) -> Option<Waiting> {
        if !self.flows.get(&flow)?.waiting.contains_key(&number) {
            return None;
        }
        self.unlist(flow);
        self.take(flow, number)
    }

    /// The newest of a flow has to go.
    pub fn unseat_newest(&mut self, name: u64) -> Option<Seat> {
        let flow = self.flows.get(&name)?;
        let (weight, paid, passed_over) = (flow.weight, flow.paid, self.passed_over);
        let number = *flow.waiting.last_key_value()?.0;
        self.unlist(name);
        let waiting = self.take(name, number)?;
        Some(Seat { number, waiting, flow: name, weight, paid, passed_over })
    }

    /// From a flow that is not listed at the moment; lists it again.
    fn take(&mut self, name: u64, number: u64) -> Option<Waiting> {
        let flow = self.flows.get_mut(&name)?;
        let waiting = flow.waiting.remove(&number)?;
        flow.bytes -= waiting.bytes;
        self.len -= 1;
        if self.len == 0 {
            self.passed_over = 0;
        }
        self.list(name);
        Some(waiting)
    }

    fn unlist(&mut self, name: u64) {
        let Some(flow) = self.flows.get(&name) else { return };
        let (due, number) = flow.due();
        self.due.remove(&(due, number, name));
        self.requests.remove(&(flow.share(Full::Requests), name));
        self.bytes.remove(&(flow.share(Full::Bytes), name));
    }

    fn list(&mut self, name: u64) {
        let Some(flow) = self.flows.get(&name) else { return };
        if flow.waiting.is_empty() {
            self.flows.remove(&name);
            return;
        }
        let (due, number) = flow.due();
        self.due.insert((due, number, name));
        self.requests.insert((flow.share(Full::Requests), name));
        self.bytes.insert((flow.share(Full::Bytes), name));
    }

    /// The flow that holds most, and how much by its weight.
    pub fn fullest(&self, full: Full) -> Option<(u64, u64)> {
        match full {
            Full::Requests => self.requests.last().copied(),
            Full::Bytes => self.bytes.last().copied(),
        }
    }

    /// What the flow of a newcomer would hold with it.
    pub fn share_with(&self, class: Class, bytes: usize, full: Full) -> u64 {
        let flow = self.flows.get(&class.flow);
        let held = flow.map_or(0, |flow| if full == Full::Requests { flow.waiting.len() } else { flow.bytes });
        let more = if full == Full::Requests { 1 } else { bytes };
        share(held.saturating_add(more), flow.map_or(class.weight, |flow| flow.weight))
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn flows(&self) -> usize {
        self.flows.len()
    }
}
