//! The queue again, obvious and slow: a list of all who wait, searched anew for every question. It judges the other one.

use super::{Class, DISPLACED_MAX, Full, PASSED_OVER_MAX, QueueLimits, RESERVED_PARTS};
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub number: u64,
    pub class: Class,
    pub bytes: usize,
    pub cost: u64,
    pub returned: bool,
}

pub struct Reference {
    limits: QueueLimits,
    pub entries: Vec<Entry>,
    /// What each flow has paid up to, while somebody waits in it.
    paid: HashMap<(u8, u64), u128>,
    clocks: Vec<u128>,
    passed_over: Vec<u32>,
    next: u64,
}

impl Reference {
    pub fn new(limits: QueueLimits) -> Self {
        let (clocks, passed_over) = (vec![0; limits.bands], vec![0; limits.bands]);
        Reference { limits, entries: Vec::new(), paid: HashMap::new(), clocks, passed_over, next: 0 }
    }

    fn of(&self, band: u8) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| !entry.returned && entry.class.band == band)
    }

    fn held(&self, band: u8, flow: u64, full: Full) -> u64 {
        let size = |entry: &Entry| if full == Full::Requests { 1 } else { entry.bytes as u64 };
        self.of(band).filter(|entry| entry.class.flow == flow).map(size).sum()
    }

    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// The newest of the flow that holds most by its weight; of equals, the flow of the larger name.
    fn fullest(&self, band: u8, full: Full) -> Option<(u64, Entry)> {
        let share = |entry: &Entry| (self.held(band, entry.class.flow, full) << 16) / u64::from(entry.class.weight);
        let fullest = self.of(band).max_by_key(|entry| (share(entry), entry.class.flow, entry.number))?;
        Some((share(fullest), *fullest))
    }

    fn victim(&self, class: Class, bytes: usize, full: Full) -> Option<Entry> {
        if bytes > self.limits.bytes_max {
            return None;
        }
        for band in (class.band + 1..self.limits.bands as u8).rev() {
            if self.of(band).count() > self.limits.requests_max / RESERVED_PARTS {
                return self.fullest(band, full).map(|(_, entry)| entry);
            }
        }
        let more = if full == Full::Requests { 1 } else { bytes as u64 };
        let mine = ((self.held(class.band, class.flow, full) + more) << 16) / u64::from(class.weight);
        self.fullest(class.band, full).filter(|(share, _)| *share > mine).map(|(_, entry)| entry)
    }

    /// The numbers of those who had to go.
    pub fn push(&mut self, class: Class, bytes: usize, cost: u64) -> Result<Vec<u64>, Full> {
        self.next += 1;
        let before = self.entries.clone();
        let mut displaced = Vec::new();
        loop {
            let full = if self.entries.len() >= self.limits.requests_max {
                Full::Requests
            } else if self.bytes() + bytes > self.limits.bytes_max {
                Full::Bytes
            } else {
                break;
            };
            match self.victim(class, bytes, full).filter(|_| displaced.len() < DISPLACED_MAX) {
                Some(victim) => {
                    self.entries.retain(|entry| entry.number != victim.number);
                    displaced.push(victim.number);
                }
                None => {
                    self.entries = before;
                    return Err(full);
                }
            }
        }
        self.forget();
        self.paid.entry((class.band, class.flow)).or_insert(self.clocks[usize::from(class.band)]);
        self.entries.push(Entry { number: self.next, class, bytes, cost, returned: false });
        Ok(displaced)
    }

    pub fn push_again(&mut self, entry: Entry) {
        self.entries.push(Entry { returned: true, ..entry });
    }

    pub fn pop(&mut self) -> Option<Entry> {
        let returned = self.entries.iter().filter(|entry| entry.returned).min_by_key(|entry| entry.number).copied();
        if let Some(entry) = returned {
            self.entries.retain(|other| other.number != entry.number);
            return Some(entry);
        }
        let waits = |band: &u8| self.of(*band).next().is_some();
        let bands: Vec<u8> = (0..self.limits.bands as u8).filter(waits).collect();
        let over = |band: &u8| self.passed_over[usize::from(*band)];
        let most = bands.iter().map(over).max().filter(|most| *most >= PASSED_OVER_MAX);
        let band = *bands.iter().find(|band| most.is_none_or(|most| over(band) == most))?;
        let due = |entry: &&Entry| {
            let paid = self.paid[&(band, entry.class.flow)];
            (paid + (u128::from(entry.cost) << 20) / u128::from(entry.class.weight), entry.number)
        };
        let is_first = |entry: &&Entry| {
            self.of(band).filter(|other| other.class.flow == entry.class.flow).all(|other| entry.number <= other.number)
        };
        let entry = *self.of(band).filter(is_first).min_by_key(due)?;
        let (due, _) = due(&&entry);
        self.clocks[usize::from(band)] = due;
        self.paid.insert((band, entry.class.flow), due);
        self.entries.retain(|other| other.number != entry.number);
        for other in bands {
            self.passed_over[usize::from(other)] += 1;
        }
        self.passed_over[usize::from(band)] = 0;
        self.forget();
        Some(entry)
    }

    pub fn remove(&mut self, number: u64) {
        self.entries.retain(|entry| entry.number != number);
        self.forget();
    }

    /// What is remembered of flows and bands ends when nobody waits in them.
    fn forget(&mut self) {
        let live: Vec<(u8, u64)> =
            self.entries.iter().filter(|e| !e.returned).map(|e| (e.class.band, e.class.flow)).collect();
        self.paid.retain(|flow, _| live.contains(flow));
        for band in 0..self.limits.bands {
            if !live.iter().any(|(of, _)| usize::from(*of) == band) {
                self.passed_over[band] = 0;
            }
        }
    }
}
