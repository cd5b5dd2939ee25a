//! A linear layer with its bias and activation.

use crate::device::Activation;

/// A decoded linear layer: `weight [rows, cols]`, `bias [rows]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    pub weight: &'a [f32],
    pub cols: usize,
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
}

/// `out = activation(x · weightᵀ + bias)`: `x [m, cols]`, `out [m, rows]`.
pub fn reference(linear: Linear<'_>, x: &[f32], out: &mut [f32]) {
    let rows = linear.weight.len() / linear.cols;
    for (x, out) in x.chunks_exact(linear.cols).zip(out.chunks_exact_mut(rows)) {
        for (n, (out, weight)) in out.iter_mut().zip(linear.weight.chunks_exact(linear.cols)).enumerate() {
            let bias = linear.bias.map_or(0.0, |bias| f64::from(bias[n]));
            *out = super::activate(linear.activation, (super::dot(x, weight) + bias) as f32);
        }
    }
}
