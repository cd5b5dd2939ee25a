//! Bidirectional attention within each sequence of a ragged batch, without a cache.

use crate::device::HeadShape;

/// Sequence s is rows `starts[s] .. starts[s + 1]`; `qkv [m, 3 · heads · head_dim]`, `out [m, heads · head_dim]`.
pub fn reference(heads: HeadShape, scale: f32, starts: &[u32], qkv: &[f32], out: &mut [f32]) {
    let HeadShape { heads, head_dim, .. } = heads;
    let width = heads * head_dim;
    let part = |row: usize, part: usize, head: usize| &qkv[(3 * row + part) * width + head * head_dim..][..head_dim];
    for range in starts.windows(2) {
        let rows = range[0] as usize..range[1] as usize;
        for (row, head) in rows.clone().flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let q = part(row, 0, head);
            let mut scores: Vec<f64> =
                rows.clone().map(|other| super::dot(q, part(other, 1, head)) * f64::from(scale)).collect();
            super::softmax(&mut scores);
            for i in 0..head_dim {
                let values = rows.clone().map(|other| f64::from(part(other, 2, head)[i]));
                let sum: f64 = scores.iter().zip(values).map(|(weight, value)| weight * value).sum();
                out[row * width + head * head_dim + i] = sum as f32;
            }
        }
    }
}
