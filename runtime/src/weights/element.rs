//! Element types of stored weights, and the one place that says what their bytes mean.
//!
//! Layouts are ggml's (llama.cpp, `ggml-common.h`): a row is a run of blocks, a block is some scales and some
//! packed integers. Never repacks: each device does that for itself, and is judged against [`ElementType::decode`].

use half::{bf16, f16};

/// How the elements of a weight tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum ElementType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Every type there is: name in the field, ggml's number, elements and bytes of one block.
const TABLE: &[(ElementType, &str, u32, usize, usize)] = &[
    (ElementType::F32, "F32", 0, 1, 4),
    (ElementType::F16, "F16", 1, 1, 2),
    (ElementType::BF16, "BF16", 30, 1, 2),
    (ElementType::Q4_0, "Q4_0", 2, 32, 18),
    (ElementType::Q4_1, "Q4_1", 3, 32, 20),
    (ElementType::Q5_0, "Q5_0", 6, 32, 22),
    (ElementType::Q5_1, "Q5_1", 7, 32, 24),
    (ElementType::Q8_0, "Q8_0", 8, 32, 34),
    (ElementType::Q4_K, "Q4_K", 12, 256, 144),
    (ElementType::Q5_K, "Q5_K", 13, 256, 176),
    (ElementType::Q6_K, "Q6_K", 14, 256, 210),
];

impl ElementType {
    /// All supported types, in the order of the table.
    pub fn all() -> impl Iterator<Item = ElementType> {
        TABLE.iter().map(|row| row.0)
    }

    /// The type with this number in a GGUF tensor table.
    pub fn from_ggml(number: u32) -> Option<ElementType> {
        TABLE.iter().find(|row| row.2 == number).map(|row| row.0)
    }

    /// All names in one line, for errors: `"F32, F16, …"`.
    pub fn names() -> String {
        TABLE.iter().map(|row| row.1).collect::<Vec<_>>().join(", ")
    }

    fn row(self) -> &'static (ElementType, &'static str, u32, usize, usize) {
        TABLE.iter().find(|row| row.0 == self).expect("every type is in the table")
    }

    /// The field's name: `"Q4_1"`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements in one block.
    pub fn block_elements(self) -> usize {
        self.row().3
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of `elements` elements, a whole number of blocks; `None` if they are not.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        elements
            .is_multiple_of(self.block_elements())
            .then(|| elements / self.block_elements())
            .and_then(|blocks| blocks.checked_mul(self.block_bytes()))
    }

    /// Decodes whole blocks: `bytes` holds exactly the blocks that fill `out`.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(self.bytes(out.len()), Some(bytes.len()), "whole blocks of {}", self.name());
        let blocks = bytes.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block_elements()));
        for (block, out) in blocks {
            match self {
                ElementType::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                ElementType::F16 => out[0] = half_at(block, 0),
                ElementType::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                ElementType::Q4_0 => nibbles(block, 2, half_at(block, 0), -8.0 * half_at(block, 0), out),
                ElementType::Q4_1 => nibbles(block, 4, half_at(block, 0), half_at(block, 2), out),
                ElementType::Q5_0 => five_bits(block, 2, half_at(block, 0), -16.0 * half_at(block, 0), out),
                ElementType::Q5_1 => five_bits(block, 4, half_at(block, 0), half_at(block, 2), out),
                ElementType::Q8_0 => {
                    let scale = half_at(block, 0);
                    for (out, q) in out.iter_mut().zip(&block[2..]) {
                        *out = scale * f32::from(*q as i8);
                    }
                }
                ElementType::Q4_K => k_quant(block, &block[16..], None, out),
                ElementType::Q5_K => k_quant(block, &block[48..], Some(&block[16..48]), out),
                ElementType::Q6_K => six_bits(block, out),
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 nibbles: element i in the low half of byte i, element i + 16 in its high half. A format with a zero point has it
/// in `min`: an f16 scale times a few bits is exact in f32, so nothing is lost.
fn nibbles(block: &[u8], at: usize, scale: f32, min: f32, out: &mut [f32]) {
    for (i, byte) in block[at..at + 16].iter().enumerate() {
        out[i] = scale * f32::from(byte & 15) + min;
        out[i + 16] = scale * f32::from(byte >> 4) + min;
    }
}

/// As [`nibbles`], with a fifth bit of each element in a 32-bit word before them.
fn five_bits(block: &[u8], at: usize, scale: f32, min: f32, out: &mut [f32]) {
    let high = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    for (i, byte) in block[at + 4..at + 20].iter().enumerate() {
        let low = (byte & 15) | (((high >> i) & 1) << 4) as u8;
        let up = (byte >> 4) | (((high >> (i + 16)) & 1) << 4) as u8;
        out[i] = scale * f32::from(low) + min;
        out[i + 16] = scale * f32::from(up) + min;
    }
}

/// Scale and min of sub-block `j` of a Q4_K or Q5_K block, as 6-bit integers packed into 12 bytes.
pub fn k_scale_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    }
}

/// Q4_K and Q5_K: 8 sub-blocks of 32, each with its own scale and min, in four pairs that share 32 bytes.
fn k_quant(block: &[u8], quants: &[u8], high: Option<&[u8]>, out: &mut [f32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = k_scale_min(&block[4..16], j);
        let (s, m) = (scale * f32::from(s), min * f32::from(m));
        for (i, out) in out.iter_mut().enumerate() {
            let byte = quants[(j / 2) * 32 + i];
            let nibble = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
            let fifth = high.map_or(0, |high| ((high[i] >> j) & 1) << 4);
            *out = s * f32::from(nibble | fifth) - m;
        }
    }
}

/// Q6_K: 16 sub-blocks of 16 with signed 8-bit scales; low nibbles, then pairs of high bits, in two halves of 128.
fn six_bits(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 208);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high, scales) = (&block[half * 64..], &block[128 + half * 32..], &block[192 + half * 8..]);
        for (i, out) in out.iter_mut().enumerate() {
            let (quarter, at) = (i / 32, i % 32);
            let byte = low[at + 32 * (quarter % 2)];
            let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
            let bits = (high[at] >> (2 * quarter)) & 3;
            let q = i32::from(nibble | (bits << 4)) - 32;
            *out = scale * f32::from(scales[i / 16] as i8) * q as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        bytes: String,
        bits: Vec<u32>,
    }

    /// Goldens of gguf-py, written by `tests/goldens/scripts/quants_goldens.py`.
    fn golden(element: ElementType) -> (Vec<u8>, Vec<f32>) {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/quants");
        let path = format!("{directory}/{}.json", element.name());
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let golden: Golden = serde_json::from_str(&text).expect("a golden");
        let byte = |at: usize| u8::from_str_radix(&golden.bytes[at..at + 2], 16).expect("hex");
        let bytes = (0..golden.bytes.len()).step_by(2).map(byte).collect();
        (bytes, golden.bits.into_iter().map(f32::from_bits).collect())
    }

    #[test]
    fn does_every_type_decode_as_the_reference_does() {
        for element in ElementType::all() {
            let (bytes, expected) = golden(element);
            let mut decoded = vec![0.0; expected.len()];
            element.decode(&bytes, &mut decoded);
            for (at, (ours, theirs)) in decoded.iter().zip(&expected).enumerate() {
                let close = (ours - theirs).abs() <= 1e-6 * theirs.abs().max(1e-3);
                assert!(close, "{} element {at}: {ours} is not {theirs}", element.name());
            }
        }
    }

    #[test]
    fn are_only_whole_blocks_measured() {
        assert_eq!(ElementType::Q4_1.bytes(64), Some(40));
        assert_eq!(ElementType::Q4_1.bytes(33), None);
        assert_eq!(ElementType::Q6_K.bytes(512), Some(420));
        assert_eq!(ElementType::F32.bytes(usize::MAX), None);
        assert_eq!(ElementType::from_ggml(3).map(ElementType::name), Some("Q4_1"));
        assert_eq!(ElementType::from_ggml(23), None);
    }
}
