//! Chance, good enough to spread load over pods and requests over time; nothing secret comes from here.

use crate::tls::provider;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Odd, and no multiple of it comes near another (the golden ratio, as splitmix64 has it).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes (splitmix64's finaliser, a bijection), so that neighbours end up far apart.
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A sequence of its own for each that is made, shared by all threads.
pub struct Chance(AtomicU64);

impl Default for Chance {
    fn default() -> Chance {
        let mut seed = [0; 8];
        // Without a seed, processes that start together choose alike: load is spread less well, and nothing else.
        let _ = provider().secure_random.fill(&mut seed);
        Chance(AtomicU64::new(u64::from_le_bytes(seed)))
    }
}

impl Chance {
    pub fn next(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Relaxed))
    }

    /// From 0 to 1.
    pub fn fraction(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_each_sequence_its_own_and_spread_evenly() {
        let (one, other) = (Chance::default(), Chance::default());
        let drawn: Vec<f64> = (0..10_000).map(|_| one.fraction()).collect();
        assert!(drawn.iter().all(|part| (0.0..1.0).contains(part)));
        for tenth in 0..10 {
            let there = drawn.iter().filter(|part| (*part * 10.0) as usize == tenth).count();
            assert!((850..1150).contains(&there), "{there} of 1000 in tenth {tenth}");
        }
        assert_ne!(one.next(), other.next());
        // As splitmix64 published it: the first number of seed 0.
        assert_eq!(mix(STEP), 0xe220_a839_7b1d_cdaf);
    }
}
