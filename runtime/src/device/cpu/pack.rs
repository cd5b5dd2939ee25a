//! Repacks stored tensors into groups of sixteen interleaved rows, and decodes single rows back.
//!
//! It is in the cold start, so the common types are moved without being decoded: a Q4_1 block is sixteen bytes of
//! nibbles that only change place.

use half::{bf16, f16};

use super::lanes::LANES;
use super::weight::{Kind, Part, Scales};
use crate::weights::element::k_scale_min;
use crate::weights::{ElementType, TensorView};

/// The packed kind of an element type.
pub fn kind(element: ElementType) -> Kind {
    use ElementType::*;
    let (half, single) = (Scales::Half, Scales::Single);
    match element {
        F32 => Kind::F32,
        F16 => Kind::F16,
        BF16 => Kind::BF16,
        Q4_0 | Q4_1 => Kind::Nibbles { scales: half },
        Q4_K => Kind::Nibbles { scales: single },
        Q8_0 | Q5_0 => Kind::Bytes { block: 32, scales: half, min: false },
        Q5_1 => Kind::Bytes { block: 32, scales: half, min: true },
        Q5_K => Kind::Bytes { block: 32, scales: single, min: true },
        Q6_K => Kind::Bytes { block: 16, scales: single, min: false },
    }
}

/// One row's share of one packed block, in the words of the file: scale and minimum as stored, elements as integers.
struct Block {
    /// Bits of an f16 or an f32, as the kind's scales are stored.
    scale: u32,
    min: u32,
    /// Elements of [`Kind::Bytes`]; for [`Kind::Nibbles`] the first 16 are the ggml bytes.
    elements: [u8; 32],
}

/// Packs one group: rows `LANES · group ..` of the tensor, absent rows as zeros.
pub fn pack_group(tensor: &TensorView<'_>, group: usize, out: &mut [u8]) {
    let row_bytes = tensor.bytes.len() / tensor.rows;
    let kind = kind(tensor.element);
    let rows = tensor.bytes[group * LANES * row_bytes..].chunks_exact(row_bytes).take(LANES);
    let (block_cols, block_bytes) = kind.block();
    for (lane, row) in rows.enumerate() {
        match kind {
            Kind::F32 => spread::<4>(row, lane, out),
            Kind::F16 | Kind::BF16 => spread::<2>(row, lane, out),
            Kind::Nibbles { scales } => {
                for (index, out) in out.chunks_exact_mut(block_bytes).enumerate() {
                    let block = nibble_block(tensor.element, row, index);
                    put_scales(scales, Some(block.min), block.scale, lane, out);
                    let quants = &mut out[2 * scales.bytes()..];
                    spread::<4>(&block.elements[..16], lane, quants);
                }
            }
            Kind::Bytes { scales, min, .. } => {
                for (index, out) in out.chunks_exact_mut(block_bytes).enumerate() {
                    let block = byte_block(tensor.element, row, index);
                    put_scales(scales, min.then_some(block.min), block.scale, lane, out);
                    let quants = &mut out[scales.bytes() * (1 + usize::from(min))..];
                    spread::<1>(&block.elements[..block_cols], lane, quants);
                }
            }
        }
    }
}

/// Puts units of `N` bytes of one row at its lane's place, `LANES · N` bytes apart.
#[inline(always)]
fn spread<const N: usize>(row: &[u8], lane: usize, out: &mut [u8]) {
    for (unit, out) in row.chunks_exact(N).zip(out.chunks_exact_mut(LANES * N)) {
        out[lane * N..][..N].copy_from_slice(unit);
    }
}

#[inline(always)]
fn put_scales(scales: Scales, min: Option<u32>, scale: u32, lane: usize, out: &mut [u8]) {
    for (i, bits) in [Some(scale), min].into_iter().flatten().enumerate() {
        let out = &mut out[i * scales.bytes()..];
        match scales {
            Scales::Half => out[2 * lane..][..2].copy_from_slice(&(bits as u16).to_le_bytes()),
            Scales::Single => out[4 * lane..][..4].copy_from_slice(&bits.to_le_bytes()),
        }
    }
}

#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[inline(always)]
fn half_bits(block: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Block `index` (32 columns) of a row of a 4-bit type.
#[inline(always)]
fn nibble_block(element: ElementType, row: &[u8], index: usize) -> Block {
    let mut elements = [0; 32];
    let (scale, min) = match element {
        ElementType::Q4_0 => {
            let block = &row[index * 18..][..18];
            elements[..16].copy_from_slice(&block[2..]);
            // Eight times a half is a half, unless it is infinite: q − 8 becomes q with a minimum.
            let min = f16::from_f32(-8.0 * half_at(block, 0));
            (half_bits(block, 0), u32::from(min.to_bits()))
        }
        ElementType::Q4_1 => {
            let block = &row[index * 20..][..20];
            elements[..16].copy_from_slice(&block[4..]);
            (half_bits(block, 0), half_bits(block, 2))
        }
        _ => {
            let block = &row[index / 8 * 144..][..144];
            let j = index % 8;
            let bytes = &block[16 + j / 2 * 32..][..32];
            let nibble = |i: usize| if j.is_multiple_of(2) { bytes[i] & 15 } else { bytes[i] >> 4 };
            for (i, element) in elements[..16].iter_mut().enumerate() {
                *element = nibble(i) | nibble(i + 16) << 4;
            }
            k_scales(block, j)
        }
    };
    Block { scale, min, elements }
}

fn k_scales(block: &[u8], j: usize) -> (u32, u32) {
    let (scale, min) = k_scale_min(&block[4..16], j);
    let (scale, min) = (half_at(block, 0) * f32::from(scale), -(half_at(block, 2) * f32::from(min)));
    (scale.to_bits(), min.to_bits())
}

/// Block `index` (32 columns, 16 for Q6_K) of a row of a type that is packed as bytes.
#[inline(always)]
fn byte_block(element: ElementType, row: &[u8], index: usize) -> Block {
    let mut elements = [0; 32];
    let (scale, min) = match element {
        ElementType::Q8_0 => {
            let block = &row[index * 34..][..34];
            elements.copy_from_slice(&block[2..]);
            (half_bits(block, 0), 0)
        }
        ElementType::Q5_0 | ElementType::Q5_1 => {
            let (bytes, at) = if element == ElementType::Q5_0 { (22, 2) } else { (24, 4) };
            let block = &row[index * bytes..][..bytes];
            let high = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            let zero = if at == 2 { 16 } else { 0 };
            for (i, byte) in block[at + 4..].iter().enumerate() {
                let fifth = |i: usize| ((high >> i & 1) << 4) as u8;
                elements[i] = (byte & 15 | fifth(i)).wrapping_sub(zero);
                elements[i + 16] = (byte >> 4 | fifth(i + 16)).wrapping_sub(zero);
            }
            (half_bits(block, 0), if at == 4 { half_bits(block, 2) } else { 0 })
        }
        ElementType::Q5_K => {
            let block = &row[index / 8 * 176..][..176];
            let (j, high) = (index % 8, &block[16..48]);
            for (i, element) in elements.iter_mut().enumerate() {
                let byte = block[48 + j / 2 * 32 + i];
                let nibble = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
                *element = nibble | (high[i] >> j & 1) << 4;
            }
            k_scales(block, j)
        }
        _ => {
            let block = &row[index / 16 * 210..][..210];
            let sub = index % 16;
            let (half, within) = (sub / 8, sub % 8);
            for (i, element) in elements[..16].iter_mut().enumerate() {
                let (quarter, at) = (within / 2, within % 2 * 16 + i);
                let byte = block[half * 64 + at + 32 * (quarter % 2)];
                let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
                let bits = block[128 + half * 32 + at] >> (2 * quarter) & 3;
                *element = (nibble | bits << 4).wrapping_sub(32);
            }
            ((half_at(block, 208) * f32::from(block[192 + sub] as i8)).to_bits(), 0)
        }
    };
    Block { scale, min, elements }
}

/// Decodes one row of a part from the packed bytes.
///
/// # Safety
/// `row < part.rows`, `out` is as long as the weight has columns, and the part was packed.
pub unsafe fn decode_row(part: &Part, row: usize, out: &mut [f32]) {
    let (lane, kind) = (row % LANES, part.kind);
    let group = unsafe { std::slice::from_raw_parts(part.group(row / LANES), part.group_bytes) };
    let (block_cols, block_bytes) = kind.block();
    let scale_at = |scales: Scales, block: &[u8]| match scales {
        Scales::Half => half_at(block, 2 * lane),
        Scales::Single => f32_at(block, 4 * lane),
    };
    for (block, out) in group.chunks_exact(block_bytes).zip(out.chunks_exact_mut(block_cols)) {
        match kind {
            Kind::F32 => out[0] = f32_at(block, 4 * lane),
            Kind::F16 => out[0] = half_at(block, 2 * lane),
            Kind::BF16 => out[0] = bf16::from_le_bytes([block[2 * lane], block[2 * lane + 1]]).to_f32(),
            Kind::Nibbles { scales } => {
                let (scale, min) = (scale_at(scales, block), scale_at(scales, &block[scales.bytes()..]));
                let quants = &block[2 * scales.bytes()..];
                for i in 0..16 {
                    let byte = quants[i / 4 * 64 + lane * 4 + i % 4];
                    out[i] = scale * f32::from(byte & 15) + min;
                    out[i + 16] = scale * f32::from(byte >> 4) + min;
                }
            }
            Kind::Bytes { scales, min, .. } => {
                let scale = scale_at(scales, block);
                let least = if min { scale_at(scales, &block[scales.bytes()..]) } else { 0.0 };
                let quants = &block[scales.bytes() * (1 + usize::from(min))..];
                for (i, out) in out.iter_mut().enumerate() {
                    *out = scale * f32::from(quants[i * LANES + lane] as i8) + least;
                }
            }
        }
    }
}

fn f32_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::{Random, Tensor};

    #[test]
    fn does_a_packed_row_decode_as_the_stored_one() {
        let mut rng = Random::new(3);
        for element in ElementType::all() {
            let (rows, cols) = (37, 2 * element.block_elements().max(20).next_multiple_of(element.block_elements()));
            let tensor = Tensor::random(&mut rng, element, rows, cols);
            let kind = kind(element);
            let group_bytes = kind.group_bytes(cols);
            let mut packed = vec![0; rows.div_ceil(LANES) * group_bytes];
            packed.chunks_exact_mut(group_bytes).enumerate().for_each(|(i, out)| pack_group(&tensor.view(), i, out));
            let part = Part { kind, first_row: 0, rows, group_bytes, base: packed.as_ptr() };
            let mut wanted = vec![0.0; rows * cols];
            element.decode(&tensor.bytes, &mut wanted);
            for (row, wanted) in wanted.chunks_exact(cols).enumerate() {
                let mut found = vec![0.0; cols];
                unsafe { decode_row(&part, row, &mut found) };
                let close = found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-2));
                assert!(close, "{} row {row}", element.name());
            }
        }
    }
}
