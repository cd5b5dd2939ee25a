//! One op, one pair: `<op>.rs` holds the plain-Rust reference (and the workgroup arithmetic of the WGSL kernel),
//! `<op>.wgsl` the shader. Every device is judged by the reference; nothing here knows a model.
//!
//! References are written to be read, not to be fast: plain loops, sums in f64, one row after another.

pub mod embed;
pub mod encoder_attention;
pub mod gated_activation;
pub mod gather;
pub mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub mod paged_attention;
pub mod pool;
pub mod rms_norm;
pub mod rope_kv;

use crate::device::Activation;

/// Every kernel, by the name of its files.
pub const KERNELS: &[&str] = &[
    "embed",
    "encoder_attention",
    "gated_activation",
    "gather",
    "l2_normalize",
    "layer_norm",
    "linear",
    "paged_attention",
    "pool",
    "rms_norm",
    "rope_kv",
];

/// An activation of one element, in f64 inside.
pub fn activate(activation: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match activation {
        Activation::None => x,
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
    };
    y as f32
}

/// The error function to about 1e-15: its Maclaurin series near zero, a continued fraction of erfc in the tails.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return 2.0 / std::f64::consts::PI.sqrt() * sum;
    }
    // erfc(a) = exp(−a²) / √π · 1 / (a + (1/2) / (a + (2/2) / (a + (3/2) / …))), evaluated from the inside out.
    let fraction = (1..=60).rev().fold(a, |inner, k| a + f64::from(k) / 2.0 / inner);
    let tail = (-a * a).exp() / std::f64::consts::PI.sqrt() / fraction;
    (1.0 - tail).copysign(x)
}

/// `exp(x − max)` of each score, divided by their sum: the softmax that both attentions use.
pub(crate) fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Dot product in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_the_table_agree_with_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kernels");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder of this file")
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        assert_eq!(files, KERNELS);
    }

    #[test]
    fn is_the_error_function_right() {
        // Values of Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - y).abs() < 1e-10, "{x}");
            assert!((erf(-x) + y).abs() < 1e-10, "−{x}");
        }
        assert!((erf(2.4999999) - erf(2.5000001)).abs() < 1e-9);
    }
}
