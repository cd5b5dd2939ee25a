//! Turns a checked program into tasks: pointers resolved, work cut into chunks.
//!
//! A chunk is a few microseconds of work: long against the claim of it (about 50 ns), short against the time for
//! which a machine may take a thread off its core. An op smaller than that is a single chunk.

use super::attention::{Attention, Source};
use super::isa::Kernels;
use super::lanes::LANES;
use super::linear::{FUSED_ROWS, Linear};
use super::memory::{Kv, Scratch};
use super::rope::RopeKv;
use super::rows::{RowOp, Rows};
use super::weight::{Data, Kind, Part, Weight};
use crate::device::{IndexId, KvId, Op, Program, Shape, ValueId, WeightId};
use crate::kernels::paged_attention::Paging;

/// Elements of row-wise work in a chunk: about 5 µs.
const ROW_ELEMENTS: usize = 16 * 1024;
/// Multiply-adds of attention in a chunk: about 5 µs.
const ATTENTION_PRODUCTS: usize = 64 * 1024;
/// Weights in a chunk of a fused product: about 3 µs.
const FUSED_WEIGHTS: usize = 48 * 1024;
/// Rows of x in a chunk of the panel path, at least, when columns alone give the threads too few chunks.
const PANEL_ROWS: usize = 64;

/// An op, or the part of a linear layer that comes from one tensor.
pub enum Task<'a> {
    Fused(Linear),
    Panel(Linear),
    Vector(Linear),
    Rows(Rows<'a>),
    Rope(RopeKv<'a>),
    Attention(Attention<'a>),
}

// Tasks hold pointers into the arena, the weights and the caches of one run, which outlive it; chunks of one phase
// write to places of their own, and phases follow one another.
unsafe impl Sync for Task<'_> {}

impl Task<'_> {
    pub fn chunks(&self) -> usize {
        match self {
            Task::Fused(task) | Task::Panel(task) => task.chunks(),
            Task::Vector(task) => task.m,
            Task::Rows(task) => task.chunks(),
            Task::Rope(task) => task.chunks(),
            Task::Attention(task) => task.chunks(),
        }
    }

    /// # Safety
    /// The machine has the kernels' instructions, and this is the chunk's only run.
    pub unsafe fn run(&self, kernels: &Kernels, chunk: usize, scratch: &mut Scratch) {
        unsafe {
            match self {
                Task::Fused(task) => (kernels.linear_fused)(task, chunk),
                Task::Panel(task) => (kernels.linear_panel)(task, chunk, scratch),
                Task::Vector(task) => (kernels.linear_vector)(task, chunk),
                Task::Rows(task) => (kernels.rows)(task, chunk),
                Task::Rope(task) => (kernels.rope)(task, chunk),
                Task::Attention(task) => (kernels.attention)(task, chunk, scratch),
            }
        }
    }
}

/// What a program's ids stand for in one run.
pub struct Bindings<'a> {
    pub program: &'a Program,
    pub weights: &'a [Weight],
    pub caches: &'a mut [Kv],
    /// First element of each value.
    pub values: Vec<*mut f32>,
    pub threads: usize,
}

impl<'a> Bindings<'a> {
    /// The tasks of all ops, in phases: the parts of a mixed linear layer share one.
    pub fn tasks(&mut self) -> Vec<Vec<Task<'a>>> {
        let program = self.program;
        program.ops.iter().map(|op| self.op(op)).collect()
    }

    fn value(&self, id: ValueId) -> *mut f32 {
        self.values[id.0 as usize]
    }

    fn indices(&self, id: IndexId) -> &'a [u32] {
        &self.program.indices[id.0 as usize]
    }

    /// First element of a weight that is used as a vector.
    fn vector(&self, id: WeightId) -> *const f32 {
        self.weights[id.0 as usize].vector()
    }

    fn op(&mut self, op: &Op) -> Vec<Task<'a>> {
        match *op {
            Op::Embed { table, ids, accumulate, out } => {
                let (table, ids) = (&self.weights[table.0 as usize], self.indices(ids));
                self.rows(RowOp::Embed { table, ids, accumulate }, out)
            }
            Op::RmsNorm { x, add, weight, eps, out } => {
                let (x, add) = (self.value(x), self.optional(add));
                self.rows(RowOp::RmsNorm { x, add, weight: self.vector(weight), eps }, out)
            }
            Op::LayerNorm { x, add, weight, bias, eps, out } => {
                let (x, add) = (self.value(x), self.optional(add));
                let affine = (self.vector(weight), self.vector(bias));
                self.rows(RowOp::LayerNorm { x, add, affine, eps }, out)
            }
            Op::GatedActivation { gate_up, activation, out } => {
                self.rows(RowOp::Gate { gate_up: self.value(gate_up), activation }, out)
            }
            Op::Gather { x, rows, out } => self.rows(RowOp::Gather { x: self.value(x), rows: self.indices(rows) }, out),
            Op::Pool { x, starts, pooling, out } => {
                self.rows(RowOp::Pool { x: self.value(x), starts: self.indices(starts), pooling }, out)
            }
            Op::L2Normalize { x, out } => self.rows(RowOp::L2Normalize { x: self.value(x) }, out),
            Op::Linear { .. } => self.linear(op),
            Op::RopeKv { .. } => self.rope(op),
            Op::PagedAttention { .. } | Op::EncoderAttention { .. } => self.attention(op),
        }
    }

    fn optional(&self, id: Option<ValueId>) -> *const f32 {
        id.map_or(std::ptr::null(), |id| self.value(id).cast_const())
    }

    fn rows(&self, op: RowOp<'a>, out: ValueId) -> Vec<Task<'a>> {
        let Shape { rows, cols } = self.program.shape(out);
        let chunk_rows = (ROW_ELEMENTS / cols.max(1)).max(1);
        vec![Task::Rows(Rows { op, rows, cols, out: self.value(out), chunk_rows })]
    }

    fn linear(&self, op: &Op) -> Vec<Task<'a>> {
        let Op::Linear { x, weight, bias, activation, out } = *op else { return Vec::new() };
        let weight = &self.weights[weight.0 as usize];
        let (m, Shape { rows, cols }) = (self.program.shape(x).rows, weight.shape);
        let bias = bias.map_or(std::ptr::null(), |bias| self.vector(bias));
        let task = |part: Part| {
            let first = part.first_row;
            Linear {
                part,
                cols,
                x: self.value(x),
                m,
                // In range: parts are rows of the weight, which are columns of the output and elements of the bias.
                out: unsafe { self.value(out).add(first) },
                out_stride: rows,
                bias: if bias.is_null() { bias } else { unsafe { bias.add(first) } },
                activation,
                chunk_groups: 1,
                chunk_rows: m.max(1),
            }
        };
        match &weight.data {
            Data::Vector(data) => {
                let part = Part { kind: Kind::F32, first_row: 0, rows, group_bytes: 0, base: data.cast() };
                vec![Task::Vector(task(part))]
            }
            Data::Panels(parts) if m <= FUSED_ROWS => {
                let quads = (FUSED_WEIGHTS / (4 * LANES * cols)).max(1);
                parts.iter().map(|part| Task::Fused(Linear { chunk_groups: 4 * quads, ..task(*part) })).collect()
            }
            Data::Panels(parts) => {
                let chunks = parts.iter().map(|part| part.groups().div_ceil(2)).sum::<usize>().max(1);
                let row_chunks = (4 * self.threads).div_ceil(chunks).min(m.div_ceil(PANEL_ROWS)).max(1);
                let chunk_rows = m.div_ceil(row_chunks).next_multiple_of(24);
                parts.iter().map(|part| Task::Panel(Linear { chunk_groups: 2, chunk_rows, ..task(*part) })).collect()
            }
        }
    }

    fn rope(&mut self, op: &Op) -> Vec<Task<'a>> {
        let Op::RopeKv { qkv, cos_sin, slots, kv, layer, heads, rope_dim, style } = *op else { return Vec::new() };
        let Shape { rows, cols } = self.program.shape(qkv);
        let (keys, values, shape) = self.cache(kv, layer);
        vec![Task::Rope(RopeKv {
            qkv: self.value(qkv),
            m: rows,
            cos_sin: &self.program.reals[cos_sin.0 as usize],
            slots: self.indices(slots),
            shape,
            keys,
            values,
            heads,
            rope_dim,
            style,
            chunk_rows: (ROW_ELEMENTS / cols).max(1),
        })]
    }

    fn cache(&mut self, kv: KvId, layer: usize) -> (*mut f32, *mut f32, crate::device::KvShape) {
        let cache = &mut self.caches[kv.0 as usize];
        let (keys, values) = cache.layer(layer);
        (keys, values, cache.shape)
    }

    fn attention(&mut self, op: &Op) -> Vec<Task<'a>> {
        let (qkv, heads, scale, out, source, positions) = match *op {
            Op::PagedAttention { qkv, kv, layer, sequence, position, block_tables, table_width, heads, scale, out } => {
                let (keys, values, shape) = self.cache(kv, layer);
                let paging = Paging {
                    sequence: self.indices(sequence),
                    position: self.indices(position),
                    block_tables: self.indices(block_tables),
                    table_width,
                };
                let positions: Vec<usize> = paging.position.iter().map(|position| *position as usize + 1).collect();
                (qkv, heads, scale, out, Source::Paged { paging, shape, keys, values }, positions)
            }
            Op::EncoderAttention { qkv, starts, heads, scale, out } => {
                let starts = self.indices(starts);
                let positions = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).collect();
                (qkv, heads, scale, out, Source::Rows { starts }, positions)
            }
            _ => return Vec::new(),
        };
        let Shape { rows, cols } = self.program.shape(qkv);
        let mean = positions.iter().sum::<usize>() / positions.len().max(1);
        let products = 2 * (mean + 1) * heads.head_dim * (heads.heads / heads.kv_heads);
        vec![Task::Attention(Attention {
            qkv: self.value(qkv),
            width: cols,
            m: rows,
            heads,
            scale,
            out: self.value(out),
            source,
            chunk_pairs: (ATTENTION_PRODUCTS / products).max(1),
            positions_max: positions.into_iter().max().unwrap_or(0),
        })]
    }
}
