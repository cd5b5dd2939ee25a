//! Dequantises packed weights into registers, column by column, and hands them to a sink.
//!
//! The only place that computes a weight from its stored form for a product: whatever a sink does with it, the bits
//! of the weight are the same.
#![allow(clippy::needless_range_loop, reason = "groups index several arrays of registers at once")]

use super::lanes::{LANES, Lanes};
use super::weight::{Kind, Scales};

/// Takes dequantised weights, column by column: `w[g]` holds sixteen rows of the g-th group.
pub trait Sink<L: Lanes, const G: usize> {
    unsafe fn take(&mut self, column: usize, w: [L; G]);

    /// Bytes from a block to one that will be wanted soon, or 0.
    fn ahead(&self) -> usize {
        0
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
pub unsafe fn decode<L: Lanes, S: Sink<L, G>, const G: usize>(
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
