//! Rotary position embedding of q and k, and the store of k and v into the paged cache.

use crate::device::{HeadShape, KvShape, RopeStyle};

/// One layer of a KV cache in plain vectors, laid out as [`KvShape`] says.
#[derive(Clone, Debug, Default)]
pub struct KvLayer {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// How a row is rotated.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    pub heads: HeadShape,
    pub rope_dim: usize,
    pub style: RopeStyle,
}

/// Index of the first element of a slot's head in a layer of the cache.
pub fn slot_offset(shape: &KvShape, slot: usize, kv_head: usize) -> usize {
    let (block, token) = (slot / shape.block_tokens, slot % shape.block_tokens);
    ((block * shape.kv_heads + kv_head) * shape.block_tokens + token) * shape.head_dim
}

/// Rotates one head in place; `cos_sin` holds `rope_dim / 2` cosines, then as many sines.
pub fn rotate(style: RopeStyle, cos_sin: &[f32], head: &mut [f32]) {
    let half = cos_sin.len() / 2;
    for i in 0..half {
        let (a, b) = match style {
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            RopeStyle::Halves => (i, i + half),
        };
        let (x, y, cos, sin) = (head[a], head[b], cos_sin[i], cos_sin[half + i]);
        head[a] = x * cos - y * sin;
        head[b] = x * sin + y * cos;
    }
}

/// Rotates q and k of every row of `qkv` in place, and stores k and v of row r at `slots[r]`.
pub fn reference(
    rope: Rope,
    qkv: &mut [f32],
    cos_sin: &[f32],
    slots: &[u32],
    (shape, layer): (&KvShape, &mut KvLayer),
) {
    let HeadShape { heads, kv_heads, head_dim } = rope.heads;
    let cols = (heads + 2 * kv_heads) * head_dim;
    for (r, row) in qkv.chunks_exact_mut(cols).enumerate() {
        for head in row[..(heads + kv_heads) * head_dim].chunks_exact_mut(head_dim) {
            rotate(rope.style, &cos_sin[r * rope.rope_dim..][..rope.rope_dim], head);
        }
        for head in 0..kv_heads {
            let to = slot_offset(shape, slots[r] as usize, head);
            layer.keys[to..to + head_dim].copy_from_slice(&row[(heads + head) * head_dim..][..head_dim]);
            layer.values[to..to + head_dim].copy_from_slice(&row[(heads + kv_heads + head) * head_dim..][..head_dim]);
        }
    }
}
