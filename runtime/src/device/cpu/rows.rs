//! The ops that work on one row at a time: embeddings, norms, gates, gathers, pooling.
//!
//! A row's sums are taken in sixteen lanes and then by one tree, so they do not depend on any other row.

use super::lanes::{LANES, Lanes, activate};
use super::pack::decode_row;
use super::weight::{Data, Weight};
use crate::device::{Activation, Pooling};

/// An op on rows; `cols` are those of the output.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub op: RowOp<'a>,
    pub rows: usize,
    pub cols: usize,
    pub out: *mut f32,
    /// Rows of one chunk.
    pub chunk_rows: usize,
}

/// Pointers are to whole values, row-major.
#[derive(Clone, Copy)]
pub enum RowOp<'a> {
    Embed { table: &'a Weight, ids: &'a [u32], accumulate: bool },
    RmsNorm { x: *mut f32, add: *const f32, weight: *const f32, eps: f32 },
    LayerNorm { x: *mut f32, add: *const f32, affine: (*const f32, *const f32), eps: f32 },
    Gate { gate_up: *const f32, activation: Activation },
    Gather { x: *const f32, rows: &'a [u32] },
    Pool { x: *const f32, starts: &'a [u32], pooling: Pooling },
    L2Normalize { x: *const f32 },
}

impl Rows<'_> {
    pub fn chunks(&self) -> usize {
        self.rows.div_ceil(self.chunk_rows)
    }
}

/// Calls with the first element and the number of elements of each vector of a row.
#[inline(always)]
fn vectors(cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..cols).step_by(LANES).map(move |i| (i, (cols - i).min(LANES)))
}

/// A chunk of rows.
///
/// # Safety
/// Pointers and indices are good for the shapes, and the machine has L's instructions.
#[inline(always)]
pub unsafe fn chunk<L: Lanes>(task: &Rows<'_>, chunk: usize) {
    let first = chunk * task.chunk_rows;
    for row in first..(first + task.chunk_rows).min(task.rows) {
        let (cols, out) = (task.cols, unsafe { task.out.add(row * task.cols) });
        let at = row * cols;
        unsafe {
            match task.op {
                RowOp::Embed { table, ids, accumulate } => embed(table, ids[row] as usize, accumulate, out),
                RowOp::RmsNorm { x, add, weight, eps } => {
                    let x = add_to::<L>(x.add(at), add, at, cols);
                    rms_norm::<L>(x, weight, eps, (out, cols));
                }
                RowOp::LayerNorm { x, add, affine, eps } => {
                    let x = add_to::<L>(x.add(at), add, at, cols);
                    layer_norm::<L>(x, affine, eps, (out, cols));
                }
                RowOp::Gate { gate_up, activation } => gate::<L>(gate_up.add(2 * at), activation, out, cols),
                RowOp::Gather { x, rows } => {
                    std::ptr::copy_nonoverlapping(x.add(rows[row] as usize * cols), out, cols);
                }
                RowOp::Pool { x, starts, pooling } => {
                    pool::<L>(x, (starts[row] as usize, starts[row + 1] as usize), pooling, (out, cols));
                }
                RowOp::L2Normalize { x } => l2_normalize::<L>(x.add(at), out, cols),
            }
        }
    }
}

unsafe fn embed(table: &Weight, id: usize, accumulate: bool, out: *mut f32) {
    let cols = table.shape.cols;
    let out = unsafe { std::slice::from_raw_parts_mut(out, cols) };
    let mut row = vec![0.0; if accumulate { cols } else { 0 }];
    let to = if accumulate { row.as_mut_slice() } else { &mut *out };
    match &table.data {
        Data::Vector(data) => to.copy_from_slice(unsafe { std::slice::from_raw_parts(data.add(id * cols), cols) }),
        Data::Panels(parts) => {
            let part = parts.iter().rfind(|part| part.first_row <= id).expect("the first part begins at row 0");
            unsafe { decode_row(part, id - part.first_row, to) };
        }
    }
    row.iter().zip(out).for_each(|(row, out)| *out += row);
}

/// `x += add`, if there is something to add; the row of x.
#[inline(always)]
unsafe fn add_to<L: Lanes>(x: *mut f32, add: *const f32, at: usize, cols: usize) -> *const f32 {
    if !add.is_null() {
        for (i, n) in vectors(cols) {
            unsafe { L::load_first(x.add(i), n).add(L::load_first(add.add(at + i), n)).store_first(x.add(i), n) };
        }
    }
    x
}

#[inline(always)]
unsafe fn sum_of_squares<L: Lanes>(x: *const f32, less: f32, cols: usize) -> f32 {
    let less = unsafe { L::splat(less) };
    let mut sum = unsafe { L::zero() };
    for (i, n) in vectors(cols) {
        unsafe {
            // Lanes past the end must add nothing: they hold `less`, so that the difference is zero.
            let mut x = L::load_first(x.add(i), n);
            if n < LANES {
                let mut padded = [0.0; LANES];
                less.store(padded.as_mut_ptr());
                x.store_first(padded.as_mut_ptr(), n);
                x = L::load(padded.as_ptr());
            }
            let x = x.sub(less);
            sum = x.fma(x, sum);
        }
    }
    unsafe { sum.sum() }
}

#[inline(always)]
unsafe fn rms_norm<L: Lanes>(x: *const f32, weight: *const f32, eps: f32, (out, cols): (*mut f32, usize)) {
    unsafe {
        let mean = sum_of_squares::<L>(x, 0.0, cols) / cols as f32;
        let scale = L::splat(1.0 / (mean + eps).sqrt());
        for (i, n) in vectors(cols) {
            let y = L::load_first(x.add(i), n).mul(scale).mul(L::load_first(weight.add(i), n));
            y.store_first(out.add(i), n);
        }
    }
}

#[inline(always)]
unsafe fn layer_norm<L: Lanes>(
    x: *const f32,
    (weight, bias): (*const f32, *const f32),
    eps: f32,
    (out, cols): (*mut f32, usize),
) {
    unsafe {
        let mut sum = L::zero();
        for (i, n) in vectors(cols) {
            sum = sum.add(L::load_first(x.add(i), n));
        }
        let mean = sum.sum() / cols as f32;
        let scale = L::splat(1.0 / (sum_of_squares::<L>(x, mean, cols) / cols as f32 + eps).sqrt());
        for (i, n) in vectors(cols) {
            let y = L::load_first(x.add(i), n).sub(L::splat(mean)).mul(scale);
            let y = y.fma(L::load_first(weight.add(i), n), L::load_first(bias.add(i), n));
            y.store_first(out.add(i), n);
        }
    }
}

#[inline(always)]
unsafe fn gate<L: Lanes>(gate_up: *const f32, activation: Activation, out: *mut f32, cols: usize) {
    for (i, n) in vectors(cols) {
        unsafe {
            let up = L::load_first(gate_up.add(cols + i), n);
            activate(activation, L::load_first(gate_up.add(i), n)).mul(up).store_first(out.add(i), n);
        }
    }
}

#[inline(always)]
unsafe fn pool<L: Lanes>(
    x: *const f32,
    (start, end): (usize, usize),
    pooling: Pooling,
    (out, cols): (*mut f32, usize),
) {
    unsafe {
        match pooling {
            Pooling::Cls => std::ptr::copy_nonoverlapping(x.add(start * cols), out, cols),
            Pooling::Last => std::ptr::copy_nonoverlapping(x.add((end - 1) * cols), out, cols),
            Pooling::Mean => {
                let count = L::splat((end - start) as f32);
                for (i, n) in vectors(cols) {
                    let mut sum = L::zero();
                    for row in start..end {
                        sum = sum.add(L::load_first(x.add(row * cols + i), n));
                    }
                    sum.div(count).store_first(out.add(i), n);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn l2_normalize<L: Lanes>(x: *const f32, out: *mut f32, cols: usize) {
    unsafe {
        let norm = L::splat(sum_of_squares::<L>(x, 0.0, cols).sqrt().max(1e-12));
        for (i, n) in vectors(cols) {
            L::load_first(x.add(i), n).div(norm).store_first(out.add(i), n);
        }
    }
}
