//! The gate of a gated feed-forward layer (SwiGLU, GeGLU).

use crate::device::Activation;

/// `out = activation(gate) · up`: each row of `gate_up [m, 2 · n]` holds gate, then up; `out [m, n]`.
pub fn reference(activation: Activation, n: usize, gate_up: &[f32], out: &mut [f32]) {
    for (row, out) in gate_up.chunks_exact(2 * n).zip(out.chunks_exact_mut(n)) {
        let (gate, up) = row.split_at(n);
        for (i, out) in out.iter_mut().enumerate() {
            *out = super::activate(activation, gate[i]) * up[i];
        }
    }
}
