//! Which endpoint takes the next request: an open set of answers. Pure: time and chance come as arguments.
//!
//! Never knows health or zones: it is made anew for each set of endpoints that may be used at all.

mod consistent_hash;
mod least_request;
mod peak_ewma;
mod round_robin;

use super::endpoint::Endpoint;
use crate::chance::mix;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Sorted by name.
pub static BALANCERS: &[(&str, Make)] = &[
    ("consistent_hash", consistent_hash::make),
    ("least_request", least_request::make),
    ("peak_ewma", peak_ewma::make),
    ("round_robin", round_robin::make),
];

/// Prepares for these endpoints; their order is that of [`Ask::endpoints`].
pub type Make = fn(&[Arc<Endpoint>], &Settings) -> Box<dyn Balancer>;

#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// See `overload_percent` of the configuration.
    pub overload_percent: Option<u32>,
    /// Where a rotation begins, so that many callers do not all begin with the same endpoint.
    pub offset: usize,
}

pub trait Balancer: Send + Sync {
    /// An index into the endpoints it was made for; `None` only without any.
    fn pick(&self, ask: &mut Ask<'_>) -> Option<usize>;
}

/// One request's question.
pub struct Ask<'a> {
    /// Those the balancer was made for.
    pub endpoints: &'a [Arc<Endpoint>],
    /// What the request hashes to, where there is something to hash.
    pub key: Option<u64>,
    /// Endpoints that earlier tries of the same request met; avoided while there are others.
    pub tried: &'a [SocketAddr],
    pub now: Duration,
    pub chance: &'a mut dyn FnMut() -> u64,
}

impl Ask<'_> {
    fn fresh(&self, at: usize) -> bool {
        !self.tried.contains(&self.endpoints[at].address)
    }

    /// `at`, or the next one that was not tried; `at` if all were.
    fn next_fresh(&self, at: usize) -> usize {
        let count = self.endpoints.len();
        (0..count).map(|step| (at + step) % count).find(|at| self.fresh(*at)).unwrap_or(at)
    }

    /// A number below `bound`, which is above 0.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from((self.chance)()) * u128::from(bound)) >> 64) as u64
    }
}

/// Two different endpoints drawn by weight, the same one twice if there is only one. Two choices are nearly as good as
/// looking at all of them, and cost nothing (Mitzenmacher 2001).
struct TwoChoices {
    /// Sums of weights up to and with each endpoint.
    sums: Vec<u64>,
}

impl TwoChoices {
    fn new(endpoints: &[Arc<Endpoint>]) -> TwoChoices {
        let mut sum = 0;
        let sums = endpoints.iter().map(|endpoint| {
            sum += u64::from(endpoint.weight);
            sum
        });
        TwoChoices { sums: sums.collect() }
    }

    fn draw(&self, ask: &mut Ask<'_>) -> usize {
        let ticket = ask.below(*self.sums.last().expect("asked only with endpoints"));
        self.sums.partition_point(|sum| *sum <= ticket)
    }

    fn two(&self, ask: &mut Ask<'_>) -> Option<(usize, usize)> {
        if self.sums.is_empty() {
            return None;
        }
        let first = self.draw(ask);
        let first = ask.next_fresh(first);
        let count = self.sums.len();
        let mut second = self.draw(ask);
        if second == first {
            second = (first + 1 + ask.below(count as u64) as usize) % count;
        }
        Some((first, if ask.fresh(second) { second } else { first }))
    }
}

/// FNV-1a, mixed: the same in every process, so that all callers agree where a key lives.
pub fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// Whether `chance` falls within so many of a hundred.
pub fn within(percent: f64, chance: u64) -> bool {
    // 2^-64 of the numbers round up to 1: never for 0, always for 100.
    percent >= 100.0 || (chance as f64 / u64::MAX as f64) * 100.0 < percent
}

#[cfg(test)]
mod tests;
