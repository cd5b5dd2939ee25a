//! Rotary embedding of q and k in place, and the store of k and v into the paged cache.
//!
//! The products are not fused, as in the reference: keys then agree with it to the last bit but one.

use super::lanes::{LANES, Lanes};
use crate::device::{HeadShape, KvShape, RopeStyle};
use crate::kernels::rope_kv::{rotate, slot_offset};

#[derive(Clone, Copy)]
pub struct RopeKv<'a> {
    pub qkv: *mut f32,
    pub m: usize,
    /// `[m, rope_dim]`.
    pub cos_sin: &'a [f32],
    pub slots: &'a [u32],
    pub shape: KvShape,
    pub keys: *mut f32,
    pub values: *mut f32,
    pub heads: HeadShape,
    pub rope_dim: usize,
    pub style: RopeStyle,
    pub chunk_rows: usize,
}

impl RopeKv<'_> {
    pub fn chunks(&self) -> usize {
        self.m.div_ceil(self.chunk_rows)
    }
}

/// A chunk of rows. Two rows never share a slot, so chunks write apart.
///
/// # Safety
/// Pointers and slots are good for the shapes, and the machine has L's instructions.
#[inline(always)]
pub unsafe fn chunk<L: Lanes>(task: &RopeKv<'_>, chunk: usize) {
    let HeadShape { heads, kv_heads, head_dim } = task.heads;
    let first = chunk * task.chunk_rows;
    for row in first..(first + task.chunk_rows).min(task.m) {
        let cos_sin = &task.cos_sin[row * task.rope_dim..][..task.rope_dim];
        unsafe {
            let qkv = task.qkv.add(row * (heads + 2 * kv_heads) * head_dim);
            for head in 0..heads + kv_heads {
                rotate_head::<L>(task.style, cos_sin, qkv.add(head * head_dim), head_dim);
            }
            for head in 0..kv_heads {
                let to = slot_offset(&task.shape, task.slots[row] as usize, head);
                let (k, v) = (qkv.add((heads + head) * head_dim), qkv.add((heads + kv_heads + head) * head_dim));
                std::ptr::copy_nonoverlapping(k, task.keys.add(to), head_dim);
                std::ptr::copy_nonoverlapping(v, task.values.add(to), head_dim);
            }
        }
    }
}

#[inline(always)]
unsafe fn rotate_head<L: Lanes>(style: RopeStyle, cos_sin: &[f32], head: *mut f32, head_dim: usize) {
    let half = cos_sin.len() / 2;
    if style == RopeStyle::Interleaved || !half.is_multiple_of(LANES) {
        // Pairs side by side: the compiler's own shuffles do.
        return rotate(style, cos_sin, unsafe { std::slice::from_raw_parts_mut(head, head_dim) });
    }
    for i in (0..half).step_by(LANES) {
        unsafe {
            let (x, y) = (L::load(head.add(i)), L::load(head.add(half + i)));
            let (cos, sin) = (L::load(cos_sin.as_ptr().add(i)), L::load(cos_sin.as_ptr().add(half + i)));
            x.mul(cos).sub(y.mul(sin)).store(head.add(i));
            x.mul(sin).add(y.mul(cos)).store(head.add(half + i));
        }
    }
}
