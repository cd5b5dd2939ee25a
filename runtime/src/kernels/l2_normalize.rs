//! Scales rows to unit length.

/// `out = x / max(‖x‖₂, 1e-12)`, by row of `cols` elements.
pub fn reference(x: &[f32], cols: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let norm = super::dot(x, x).sqrt().max(1e-12);
        out.iter_mut().zip(x).for_each(|(out, x)| *out = (f64::from(*x) / norm) as f32);
    }
}
