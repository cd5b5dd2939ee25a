//! Rotary position embedding: inverse frequencies with their scaling, and the cosines and sines of positions.
//!
//! Computed on the host in f32, in the order transformers does it (`modeling_rope_utils.py`), so that logits can be
//! compared with it. Never rotates anything itself: that is a kernel's work.

use std::f64::consts::PI;
use std::sync::OnceLock;

/// Positions in one lazily computed piece of the table.
const PIECE: usize = 256;
/// Bytes of cosines and sines kept at most; positions beyond are computed each time they occur.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// How frequencies are stretched to reach beyond the context of the training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by the factor.
    Linear {
        factor: f32,
    },
    /// Long wavelengths divided by the factor, short ones kept, between them a ramp.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
    /// NTK by parts (arXiv 2309.00071), with a factor on the cosines and sines.
    Yarn(Yarn),
    /// Every frequency divided by its own factor: GGUF's `rope_freqs.weight`, `rope_dim / 2` of them.
    Factors(Vec<f32>),
}

/// Parameters of yarn; `None` means the paper's value.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f32,
    pub original_context: f32,
    pub beta_fast: f32,
    pub beta_slow: f32,
    pub attention_factor: Option<f32>,
    pub mscale: Option<f32>,
    pub mscale_all_dim: Option<f32>,
    /// Round the bounds of the ramp to whole dimensions.
    pub truncate: bool,
}

impl Yarn {
    fn attention(&self) -> f32 {
        let mscale = |m: f32| if self.factor <= 1.0 { 1.0 } else { 0.1 * m * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), _, _) => factor,
            (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => mscale(m) / mscale(all),
            _ => mscale(1.0),
        }
    }

    fn scale(&self, frequencies: &mut [f32], theta: f32, dim: usize) {
        let bound = |rotations: f32| {
            let turns = f64::from(self.original_context) / (f64::from(rotations) * 2.0 * PI);
            dim as f64 * turns.ln() / (2.0 * f64::from(theta).ln())
        };
        let (mut low, mut high) = (bound(self.beta_fast), bound(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
            let extrapolated = 1.0 - ramp;
            *frequency = *frequency / self.factor * (1.0 - extrapolated) + *frequency * extrapolated;
        }
    }
}

/// Cosines and sines of every position, computed when first asked for.
#[derive(Debug)]
pub struct Rotary {
    /// `rope_dim / 2` angles per position.
    inverse_frequencies: Vec<f32>,
    attention: f32,
    pieces: Vec<OnceLock<Box<[f32]>>>,
}

impl Rotary {
    /// `theta` is the base, `dim` the rotated elements of a head (even), `context` the positions there can be.
    pub fn new(theta: f32, dim: usize, scaling: &RopeScaling, context: usize) -> Self {
        let mut frequencies: Vec<f32> = (0..dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim as f32)).collect();
        let mut attention = 1.0;
        match scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                for frequency in &mut frequencies {
                    let wavelength = 2.0 * std::f32::consts::PI / *frequency;
                    if wavelength > original_context / low_freq_factor {
                        *frequency /= factor;
                    } else if wavelength >= original_context / high_freq_factor {
                        let smooth =
                            (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        *frequency = (1.0 - smooth) * (*frequency / factor) + smooth * *frequency;
                    }
                }
            }
            RopeScaling::Yarn(yarn) => {
                yarn.scale(&mut frequencies, theta, dim);
                attention = yarn.attention();
            }
            RopeScaling::Factors(factors) => frequencies.iter_mut().zip(factors).for_each(|(f, by)| *f /= by),
        }
        let positions_kept = context.min(CACHE_BYTES_MAX / (4 * dim.max(1)));
        let pieces = (0..positions_kept.div_ceil(PIECE)).map(|_| OnceLock::new()).collect();
        Rotary { inverse_frequencies: frequencies, attention, pieces }
    }

    /// Elements of a row: the rotated elements of a head.
    pub fn dim(&self) -> usize {
        2 * self.inverse_frequencies.len()
    }

    /// `[positions, dim]`: for each position the cosines of its angles, then their sines.
    pub fn cos_sin(&self, positions: &[u32]) -> Vec<f32> {
        let dim = self.dim();
        let mut out = Vec::with_capacity(positions.len() * dim);
        for &position in positions {
            match self.pieces.get(position as usize / PIECE) {
                Some(piece) => {
                    let first = position as usize / PIECE * PIECE;
                    let rows = piece.get_or_init(|| {
                        let mut rows = Vec::with_capacity(PIECE * dim);
                        (first..first + PIECE).for_each(|position| self.row(position as u32, &mut rows));
                        rows.into_boxed_slice()
                    });
                    let at = (position as usize - first) * dim;
                    out.extend_from_slice(&rows[at..at + dim]);
                }
                None => self.row(position, &mut out),
            }
        }
        out
    }

    fn row(&self, position: u32, out: &mut Vec<f32>) {
        let angles = || self.inverse_frequencies.iter().map(|f| position as f32 * f);
        out.extend(angles().map(|angle| angle.cos() * self.attention));
        out.extend(angles().map(|angle| angle.sin() * self.attention));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() <= 1e-6 * b.abs().max(1.0)
    }

    #[test]
    fn are_cosines_of_a_position_in_the_first_half_and_sines_in_the_second() {
        let rotary = Rotary::new(10_000.0, 4, &RopeScaling::None, 512);
        let row = rotary.cos_sin(&[3]);
        let want = [3f32.cos(), 0.03f32.cos(), 3f32.sin(), 0.03f32.sin()];
        assert!(row.iter().zip(want).all(|(a, b)| near(*a, b)), "{row:?} {want:?}");
    }

    #[test]
    fn does_a_position_beyond_the_cache_equal_one_within() {
        let kept = Rotary::new(500_000.0, 8, &RopeScaling::Linear { factor: 4.0 }, 2048);
        let bare = Rotary::new(500_000.0, 8, &RopeScaling::Linear { factor: 4.0 }, 0);
        let positions = [0, 1, 255, 256, 1000, 2047];
        assert_eq!(kept.cos_sin(&positions), bare.cos_sin(&positions));
    }

    #[test]
    fn does_llama3_keep_short_waves_and_stretch_long_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64.0 };
        let scaled = Rotary::new(10_000.0, 16, &scaling, 1);
        let plain = Rotary::new(10_000.0, 16, &RopeScaling::None, 1);
        assert_eq!(scaled.inverse_frequencies[0], plain.inverse_frequencies[0]);
        assert!(near(scaled.inverse_frequencies[7], plain.inverse_frequencies[7] / 8.0));
    }

    #[test]
    fn is_yarns_attention_factor_the_papers_unless_told() {
        let mut yarn = Yarn {
            factor: 4.0,
            original_context: 32.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        };
        assert!(near(yarn.attention(), 0.1 * 4f32.ln() + 1.0));
        yarn.attention_factor = Some(1.5);
        assert_eq!(yarn.attention(), 1.5);
    }
}
