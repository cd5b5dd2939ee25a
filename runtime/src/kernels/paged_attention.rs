//! Causal attention over the paged KV cache, one query row at a time.

use super::rope_kv::{KvLayer, slot_offset};
use crate::device::{HeadShape, KvShape};

/// Which cached positions each row sees: row r sees positions `0 ..= position[r]` of `sequence[r]`.
#[derive(Clone, Copy, Debug)]
pub struct Paging<'a> {
    pub sequence: &'a [u32],
    pub position: &'a [u32],
    /// `[sequences, table_width]`: block numbers of each sequence in order.
    pub block_tables: &'a [u32],
    pub table_width: usize,
}

impl Paging<'_> {
    /// The slot that holds a position of row `r`'s sequence.
    pub fn slot(&self, r: usize, position: usize, block_tokens: usize) -> usize {
        let entry = self.sequence[r] as usize * self.table_width + position / block_tokens;
        self.block_tables[entry] as usize * block_tokens + position % block_tokens
    }
}

/// `out [m, heads · head_dim]`; `qkv` rows begin with q, and are `qkv.len() / m` long.
pub fn reference(
    (heads, scale): (HeadShape, f32),
    paging: Paging<'_>,
    (shape, layer): (&KvShape, &KvLayer),
    qkv: &[f32],
    out: &mut [f32],
) {
    let HeadShape { heads, kv_heads, head_dim } = heads;
    let width = qkv.len() / paging.position.len().max(1);
    for (r, row) in out.chunks_exact_mut(heads * head_dim).enumerate() {
        let positions = paging.position[r] as usize + 1;
        for (head, out) in row.chunks_exact_mut(head_dim).enumerate() {
            let q = &qkv[r * width + head * head_dim..][..head_dim];
            let at = |position| {
                let slot = paging.slot(r, position, shape.block_tokens);
                slot_offset(shape, slot, head / (heads / kv_heads))
            };
            let mut scores: Vec<f64> = (0..positions)
                .map(|position| super::dot(q, &layer.keys[at(position)..][..head_dim]) * f64::from(scale))
                .collect();
            super::softmax(&mut scores);
            for (i, out) in out.iter_mut().enumerate() {
                let sum: f64 = scores.iter().enumerate().map(|(p, w)| w * f64::from(layer.values[at(p) + i])).sum();
                *out = sum as f32;
            }
        }
    }
}
