//! Layer normalisation with the residual addition before it.

/// The learned part of a layer norm: `weight` and `bias` have one element for each column.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

/// `x += add` (kept), then `out = (x − mean) / sqrt(var + eps) · weight + bias`, by row.
pub fn reference(norm: LayerNorm<'_>, x: &mut [f32], add: Option<&[f32]>, out: &mut [f32]) {
    if let Some(add) = add {
        x.iter_mut().zip(add).for_each(|(x, add)| *x += add);
    }
    let cols = norm.weight.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / cols as f64;
        let var = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (var + f64::from(norm.eps)).sqrt();
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            let y = (f64::from(*x) - mean) * scale;
            *out = (y * f64::from(norm.weight[i]) + f64::from(norm.bias[i])) as f32;
        }
    }
}
