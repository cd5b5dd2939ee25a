//! Packed weights on the device: rows of one element type in a shard, each shard within the binding limit.
//!
//! Never holds a second copy of a weight: rows are packed and uploaded a few megabytes at a time.

use wgpu::{Buffer, BufferUsages};

use super::gpu::Gpu;
use super::pack::{pack_row, row_words};
use crate::device::check::check_parts;
use crate::device::{DeviceError, Shape};
use crate::weights::{ElementType, TensorView};

/// Uploaded at once, and waited for every [`STAGED_BYTES_MAX`]: wgpu keeps what is staged until the queue has run.
const CHUNK_BYTES: usize = 4 << 20;
const STAGED_BYTES_MAX: usize = 64 << 20;

/// Small weights that are not f32 have an f32 copy as well, up to this many elements: a stack of biases looks like any
/// other matrix until an op reads it as a vector.
const VECTOR_ELEMENTS_MAX: usize = 1 << 16;

/// Rows or columns of any weight: kernels count in u32, and multiply by small numbers.
const SIDE_MAX: usize = 1 << 27;

/// A dispatch has at most this many workgroups in a line, each of at least four rows.
const SHARD_ROWS_MAX: usize = 4 * 65535;

/// A linear kernel reads whole units of 8 elements; the last row of an f32 shard may end within one.
const TAIL_BYTES: usize = 32;

/// A run of rows of one weight in one buffer.
pub(super) struct Shard {
    pub(super) element: ElementType,
    pub(super) row_first: usize,
    pub(super) rows: usize,
    pub(super) row_words: usize,
    pub(super) buffer: Buffer,
}

/// One packed weight.
pub(super) struct Weight {
    pub(super) shape: Shape,
    pub(super) shards: Vec<Shard>,
    /// All elements in a row as f32, where no shard is just that.
    flat: Option<Buffer>,
}

impl Weight {
    /// The weight as f32 in a row (a bias, a norm), if it is small enough for one.
    pub(super) fn vector(&self) -> Option<&Buffer> {
        match self.shards.as_slice() {
            [shard] if shard.element == ElementType::F32 => Some(&shard.buffer),
            _ => self.flat.as_ref(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| &shard.buffer).chain(&self.flat).map(Buffer::size).sum()
    }
}

/// Packs and uploads.
pub(super) struct Uploader<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) shard_bytes_max: u64,
}

/// Consecutive parts of one element type.
struct Segment<'a> {
    parts: &'a [TensorView<'a>],
    row_first: usize,
}

impl Segment<'_> {
    fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    fn row_words(&self) -> usize {
        row_words(self.parts[0].element, self.parts[0].cols)
    }
}

impl Uploader<'_> {
    pub(super) fn upload(&self, parts: &[TensorView<'_>]) -> Result<Weight, DeviceError> {
        let shape = check_parts(parts)?;
        let (name, Shape { rows, cols }) = (parts[0].name, shape);
        if rows.max(cols) > SIDE_MAX {
            return Err(refused(name, format!("{rows} x {cols} is over the {SIDE_MAX} a kernel can index")));
        }
        let mut weight = Weight { shape, shards: Vec::new(), flat: None };
        let mut row_first = 0;
        for parts in parts.chunk_by(|a, b| a.element == b.element) {
            let segment = Segment { parts, row_first };
            self.segment(&segment, &mut weight.shards)?;
            row_first += segment.rows();
        }
        let small = rows == 1 || cols == 1 || rows.saturating_mul(cols) <= VECTOR_ELEMENTS_MAX;
        let bound = (rows as u64 * cols as u64).saturating_mul(4) <= self.shard_bytes_max;
        if small && bound && weight.vector().is_none() {
            weight.flat = Some(self.flat(parts, rows * cols)?);
        }
        Ok(weight)
    }

    /// Cuts a segment into shards and fills them.
    fn segment(&self, segment: &Segment<'_>, shards: &mut Vec<Shard>) -> Result<(), DeviceError> {
        let (row_words, first) = (segment.row_words(), &segment.parts[0]);
        let row_bytes = (row_words * 4) as u64;
        let room = self.shard_bytes_max.saturating_sub(TAIL_BYTES as u64) / row_bytes;
        if room == 0 {
            let most = self.shard_bytes_max;
            return Err(refused(first.name, format!("a row takes {row_bytes} bytes, the device binds at most {most}")));
        }
        // Whole quads, which linear kernels write faster.
        let rows_max = (room as usize).min(SHARD_ROWS_MAX);
        let rows_max = if rows_max >= 4 { rows_max / 4 * 4 } else { rows_max };
        let stored = first.element.bytes(first.cols).expect("checked: whole blocks");
        let mut rows = segment.parts.iter().flat_map(|part| part.bytes.chunks_exact(stored));
        let (mut left, mut row_first) = (segment.rows(), segment.row_first);
        while left > 0 {
            let count = left.min(rows_max);
            let buffer = self.buffer((count * row_words * 4 + TAIL_BYTES) as u64)?;
            self.fill(&buffer, first.element, rows.by_ref().take(count))?;
            shards.push(Shard { element: first.element, row_first, rows: count, row_words, buffer });
            (left, row_first) = (left - count, row_first + count);
        }
        Ok(())
    }

    fn flat(&self, parts: &[TensorView<'_>], elements: usize) -> Result<Buffer, DeviceError> {
        let size = (elements * 4) as u64;
        let mut decoded = vec![0.0; elements];
        let mut rest = decoded.as_mut_slice();
        for part in parts {
            let (rows, below) = rest.split_at_mut(part.rows * part.cols);
            part.element.decode(part.bytes, rows);
            rest = below;
        }
        let buffer = self.buffer(size)?;
        self.gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&decoded));
        self.gpu.faults.check("weights", size).map(|()| buffer)
    }

    fn buffer(&self, size: u64) -> Result<Buffer, DeviceError> {
        self.gpu.buffer("weights", size, BufferUsages::STORAGE | BufferUsages::COPY_DST)
    }

    fn fill<'b>(
        &self,
        buffer: &Buffer,
        element: ElementType,
        rows: impl Iterator<Item = &'b [u8]>,
    ) -> Result<(), DeviceError> {
        let mut words = Vec::with_capacity(CHUNK_BYTES.min(buffer.size() as usize) / 4);
        let (mut at, mut staged) = (0, 0);
        for row in rows {
            pack_row(element, row, &mut words);
            if words.len() * 4 >= CHUNK_BYTES {
                at += self.write(buffer, at, &mut words);
                staged += CHUNK_BYTES;
            }
            if staged >= STAGED_BYTES_MAX {
                staged = 0;
                self.settle()?;
            }
        }
        self.write(buffer, at, &mut words);
        self.gpu.faults.check("weights", buffer.size())
    }

    fn write(&self, buffer: &Buffer, at: u64, words: &mut Vec<u32>) -> u64 {
        let written = (words.len() * 4) as u64;
        self.gpu.queue.write_buffer(buffer, at, bytemuck::cast_slice(words));
        words.clear();
        written
    }

    /// Waits until what was staged is on the device, so that its staging memory is free again.
    fn settle(&self) -> Result<(), DeviceError> {
        self.gpu.queue.submit([]);
        self.gpu.wait()?;
        self.gpu.faults.check("weights", 0)
    }
}

fn refused(tensor: &str, reason: String) -> DeviceError {
    DeviceError::Pack { tensor: tensor.to_owned(), reason }
}
