//! Stored blocks → the words that `kernels/common/unpack.wgsl` reads. Keeps every bit of every quant and scale.
//!
//! A packed row is the quants of the whole row, in element order and without gaps, then its scales: blocks of 18 or
//! 22 bytes cannot be read as words, and lanes that read neighbouring quants should read neighbouring words.

use crate::weights::ElementType;
use crate::weights::element::k_scale_min;

/// Words of one packed row of `cols` elements (whole blocks).
pub(super) fn row_words(element: ElementType, cols: usize) -> usize {
    let blocks = cols / element.block_elements();
    match element {
        ElementType::F32 => cols,
        ElementType::F16 | ElementType::BF16 => cols.div_ceil(8) * 4,
        ElementType::Q4_0 => 4 * blocks + blocks.div_ceil(2),
        ElementType::Q4_1 => 5 * blocks,
        ElementType::Q5_0 => 5 * blocks + blocks.div_ceil(2),
        ElementType::Q5_1 => 6 * blocks,
        ElementType::Q8_0 => 8 * blocks + blocks.div_ceil(2),
        ElementType::Q4_K => 37 * blocks,
        ElementType::Q5_K => 45 * blocks,
        ElementType::Q6_K => 53 * blocks,
    }
}

/// Appends one packed row; `row` holds whole blocks.
pub(super) fn pack_row(element: ElementType, row: &[u8], out: &mut Vec<u32>) {
    let blocks = row.chunks_exact(element.block_bytes());
    match element {
        ElementType::F32 => return out.extend(row.chunks_exact(4).map(|b| word(b, 0))),
        ElementType::F16 | ElementType::BF16 => return halves(row, out),
        ElementType::Q8_0 => {
            blocks.clone().for_each(|block| out.extend(block[2..].chunks_exact(4).map(|b| word(b, 0))));
            return first_halves(blocks, out);
        }
        _ => {}
    }
    let mut q = [0u8; 256];
    let q = &mut q[..element.block_elements()];
    for block in blocks.clone() {
        quants(element, block, q);
        out.extend(q.as_chunks().0.iter().map(|q| squeeze(*q)));
    }
    if matches!(element, ElementType::Q5_0 | ElementType::Q5_1 | ElementType::Q5_K | ElementType::Q6_K) {
        let width = if element == ElementType::Q6_K { 2 } else { 1 };
        for block in blocks.clone() {
            quants(element, block, q);
            out.extend(q.chunks_exact(32 / width).map(|q| high_bits(q, width)));
        }
    }
    match element {
        ElementType::Q4_0 | ElementType::Q5_0 => first_halves(blocks, out),
        ElementType::Q4_1 | ElementType::Q5_1 => out.extend(blocks.map(|block| word(block, 0))),
        _ => blocks.for_each(|block| super_scales(element, block, out)),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Pairs of 16-bit elements, the row filled up with zeros to units of eight.
fn halves(row: &[u8], out: &mut Vec<u32>) {
    let end = out.len() + (row.len() / 2).div_ceil(8) * 4;
    let (pairs, rest) = row.as_chunks::<4>();
    out.extend(pairs.iter().map(|pair| u32::from_le_bytes(*pair)));
    if let [low, high] = rest {
        out.push(u32::from(u16::from_le_bytes([*low, *high])));
    }
    out.resize(end, 0);
}

/// The half that begins each block, two in a word.
fn first_halves<'a>(blocks: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u32>) {
    for (i, block) in blocks.enumerate() {
        let half = u32::from(u16::from_le_bytes([block[0], block[1]]));
        match i % 2 {
            0 => out.push(half),
            _ => *out.last_mut().expect("an even block went before") |= half << 16,
        }
    }
}

/// Scales of a 256-element block, a word each for its halves and for four bytes.
fn super_scales(element: ElementType, block: &[u8], out: &mut Vec<u32>) {
    if element == ElementType::Q6_K {
        out.push(u32::from(u16::from_le_bytes([block[208], block[209]])));
        out.extend((192..208).step_by(4).map(|at| word(block, at)));
        return;
    }
    out.push(word(block, 0));
    let pair = |j| {
        let (scale, min) = k_scale_min(&block[4..16], j);
        u32::from(scale) | (u32::from(min) << 8)
    };
    out.extend((0..8).step_by(2).map(|j| pair(j) | (pair(j + 1) << 16)));
}

/// The low nibbles of eight quants in one word, the first lowest: three folds instead of eight shifts, since this runs
/// once for every eight elements of a model before its first token.
fn squeeze(q: [u8; 8]) -> u32 {
    let q = u64::from_le_bytes(q) & 0x0f0f_0f0f_0f0f_0f0f;
    let q = (q | q >> 4) & 0x00ff_00ff_00ff_00ff;
    let q = (q | q >> 8) & 0x0000_ffff_0000_ffff;
    (q | q >> 16) as u32
}

/// What is above the low nibble, `width` bits of each quant, the first lowest.
fn high_bits(q: &[u8], width: usize) -> u32 {
    q.iter().enumerate().fold(0, |word, (i, q)| word | (u32::from(q >> 4) << (width * i)))
}

/// The unsigned quants of a block in element order, as [`ElementType::decode`] reads them.
fn quants(element: ElementType, block: &[u8], q: &mut [u8]) {
    match element {
        ElementType::Q4_0 => two_halves(&block[2..], 0, q),
        ElementType::Q4_1 => two_halves(&block[4..], 0, q),
        ElementType::Q5_0 => two_halves(&block[6..], word(block, 2), q),
        ElementType::Q5_1 => two_halves(&block[8..], word(block, 4), q),
        ElementType::Q4_K => pairs_of_32(&block[16..], None, q),
        ElementType::Q5_K => pairs_of_32(&block[48..], Some(&block[16..48]), q),
        ElementType::Q6_K => {
            for (i, q) in q.iter_mut().enumerate() {
                let (half, quarter, at) = (i / 128, i % 128 / 32, i % 32);
                let low = block[half * 64 + at + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
                let high = block[128 + half * 32 + at] >> (2 * quarter) & 3;
                *q = low | (high << 4);
            }
        }
        ElementType::F32 | ElementType::F16 | ElementType::BF16 | ElementType::Q8_0 => {
            unreachable!("{} is packed without quants", element.name())
        }
    }
}

fn two_halves(bytes: &[u8], fifth: u32, q: &mut [u8]) {
    for (i, byte) in bytes[..16].iter().enumerate() {
        q[i] = (byte & 15) | ((fifth >> i & 1) as u8) << 4;
        q[i + 16] = (byte >> 4) | ((fifth >> (i + 16) & 1) as u8) << 4;
    }
}

fn pairs_of_32(bytes: &[u8], fifth: Option<&[u8]>, q: &mut [u8]) {
    for (i, q) in q.iter_mut().enumerate() {
        let (group, at) = (i / 32, i % 32);
        let low = bytes[group / 2 * 32 + at] >> (4 * (group % 2)) & 15;
        *q = low | fifth.map_or(0, |fifth| (fifth[at] >> group & 1) << 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_every_type_fill_its_row() {
        for element in ElementType::all() {
            for units in [1, 2, 3] {
                let cols = element.block_elements() * units;
                let mut out = Vec::new();
                pack_row(element, &vec![0x5a; element.bytes(cols).unwrap()], &mut out);
                assert_eq!(out.len(), row_words(element, cols), "{} of {cols}", element.name());
            }
        }
    }
}
