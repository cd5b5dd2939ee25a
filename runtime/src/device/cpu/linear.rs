//! Linear layers over packed weights for few rows: each weight is decoded into a register and used there.
//!
//! For many rows see [`super::panel`].
//!
//! **One order of summation.** Each output is `acc = fma(w[k], x[k], acc)` for k from the first column to the last,
//! with `w[k]` dequantised by the same instructions, in both paths and for every number of rows. That is what makes
//! a row's result independent of its batch, bit for bit. Bias and activation come after, in a pass of their own.
#![allow(clippy::needless_range_loop, reason = "rows and groups index several arrays of registers at once")]

use super::decode::{Sink, decode};
use super::lanes::{LANES, Lanes, activate};
use super::weight::{Kind, Part, Scales};
use crate::device::Activation;

/// Up to this many rows a product decodes weights straight into registers; above, into a panel.
pub const FUSED_ROWS: usize = 8;

/// One part of a linear layer in a run.
#[derive(Clone, Copy)]
pub struct Linear {
    pub part: Part,
    pub cols: usize,
    pub x: *const f32,
    pub m: usize,
    /// First output of the part in the first row.
    pub out: *mut f32,
    /// Elements from one output row to the next.
    pub out_stride: usize,
    /// First element of the part's bias, or null.
    pub bias: *const f32,
    pub activation: Activation,
    /// Groups of one chunk.
    pub chunk_groups: usize,
    /// Rows of one chunk.
    pub chunk_rows: usize,
}

impl Linear {
    pub fn chunks(&self) -> usize {
        self.part.groups().div_ceil(self.chunk_groups) * self.m.div_ceil(self.chunk_rows)
    }

    /// Outputs of a group that exist, at most sixteen.
    #[inline(always)]
    fn valid(&self, group: usize) -> usize {
        (self.part.rows - (group * LANES).min(self.part.rows)).min(LANES)
    }

    /// Bias and activation of finished sums.
    #[inline(always)]
    pub unsafe fn finish<L: Lanes>(&self, groups: std::ops::Range<usize>, rows: std::ops::Range<usize>) {
        if self.bias.is_null() && self.activation == Activation::None {
            return;
        }
        for row in rows {
            for group in groups.clone() {
                unsafe {
                    let (n, out) = (self.valid(group), self.out.add(row * self.out_stride + group * LANES));
                    let mut y = L::load_first(out, n);
                    if !self.bias.is_null() {
                        y = y.add(L::load_first(self.bias.add(group * LANES), n));
                    }
                    activate(self.activation, y).store_first(out, n);
                }
            }
        }
    }
}

/// Multiplies by M rows of x.
struct Product<L, const M: usize, const G: usize> {
    x: [*const f32; M],
    sums: [[L; G]; M],
    ahead: usize,
}

impl<L: Lanes, const M: usize, const G: usize> Sink<L, G> for Product<L, M, G> {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, w: [L; G]) {
        for m in 0..M {
            let x = unsafe { L::splat(*self.x[m].add(column)) };
            for g in 0..G {
                self.sums[m][g] = unsafe { w[g].fma(x, self.sums[m][g]) };
            }
        }
    }

    #[inline(always)]
    fn ahead(&self) -> usize {
        self.ahead
    }
}

/// All columns of G groups times M rows from `row` on.
#[inline(always)]
unsafe fn product<L: Lanes, const M: usize, const G: usize>(task: &Linear, group: usize, row: usize) {
    unsafe {
        let mut x = [task.x; M];
        for (m, x) in x.iter_mut().enumerate() {
            *x = x.add((row + m) * task.cols);
        }
        let mut groups = [task.part.base; G];
        for (g, at) in groups.iter_mut().enumerate() {
            *at = task.part.group(group + g);
        }
        let mut sink = Product::<L, M, G> { x, sums: [[L::zero(); G]; M], ahead: G * task.part.group_bytes };
        // A kind known at the loop is a loop of its own: the match is taken out of `decode` here.
        match task.part.kind {
            Kind::Nibbles { scales: Scales::Half } => {
                decode(Kind::Nibbles { scales: Scales::Half }, groups, (0, task.cols), &mut sink);
            }
            Kind::Bytes { block: 32, scales: Scales::Half, min: false } => {
                let kind = Kind::Bytes { block: 32, scales: Scales::Half, min: false };
                decode(kind, groups, (0, task.cols), &mut sink);
            }
            Kind::F32 => decode(Kind::F32, groups, (0, task.cols), &mut sink),
            other => decode(other, groups, (0, task.cols), &mut sink),
        }
        for m in 0..M {
            for g in 0..G {
                let out = task.out.add((row + m) * task.out_stride + (group + g) * LANES);
                sink.sums[m][g].store_first(out, task.valid(group + g));
            }
        }
    }
}

/// Products of M rows with the groups `group .. end`, G at a time and then one by one.
#[inline(always)]
unsafe fn groups<L: Lanes, const M: usize, const G: usize>(task: &Linear, mut group: usize, end: usize) {
    unsafe {
        while group + G <= end {
            product::<L, M, G>(task, group, 0);
            group += G;
        }
        while group < end {
            product::<L, M, 1>(task, group, 0);
            group += 1;
        }
    }
}

/// A chunk of the fused path: at most [`FUSED_ROWS`] rows; G1 groups at once for one row, G for more.
///
/// # Safety
/// The task's pointers are good for its shapes, and the machine has L's instructions.
#[inline(always)]
pub unsafe fn fused_chunk<L: Lanes, const G1: usize, const G: usize>(task: &Linear, chunk: usize) {
    let first = chunk * task.chunk_groups;
    let end = (first + task.chunk_groups).min(task.part.groups());
    unsafe {
        match task.m {
            1 => groups::<L, 1, G1>(task, first, end),
            2 => groups::<L, 2, G>(task, first, end),
            3 => groups::<L, 3, G>(task, first, end),
            4 => groups::<L, 4, G>(task, first, end),
            5 => groups::<L, 5, G>(task, first, end),
            6 => groups::<L, 6, G>(task, first, end),
            7 => groups::<L, 7, G>(task, first, end),
            _ => groups::<L, FUSED_ROWS, G>(task, first, end),
        }
        task.finish::<L>(first..end, 0..task.m);
    }
}

/// One row of a linear layer over a vector weight, which is row-major: lane by lane, in the same order of summation.
///
/// # Safety
/// As for [`fused_chunk`], with `part.base` leading to `[part.rows, cols]` f32.
#[inline(always)]
pub unsafe fn vector_chunk<L: Lanes>(task: &Linear, row: usize) {
    unsafe {
        let (x, weight) = (task.x.add(row * task.cols), task.part.base.cast::<f32>());
        for n in 0..task.part.rows {
            let mut sum = L::zero();
            for k in 0..task.cols {
                sum = L::splat(*weight.add(n * task.cols + k)).fma(L::splat(*x.add(k)), sum);
            }
            sum.store_first(task.out.add(row * task.out_stride + n), 1);
        }
        task.finish::<L>(0..task.part.groups(), row..row + 1);
    }
}
