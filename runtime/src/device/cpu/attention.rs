//! Attention, paged and bidirectional: scores, softmax, weighted sum, for one query head of one row at a time.
//!
//! Two passes over the positions in their order, however rows are batched or a prompt was cut into chunks: a row's
//! result depends on its sequence alone, to the bit.

use super::lanes::{LANES, Lanes, exp};
use super::memory::Scratch;
use crate::device::{HeadShape, KvShape};
use crate::kernels::paged_attention::Paging;

/// An attention op. Work is cut by rows, and each row by kv heads.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    pub qkv: *const f32,
    /// Elements from one row of qkv to the next.
    pub width: usize,
    pub m: usize,
    pub heads: HeadShape,
    pub scale: f32,
    pub out: *mut f32,
    pub source: Source<'a>,
    /// (row, kv head) pairs of one chunk.
    pub chunk_pairs: usize,
    /// Most positions a row attends to.
    pub positions_max: usize,
}

/// Where keys and values are.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Paged {
        paging: Paging<'a>,
        shape: KvShape,
        keys: *const f32,
        values: *const f32,
    },
    /// In qkv itself: sequence s is rows `starts[s] .. starts[s + 1]`.
    Rows {
        starts: &'a [u32],
    },
}

impl Attention<'_> {
    pub fn chunks(&self) -> usize {
        (self.m * self.heads.kv_heads).div_ceil(self.chunk_pairs)
    }

    /// What a row attends to through one kv head.
    #[inline(always)]
    unsafe fn view(&self, row: usize, kv_head: usize) -> View<'_> {
        let head_dim = self.heads.head_dim;
        match self.source {
            Source::Paged { paging, shape, keys, values } => {
                let table = &paging.block_tables[paging.sequence[row] as usize * paging.table_width..];
                let at = kv_head * shape.block_tokens * head_dim;
                unsafe {
                    View {
                        keys: keys.add(at),
                        values: values.add(at),
                        table,
                        block_stride: shape.kv_heads * shape.block_tokens * head_dim,
                        block_tokens: shape.block_tokens,
                        stride: head_dim,
                        positions: paging.position[row] as usize + 1,
                    }
                }
            }
            Source::Rows { starts } => {
                // The last sequence that begins at or before the row; sequences are not empty.
                let sequence = starts.partition_point(|start| *start as usize <= row) - 1;
                let (start, end) = (starts[sequence] as usize, starts[sequence + 1] as usize);
                let (part, at) = (self.heads.heads * head_dim, start * self.width + kv_head * head_dim);
                unsafe {
                    View {
                        keys: self.qkv.add(at + part),
                        values: self.qkv.add(at + 2 * part),
                        table: &[0],
                        block_stride: 0,
                        block_tokens: end - start,
                        stride: self.width,
                        positions: end - start,
                    }
                }
            }
        }
    }
}

/// Keys and values of one row and kv head, in runs of equally spaced positions.
#[derive(Clone, Copy)]
struct View<'a> {
    keys: *const f32,
    values: *const f32,
    table: &'a [u32],
    block_stride: usize,
    block_tokens: usize,
    stride: usize,
    positions: usize,
}

impl View<'_> {
    /// Calls for each run with its first position, its length and its offset from `keys` and `values`.
    #[inline(always)]
    fn runs(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let blocks = self.positions.div_ceil(self.block_tokens);
        self.table[..blocks].iter().enumerate().map(|(i, block)| {
            let first = i * self.block_tokens;
            (first, (self.positions - first).min(self.block_tokens), *block as usize * self.block_stride)
        })
    }
}

/// A chunk of (row, kv head) pairs.
///
/// # Safety
/// Pointers and tables are good for the shapes, and the machine has L's instructions.
#[inline(always)]
pub unsafe fn chunk<L: Lanes>(task: &Attention<'_>, chunk: usize, scratch: &mut Scratch) {
    let HeadShape { heads, kv_heads, head_dim } = task.heads;
    let scores = scratch.elements(task.positions_max.next_multiple_of(LANES));
    let first = chunk * task.chunk_pairs;
    for pair in first..(first + task.chunk_pairs).min(task.m * kv_heads) {
        let (row, kv_head) = (pair / kv_heads, pair % kv_heads);
        unsafe {
            let view = task.view(row, kv_head);
            for head in kv_head * (heads / kv_heads)..(kv_head + 1) * (heads / kv_heads) {
                let q = task.qkv.add(row * task.width + head * head_dim);
                fill_scores::<L>(q, head_dim, &view, scores);
                let sum = softmax::<L>(scores, view.positions, task.scale);
                let out = task.out.add((row * heads + head) * head_dim);
                weigh::<L>(scores, sum, &view, (out, head_dim));
            }
        }
    }
}

/// `scores[p] = q · key[p]`.
#[inline(always)]
unsafe fn fill_scores<L: Lanes>(q: *const f32, head_dim: usize, view: &View<'_>, scores: *mut f32) {
    for (first, count, offset) in view.runs() {
        for i in 0..count {
            unsafe {
                let key = view.keys.add(offset + i * view.stride);
                let mut sum = L::zero();
                let mut d = 0;
                while d + LANES <= head_dim {
                    sum = L::load(q.add(d)).fma(L::load(key.add(d)), sum);
                    d += LANES;
                }
                if d < head_dim {
                    let n = head_dim - d;
                    sum = L::load_first(q.add(d), n).fma(L::load_first(key.add(d), n), sum);
                }
                *scores.add(first + i) = sum.sum();
            }
        }
    }
}

/// Replaces scores by `exp(scale · (score − max))`; returns their sum.
#[inline(always)]
unsafe fn softmax<L: Lanes>(scores: *mut f32, positions: usize, scale: f32) -> f32 {
    unsafe {
        let scale = L::splat(scale);
        let mut max = L::splat(f32::NEG_INFINITY);
        let whole = positions / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            max = max.max(L::load(scores.add(i)).mul(scale));
        }
        // The last vector is filled up with minus infinity: its weights come out as nothing.
        if whole < positions {
            for i in positions..whole + LANES {
                *scores.add(i) = 0.0;
            }
            let mut tail = [f32::NEG_INFINITY; LANES];
            let last = L::load_first(scores.add(whole), positions - whole).mul(scale);
            last.store_first(tail.as_mut_ptr(), positions - whole);
            max = max.max(L::load(tail.as_ptr()));
        }
        let max = L::splat(max.largest());
        let mut sum = L::zero();
        for i in (0..positions).step_by(LANES) {
            let weights = exp(L::load(scores.add(i)).fma(scale, L::zero().sub(max)));
            let n = (positions - i).min(LANES);
            weights.store(scores.add(i));
            sum = sum.add(L::load_first(scores.add(i), n));
        }
        sum.sum()
    }
}

/// `out = Σ weight[p] · value[p] / sum`, in strips of columns that stay in registers.
#[inline(always)]
unsafe fn weigh<L: Lanes>(weights: *const f32, sum: f32, view: &View<'_>, (out, head_dim): (*mut f32, usize)) {
    let mut d = 0;
    unsafe {
        while d + 4 * LANES <= head_dim {
            strip::<L, 4>(weights, sum, view, (out, d));
            d += 4 * LANES;
        }
        if d + 2 * LANES <= head_dim {
            strip::<L, 2>(weights, sum, view, (out, d));
            d += 2 * LANES;
        }
        if d + LANES <= head_dim {
            strip::<L, 1>(weights, sum, view, (out, d));
            d += LANES;
        }
        if d < head_dim {
            let n = head_dim - d;
            let mut acc = L::zero();
            for (first, count, offset) in view.runs() {
                for i in 0..count {
                    let value = L::load_first(view.values.add(offset + i * view.stride + d), n);
                    acc = L::splat(*weights.add(first + i)).fma(value, acc);
                }
            }
            acc.div(L::splat(sum)).store_first(out.add(d), n);
        }
    }
}

#[inline(always)]
unsafe fn strip<L: Lanes, const N: usize>(weights: *const f32, sum: f32, view: &View<'_>, (out, d): (*mut f32, usize)) {
    unsafe {
        let mut acc = [L::zero(); N];
        for (first, count, offset) in view.runs() {
            for i in 0..count {
                let value = view.values.add(offset + i * view.stride + d);
                let weight = L::splat(*weights.add(first + i));
                for (n, acc) in acc.iter_mut().enumerate() {
                    *acc = weight.fma(L::load(value.add(n * LANES)), *acc);
                }
            }
        }
        for (n, acc) in acc.into_iter().enumerate() {
            acc.div(L::splat(sum)).store(out.add(d + n * LANES));
        }
    }
}
