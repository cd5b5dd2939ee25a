//! Linear layers over packed weights: a fused product for few rows, panels and register tiles for many.
//!
//! **One order of summation.** Each output is `acc = fma(w[k], x[k], acc)` for k from the first column to the last,
//! with `w[k]` dequantised by the same instructions, in both paths and for every number of rows. That is what makes
//! a row's result independent of its batch, bit for bit. Bias and activation come after, in a pass of their own.

use super::lanes::{LANES, Lanes, activate};
use super::memory::Scratch;
use super::weight::{Kind, Part, Scales};
use crate::device::Activation;

/// Columns of a panel: two groups of it (128 KB) stay in a core's L2 cache while all rows of x pass by.
const PANEL_COLS: usize = 1024;

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
    unsafe fn finish<L: Lanes>(&self, groups: std::ops::Range<usize>, rows: std::ops::Range<usize>) {
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

/// Takes dequantised weights, column by column: `w[g]` holds sixteen rows of the g-th group.
trait Sink<L: Lanes, const G: usize> {
    unsafe fn take(&mut self, column: usize, w: [L; G]);

    /// Bytes from a block to one that will be wanted soon, or 0.
    fn ahead(&self) -> usize {
        0
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

/// Writes a panel: `LANES · G` elements for each column.
struct Panel {
    to: *mut f32,
    first: usize,
}

impl<L: Lanes, const G: usize> Sink<L, G> for Panel {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, w: [L; G]) {
        for g in 0..G {
            unsafe { w[g].store(self.to.add(((column - self.first) * G + g) * LANES)) };
        }
    }
}

#[inline(always)]
unsafe fn scales<L: Lanes>(kind: Scales, at: *const u8) -> L {
    unsafe {
        match kind {
            Scales::Half => L::load_f16(at),
            Scales::Single => L::load(at.cast()),
        }
    }
}

/// Decodes columns `from .. to` (whole blocks) of G groups into a sink.
#[inline(always)]
unsafe fn decode<L: Lanes, S: Sink<L, G>, const G: usize>(
    kind: Kind,
    groups: [*const u8; G],
    (from, to): (usize, usize),
    sink: &mut S,
) {
    let (block, bytes) = kind.block();
    let mut at = groups;
    for at in at.iter_mut() {
        *at = unsafe { at.add(from / block * bytes) };
    }
    let mut column = from;
    while column < to {
        unsafe {
            if bytes >= 64 && sink.ahead() > 0 {
                for at in at {
                    for line in (0..bytes).step_by(64) {
                        L::prefetch(at.wrapping_add(sink.ahead() + line));
                    }
                }
            }
            match kind {
                Kind::Nibbles { scales } => nibbles(scales, at, column, sink),
                Kind::Bytes { block, scales, min } => signed_bytes((block, scales, min), at, column, sink),
                Kind::F16 => sink.take(column, each(at, |at| L::load_f16(at))),
                Kind::BF16 => sink.take(column, each(at, |at| L::load_bf16(at))),
                Kind::F32 => sink.take(column, each(at, |at| L::load(at.cast()))),
            }
            for at in at.iter_mut() {
                *at = at.add(bytes);
            }
        }
        column += block;
    }
}

#[inline(always)]
fn each<L: Copy, const G: usize>(at: [*const u8; G], load: impl Fn(*const u8) -> L) -> [L; G] {
    let mut all = [load(at[0]); G];
    for g in 1..G {
        all[g] = load(at[g]);
    }
    all
}

/// 32 columns of 4 bits. `q · scale + min` is computed as `(1 + q / 16) · 16 scale + (min − 16 scale)`, because
/// `1 + q / 16` is the nibble moved into the mantissa of 1.0: two integer instructions instead of a conversion.
#[inline(always)]
unsafe fn nibbles<L: Lanes, S: Sink<L, G>, const G: usize>(
    kind: Scales,
    at: [*const u8; G],
    column: usize,
    sink: &mut S,
) {
    unsafe {
        let (mut by, mut plus) = ([L::zero(); G], [L::zero(); G]);
        for g in 0..G {
            by[g] = scales::<L>(kind, at[g]).mul(L::splat(16.0));
            plus[g] = scales::<L>(kind, at[g].add(kind.bytes())).sub(by[g]);
        }
        let quants: [*const u8; G] = at.map(|at| at.add(2 * kind.bytes()));
        for word in 0..4 {
            let words = quants.map(|at| L::load_words(at.add(word * 4 * LANES)));
            let first = column + 4 * word;
            sink.take(first, nibble::<L, 0, G>(words, by, plus));
            sink.take(first + 1, nibble::<L, 2, G>(words, by, plus));
            sink.take(first + 2, nibble::<L, 4, G>(words, by, plus));
            sink.take(first + 3, nibble::<L, 6, G>(words, by, plus));
        }
        for word in 0..4 {
            let words = quants.map(|at| L::load_words(at.add(word * 4 * LANES)));
            let first = column + 16 + 4 * word;
            sink.take(first, nibble::<L, 1, G>(words, by, plus));
            sink.take(first + 1, nibble::<L, 3, G>(words, by, plus));
            sink.take(first + 2, nibble::<L, 5, G>(words, by, plus));
            sink.take(first + 3, nibble::<L, 7, G>(words, by, plus));
        }
    }
}

#[inline(always)]
unsafe fn nibble<L: Lanes, const P: usize, const G: usize>(words: [L::Words; G], by: [L; G], plus: [L; G]) -> [L; G] {
    let mut w = by;
    for g in 0..G {
        w[g] = unsafe { L::unit_nibble::<P>(words[g]).fma(by[g], plus[g]) };
    }
    w
}

/// 16 or 32 columns of signed bytes.
#[inline(always)]
unsafe fn signed_bytes<L: Lanes, S: Sink<L, G>, const G: usize>(
    (block, kind, min): (usize, Scales, bool),
    at: [*const u8; G],
    column: usize,
    sink: &mut S,
) {
    unsafe {
        let by = each(at, |at| scales::<L>(kind, at));
        let plus = if min { each(at, |at| scales::<L>(kind, at.add(kind.bytes()))) } else { [L::zero(); G] };
        let quants: [*const u8; G] = at.map(|at| at.add(kind.bytes() * (1 + usize::from(min))));
        for half in 0..block / 16 {
            for i in 0..16 {
                let mut w = by;
                for g in 0..G {
                    w[g] = L::load_i8(quants[g].add((half * 16 + i) * LANES)).fma(by[g], plus[g]);
                }
                sink.take(column + half * 16 + i, w);
            }
        }
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

/// A tile of M rows and G groups over the columns of one panel.
#[inline(always)]
unsafe fn tile<L: Lanes, const M: usize, const G: usize>(tile: &Tile, row: usize) {
    unsafe {
        let out = tile.out.add(row * tile.out_stride);
        let mut sums = [[L::zero(); G]; M];
        if tile.resume {
            for m in 0..M {
                for g in 0..G {
                    let n = tile.valid.saturating_sub(g * LANES).min(LANES);
                    sums[m][g] = L::load_first(out.add(m * tile.out_stride).wrapping_add(g * LANES), n);
                }
            }
        }
        let mut x = tile.x.add(row * tile.x_stride);
        let mut panel = tile.panel;
        for _ in 0..tile.cols {
            let mut w = [L::zero(); G];
            for (g, w) in w.iter_mut().enumerate() {
                *w = L::load(panel.add(g * LANES));
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = L::splat(*x.add(m * tile.x_stride));
                for g in 0..G {
                    sums[g] = w[g].fma(x, sums[g]);
                }
            }
            x = x.add(1);
            panel = panel.add(G * LANES);
        }
        for m in 0..M {
            for g in 0..G {
                let n = tile.valid.saturating_sub(g * LANES).min(LANES);
                sums[m][g].store_first(out.add(m * tile.out_stride).wrapping_add(g * LANES), n);
            }
        }
    }
}

/// What the tiles of one panel have in common.
struct Tile {
    x: *const f32,
    x_stride: usize,
    panel: *const f32,
    cols: usize,
    out: *mut f32,
    out_stride: usize,
    /// Outputs of a row that exist.
    valid: usize,
    /// Sums of earlier panels are in `out`.
    resume: bool,
}

/// A chunk of the panel path: `chunk_groups` groups, G at a time, of `chunk_rows` rows.
///
/// # Safety
/// As for [`fused_chunk`].
#[inline(always)]
pub unsafe fn panel_chunk<L: Lanes, const G: usize>(task: &Linear, chunk: usize, scratch: &mut Scratch) {
    let group_chunks = task.part.groups().div_ceil(task.chunk_groups);
    let first = chunk % group_chunks * task.chunk_groups;
    let end = (first + task.chunk_groups).min(task.part.groups());
    let first_row = chunk / group_chunks * task.chunk_rows;
    let rows = first_row..(first_row + task.chunk_rows).min(task.m);
    let panel = scratch.elements(PANEL_COLS * G * LANES);
    let mut group = first;
    while group < end {
        for from in (0..task.cols).step_by(PANEL_COLS) {
            let to = (from + PANEL_COLS).min(task.cols);
            unsafe {
                fill::<L, G>(task, group, (from, to), panel);
                let tile = Tile {
                    x: task.x.add(from),
                    x_stride: task.cols,
                    panel,
                    cols: to - from,
                    out: task.out.add(group * LANES),
                    out_stride: task.out_stride,
                    valid: (task.part.rows - group * LANES).min(G * LANES),
                    resume: from > 0,
                };
                tiles::<L, G>(&tile, rows.clone());
            }
        }
        group += G;
    }
    unsafe { task.finish::<L>(first..end, rows) };
}

/// Decodes G groups into the panel; a group past the part's end repeats the last one, and is not stored.
#[inline(always)]
unsafe fn fill<L: Lanes, const G: usize>(task: &Linear, group: usize, columns: (usize, usize), panel: *mut f32) {
    unsafe {
        let mut groups = [task.part.base; G];
        for (g, at) in groups.iter_mut().enumerate() {
            *at = task.part.group((group + g).min(task.part.groups() - 1));
        }
        let mut sink = Panel { to: panel, first: columns.0 };
        decode::<L, _, G>(task.part.kind, groups, columns, &mut sink);
    }
}

#[inline(always)]
unsafe fn tiles<L: Lanes, const G: usize>(shared: &Tile, rows: std::ops::Range<usize>) {
    let mut row = rows.start;
    while row < rows.end {
        let m = (rows.end - row).min(L::TILE_ROWS);
        unsafe {
            match m {
                1 => tile::<L, 1, G>(shared, row),
                2 => tile::<L, 2, G>(shared, row),
                3 => tile::<L, 3, G>(shared, row),
                4 => tile::<L, 4, G>(shared, row),
                5 if L::TILE_ROWS >= 5 => tile::<L, 5, G>(shared, row),
                6 if L::TILE_ROWS >= 6 => tile::<L, 6, G>(shared, row),
                7 if L::TILE_ROWS >= 7 => tile::<L, 7, G>(shared, row),
                _ if L::TILE_ROWS >= 8 => tile::<L, 8, G>(shared, row),
                _ => {}
            }
        }
        row += m;
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
