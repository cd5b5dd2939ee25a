//! Root-mean-square normalisation with the residual addition before it.

/// `x += add` (kept), then `out = x / sqrt(mean(x²) + eps) · weight`, for each row of `weight.len()` elements.
pub fn reference(x: &mut [f32], add: Option<&[f32]>, weight: &[f32], eps: f32, out: &mut [f32]) {
    if let Some(add) = add {
        x.iter_mut().zip(add).for_each(|(x, add)| *x += add);
    }
    let cols = weight.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = super::dot(x, x) / cols as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = (f64::from(*x) * scale * f64::from(*weight)) as f32;
        }
    }
}
