//! Packed weights: what the layout is. How bytes get there is [`super::pack`]; how they are read, [`super::linear`].
//!
//! Rows go in groups of sixteen, one SIMD lane each, so that a product needs no horizontal sum and has one order of
//! summation (over columns, from the first to the last) for any number of inputs. Within a group, columns go in
//! blocks; a block holds the sixteen scales, the sixteen minimums (if the kind has them), then the elements, column
//! by column. Nothing is stored twice: an embedding row is decoded from the same bytes.

use std::sync::OnceLock;

use super::lanes::LANES;
use super::pack::decode_row;
use crate::device::Shape;

/// A weight as the kernels read it.
#[derive(Debug)]
pub struct Weight {
    pub shape: Shape,
    pub data: Data,
    /// A weight of many rows that is used as a vector after all (a bias stored as a matrix), decoded once.
    flat: OnceLock<Vec<f32>>,
}

impl Weight {
    pub fn new(shape: Shape, data: Data) -> Weight {
        Weight { shape, data, flat: OnceLock::new() }
    }

    /// First of all elements, row-major f32.
    pub fn vector(&self) -> *const f32 {
        match &self.data {
            Data::Vector(data) => *data,
            Data::Panels(parts) => self.flat.get_or_init(|| self.decode(parts)).as_ptr(),
        }
    }

    fn decode(&self, parts: &[Part]) -> Vec<f32> {
        let mut flat = vec![0.0; self.shape.rows * self.shape.cols];
        let mut rows = flat.chunks_exact_mut(self.shape.cols);
        for part in parts {
            for (row, out) in (0..part.rows).zip(&mut rows) {
                // The row is one of the part's, and the output as wide as the weight.
                unsafe { decode_row(part, row, out) };
            }
        }
        flat
    }
}

#[derive(Debug)]
pub enum Data {
    /// Row-major f32: a weight with one row or one column (norms, biases, single-row tables).
    Vector(*const f32),
    Panels(Vec<Part>),
}

// The pointers lead into slabs that live as long as the device and are never written after packing.
unsafe impl Send for Weight {}
unsafe impl Sync for Weight {}

/// The rows that came from one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub kind: Kind,
    /// Row of the weight at which the part begins; a multiple of nothing.
    pub first_row: usize,
    pub rows: usize,
    pub group_bytes: usize,
    pub base: *const u8,
}

unsafe impl Send for Part {}
unsafe impl Sync for Part {}

impl Part {
    pub fn groups(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// First byte of a group.
    ///
    /// # Safety
    /// `group < self.groups()`.
    pub unsafe fn group(&self, group: usize) -> *const u8 {
        unsafe { self.base.add(group * self.group_bytes) }
    }
}

/// How the elements of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Blocks of 32 columns, 4 bits each, with scale and minimum: `q · scale + min`. A lane's 16 bytes are its ggml
    /// nibbles: column i in the low half of byte i, column i + 16 in the high half; in four words of 16 lanes.
    Nibbles {
        scales: Scales,
    },
    /// Blocks of `block` columns, one signed byte each: `q · scale (+ min)`.
    Bytes {
        block: usize,
        scales: Scales,
        min: bool,
    },
    F16,
    BF16,
    F32,
}

/// How scales and minimums are stored: as the file has them where they are halves there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    Half,
    Single,
}

impl Scales {
    pub fn bytes(self) -> usize {
        match self {
            Scales::Half => 2 * LANES,
            Scales::Single => 4 * LANES,
        }
    }
}

impl Kind {
    /// Columns and bytes of one block of a group.
    pub fn block(self) -> (usize, usize) {
        match self {
            Kind::Nibbles { scales } => (32, 2 * scales.bytes() + 32 * LANES / 2),
            Kind::Bytes { block, scales, min } => (block, scales.bytes() * (1 + usize::from(min)) + block * LANES),
            Kind::F16 | Kind::BF16 => (1, 2 * LANES),
            Kind::F32 => (1, 4 * LANES),
        }
    }

    /// Bytes of one group of sixteen rows.
    pub fn group_bytes(self, cols: usize) -> usize {
        let (block, bytes) = self.block();
        cols / block * bytes
    }
}
