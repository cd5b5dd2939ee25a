//! One uniform number for each (seed, step): counter-based, so that nothing but the two decides it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A number in [0, 1) of 53 random bits for step `step` of the sequence with this seed.
pub fn uniform(seed: u64, step: u64) -> f64 {
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    // A step is two 32-bit words of the key stream.
    stream.set_word_pos(2 * u128::from(step));
    (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A seed for a request that names none: well mixed from the process's own seed and the request's number.
pub fn derive(process_seed: u64, request: u64) -> u64 {
    let mut stream = ChaCha8Rng::seed_from_u64(process_seed);
    stream.set_stream(1);
    stream.set_word_pos(2 * u128::from(request));
    stream.next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_draw_the_same_in_any_order_and_uniform() {
        let forward: Vec<f64> = (0..1000).map(|step| uniform(7, step)).collect();
        let backward: Vec<f64> = (0..1000).rev().map(|step| uniform(7, step)).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        assert!(forward.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = forward.iter().sum::<f64>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.05, "mean {mean}");
    }

    #[test]
    fn do_seeds_differ() {
        assert_ne!(uniform(1, 0), uniform(2, 0));
        assert_ne!(uniform(1, 0), uniform(1, 1));
        assert_ne!(derive(1, 0), derive(1, 1));
        assert_ne!(derive(1, 0), derive(2, 0));
    }
}
