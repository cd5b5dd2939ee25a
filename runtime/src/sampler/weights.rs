//! Weights of tokens: `exp((logit − max) · scale)`, written so that the compiler makes vector code of it.
//!
//! The library's `exp` is exact to the last bit and one at a time; over a vocabulary of 150,000 that was most of a
//! step's sampling. This one errs by about 2e-7 and is the same function for one token and for a sum, so that no two
//! paths through the sampler can disagree.

/// Below this `exp` leaves the normal numbers of f32: the weight is 0.
const EXP_MIN: f32 = -87.0;
/// 1.5 · 2²³: added to a small number, leaves its nearest integer in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first short enough that its product with an integer is exact (Cody and Waite).
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `exp(x)` for x ≤ 0; 0 for −∞.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = if x > EXP_MIN { x } else { EXP_MIN };
    // exp(x) = 2ⁿ · exp(r), |r| ≤ ln 2 / 2.
    let biased = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = biased - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    let power = f32::from_bits((biased.to_bits() << 23).wrapping_add(127 << 23));
    if x > EXP_MIN { sum * power } else { 0.0 }
}

/// How a row becomes weights; the likeliest token's is 1.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// The row's largest logit, finite.
    pub max: f32,
    /// 1 / temperature.
    pub scale: f32,
    /// Smaller weights count as 0: min-p.
    pub floor: f32,
}

/// Logits summed at a time: their sums lead a draw to the right ones without a second pass over the row.
pub const CHUNK: usize = 256;
const LANES: usize = 8;

impl Weights {
    /// The weight of one logit.
    #[inline(always)]
    pub fn of(&self, logit: f32) -> f64 {
        f64::from(self.single(logit))
    }

    #[inline(always)]
    fn single(&self, logit: f32) -> f32 {
        let weight = exp((logit - self.max) * self.scale);
        if weight >= self.floor { weight } else { 0.0 }
    }

    /// The sum of a chunk's weights.
    pub fn sum(&self, logits: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let chunks = logits.chunks_exact(LANES);
        let rest: f64 = chunks.remainder().iter().map(|logit| self.of(*logit)).sum();
        for chunk in chunks {
            // Two loops: mixed with the widening to f64, the compiler would compute `exp` one lane at a time.
            let mut weights = [0.0f32; LANES];
            for (weight, logit) in weights.iter_mut().zip(chunk) {
                *weight = self.single(*logit);
            }
            for (lane, weight) in lanes.iter_mut().zip(weights) {
                *lane += f64::from(weight);
            }
        }
        lanes.into_iter().sum::<f64>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_is_it_from_the_library() {
        for step in 0..870_000 {
            let x = -(step as f32) / 10_000.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours - exact).abs() <= 3e-7 * exact, "exp({x}) = {exact}, not {ours}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-100.0), exp(f32::NEG_INFINITY), exp(-1e30)), (0.0, 0.0, 0.0));
    }

    #[test]
    fn is_a_sum_the_sum_of_its_weights() {
        let logits: Vec<f32> = (0..1000).map(|i| (i * 37 % 101) as f32 / 10.0).collect();
        let weights = Weights { max: 10.0, scale: 0.7, floor: 0.01 };
        let one_by_one: f64 = logits.iter().map(|logit| weights.of(*logit)).sum();
        assert!((weights.sum(&logits) - one_by_one).abs() < 1e-9);
        assert_eq!(weights.of(0.0), 0.0);
    }
}
