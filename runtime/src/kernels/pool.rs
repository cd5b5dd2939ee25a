//! Makes one row of each sequence's rows.

use crate::device::Pooling;

/// Sequence s is rows `starts[s] .. starts[s + 1]` of `x`, never empty; `out [starts.len() − 1, cols]`.
pub fn reference(pooling: Pooling, x: &[f32], cols: usize, starts: &[u32], out: &mut [f32]) {
    for (range, out) in starts.windows(2).zip(out.chunks_exact_mut(cols)) {
        let (start, end) = (range[0] as usize, range[1] as usize);
        for (i, out) in out.iter_mut().enumerate() {
            *out = match pooling {
                Pooling::Cls => x[start * cols + i],
                Pooling::Last => x[(end - 1) * cols + i],
                Pooling::Mean => {
                    let sum: f64 = (start..end).map(|row| f64::from(x[row * cols + i])).sum();
                    (sum / (end - start) as f64) as f32
                }
            };
        }
    }
}
