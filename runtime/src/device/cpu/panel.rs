//! Linear layers over packed weights for many rows: weights are decoded once into a panel, and register tiles of
//! the output pass over it.
//!
//! The order of summation of an output is that of [`super::linear`]: sums go on from panel to panel in f32.
#![allow(clippy::needless_range_loop, reason = "rows and groups index several arrays of registers at once")]

use super::decode::{Sink, decode};
use super::lanes::{LANES, Lanes};
use super::linear::Linear;
use super::memory::Scratch;

/// Columns of a panel: two groups of it (128 KB) stay in a core's L2 cache while all rows of x pass by.
const PANEL_COLS: usize = 1024;

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
/// As for [`super::linear::fused_chunk`].
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
