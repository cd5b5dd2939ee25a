//! Program → dispatches: which kernel variant, which buffers, which parameters, how many workgroups.
//!
//! `device::check` has passed the program: every id, shape and index is in range. Touches no device.

use super::arena::Plan;
use super::kv::Cache;
use super::pipelines::{Access, Kernel, PARAM_WORDS, Tile};
use super::weights::{Shard, Weight};
use crate::device::{
    Activation, DeviceError, HeadShape, IndexId, KvId, Op, Pooling, Program, RopeStyle, Shape, ValueId, WeightId,
};

/// Workgroups in a line of a dispatch: `LINE` of `bindings.wgsl`, the least any device allows in one dimension.
const LINE: usize = 65535;
/// Rows of x up to which a linear layer runs one row to a workgroup: a tile of eight would be mostly empty.
const VECTOR_M_MAX: usize = 2;
/// Rows of x up to which a linear layer has few rows of the weight in a workgroup, to have more workgroups.
const BATCH_M_MAX: usize = 16;
/// Elements a head may have: `HEAD_DIM_MAX` of `attention.wgsl`.
const HEAD_DIM_MAX: usize = 256;

/// Names the buffers of a dispatch's group 1, and the bind group made of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum GroupKey {
    /// A shard of a matrix, and a bias.
    Weight {
        weight: WeightId,
        shard: usize,
        bias: Option<WeightId>,
    },
    /// A norm's weight and bias.
    Vectors {
        weight: WeightId,
        bias: Option<WeightId>,
    },
    Kv {
        kv: KvId,
        layer: usize,
    },
}

/// One kernel launch.
pub(super) struct Dispatch {
    pub(super) kernel: Kernel,
    pub(super) group: Option<GroupKey>,
    pub(super) params: [u32; PARAM_WORDS],
    pub(super) workgroups: [u32; 3],
}

/// A program made ready to submit.
pub(super) struct Recording {
    pub(super) dispatches: Vec<Dispatch>,
    /// Indices, then reals; parameters are to follow.
    pub(super) inputs: Vec<u32>,
}

/// Records all ops of a program whose values lie as planned.
pub(super) fn record(
    program: &Program,
    plan: &Plan,
    weights: &[Weight],
    caches: &[Cache],
) -> Result<Recording, DeviceError> {
    let mut inputs = Vec::new();
    let mut starts = [Vec::new(), Vec::new()];
    for index in &program.indices {
        starts[0].push(inputs.len() as u32);
        inputs.extend_from_slice(index);
    }
    for real in &program.reals {
        starts[1].push(inputs.len() as u32);
        inputs.extend(real.iter().map(|value| value.to_bits()));
    }
    let [indices, reals] = starts;
    let mut recorder = Recorder { program, plan, weights, caches, indices, reals, dispatches: Vec::new() };
    for (at, op) in program.ops.iter().enumerate() {
        recorder.op(op).map_err(|reason| DeviceError::Program { op: at, reason })?;
    }
    Ok(Recording { dispatches: recorder.dispatches, inputs })
}

struct Recorder<'a> {
    program: &'a Program,
    plan: &'a Plan,
    weights: &'a [Weight],
    caches: &'a [Cache],
    /// Where each input begins, in words.
    indices: Vec<u32>,
    reals: Vec<u32>,
    dispatches: Vec<Dispatch>,
}

/// Refusals of what is right in itself but beyond these kernels.
type Recorded = Result<(), String>;

fn activation_number(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::GeluErf => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Relu => 4,
        Activation::Tanh => 5,
    }
}

/// Vectors of four where every vector of x and out is one lane's. By the weight alone, never by the batch.
fn access(weight: &Weight, shard: &Shard) -> Access {
    let quads = [weight.shape.rows, shard.row_first, shard.rows].iter().all(|n| n.is_multiple_of(4));
    if quads && weight.shape.cols.is_multiple_of(8) { Access::Quads } else { Access::Scalars }
}

impl<'a> Recorder<'a> {
    fn op(&mut self, op: &Op) -> Recorded {
        match *op {
            Op::Embed { table, ids, accumulate, out } => self.embed(table, ids, accumulate, out),
            Op::RmsNorm { x, add, weight, eps, out } => self.norm((x, add, out), weight, None, eps)?,
            Op::LayerNorm { x, add, weight, bias, eps, out } => self.norm((x, add, out), weight, Some(bias), eps)?,
            Op::Linear { x, weight, bias, activation, out } => self.linear((x, out), weight, bias, activation)?,
            Op::RopeKv { .. } => self.rope_kv(op),
            Op::PagedAttention { .. } => self.paged_attention(op)?,
            Op::EncoderAttention { qkv, starts, heads, scale, out } => {
                let mut params = self.attention((qkv, out), heads, scale)?;
                params.extend([self.index(starts), self.len(starts) - 1]);
                self.launch(Kernel::EncoderAttention, None, &params, self.rows(qkv) * heads.heads);
            }
            Op::GatedActivation { gate_up, activation, out } => {
                let (out, Shape { rows, cols }) = self.value(out);
                let params = [self.at(gate_up), out, rows as u32, cols as u32, activation_number(activation)];
                self.launch(Kernel::GatedActivation, None, &params, (rows * cols).div_ceil(64));
            }
            Op::Gather { x, rows, out } => {
                let (out, Shape { rows: m, cols }) = self.value(out);
                let params = [self.at(x), self.index(rows), out, m as u32, cols as u32];
                self.launch(Kernel::Gather, None, &params, (m * cols).div_ceil(64));
            }
            Op::Pool { x, starts, pooling, out } => self.pool(x, starts, pooling, out),
            Op::L2Normalize { x, out } => {
                let (out, Shape { rows, cols }) = self.value(out);
                let params = [self.at(x), out, rows as u32, cols as u32];
                self.launch(Kernel::L2Normalize, None, &params, rows);
            }
        }
        Ok(())
    }

    fn value(&self, value: ValueId) -> (u32, Shape) {
        (self.at(value), self.program.shape(value))
    }

    /// Where a value begins, in words.
    fn at(&self, value: ValueId) -> u32 {
        self.plan.offsets[value.0 as usize].expect("the plan places every value an op names")
    }

    fn rows(&self, value: ValueId) -> usize {
        self.program.shape(value).rows
    }

    /// Where an input begins, in words.
    fn index(&self, index: IndexId) -> u32 {
        self.indices[index.0 as usize]
    }

    fn len(&self, index: IndexId) -> u32 {
        self.program.indices[index.0 as usize].len() as u32
    }

    fn weight(&self, weight: WeightId) -> &'a Weight {
        &self.weights[weight.0 as usize]
    }

    fn vector(&self, weight: WeightId) -> Recorded {
        let packed = self.weight(weight);
        let reason = || format!("a weight of {:?} is too large to be read as a vector", packed.shape);
        packed.vector().map(|_| ()).ok_or_else(reason)
    }

    /// Launches as many workgroups as there are, laid out in lines.
    fn launch(&mut self, kernel: Kernel, group: Option<GroupKey>, params: &[u32], workgroups: usize) {
        let grid = [workgroups.min(LINE) as u32, workgroups.div_ceil(LINE) as u32, 1];
        self.launch_grid(kernel, group, params, grid);
    }

    fn launch_grid(&mut self, kernel: Kernel, group: Option<GroupKey>, params: &[u32], workgroups: [u32; 3]) {
        if workgroups.contains(&0) {
            return;
        }
        let mut all = [0; PARAM_WORDS];
        all[..params.len()].copy_from_slice(params);
        self.dispatches.push(Dispatch { kernel, group, params: all, workgroups });
    }

    fn embed(&mut self, table: WeightId, ids: IndexId, accumulate: bool, out: ValueId) {
        let (out, Shape { rows: m, cols }) = self.value(out);
        let ids = self.index(ids);
        for (at, shard) in self.weight(table).shards.iter().enumerate() {
            let rows = [shard.row_first as u32, shard.rows as u32, shard.row_words as u32];
            let params = [ids, out, m as u32, cols as u32, rows[0], rows[1], rows[2], u32::from(accumulate)];
            let group = GroupKey::Weight { weight: table, shard: at, bias: None };
            let tasks = m * cols.div_ceil(8);
            self.launch(Kernel::Embed(shard.element), Some(group), &params, tasks.div_ceil(64));
        }
    }

    fn norm(
        &mut self,
        (x, add, out): (ValueId, Option<ValueId>, ValueId),
        weight: WeightId,
        bias: Option<WeightId>,
        eps: f32,
    ) -> Recorded {
        self.vector(weight)?;
        bias.map_or(Ok(()), |bias| self.vector(bias))?;
        let (out, Shape { rows, cols }) = self.value(out);
        let kernel = if bias.is_some() { Kernel::LayerNorm } else { Kernel::RmsNorm };
        let add_at = add.map_or(0, |add| self.at(add));
        let has_add = u32::from(add.is_some());
        let params = [self.at(x), add_at, out, rows as u32, cols as u32, has_add, eps.to_bits()];
        self.launch(kernel, Some(GroupKey::Vectors { weight, bias }), &params, rows);
        Ok(())
    }

    fn linear(
        &mut self,
        (x, out): (ValueId, ValueId),
        weight: WeightId,
        bias: Option<WeightId>,
        activation: Activation,
    ) -> Recorded {
        bias.map_or(Ok(()), |bias| self.vector(bias))?;
        let (x, Shape { rows: m, cols }) = self.value(x);
        let packed = self.weight(weight);
        let tile = match m {
            _ if m <= VECTOR_M_MAX => Tile::Vector,
            _ if m <= BATCH_M_MAX => Tile::Batch,
            _ => Tile::Matrix,
        };
        let lines = m.div_ceil(tile.m() as usize);
        if lines > LINE {
            return Err(format!("{m} rows are too many for one linear layer"));
        }
        for (at, shard) in packed.shards.iter().enumerate() {
            let rows = [shard.row_first as u32, shard.rows as u32, shard.row_words as u32];
            let extents = [m as u32, cols as u32, packed.shape.rows as u32];
            let tail = [u32::from(bias.is_some()), activation_number(activation)];
            let params = [&[x, self.at(out)][..], &extents, &rows, &tail].concat();
            let group = GroupKey::Weight { weight, shard: at, bias };
            let workgroups = [shard.rows.div_ceil(tile.workgroup_rows() as usize) as u32, lines as u32, 1];
            let kernel = Kernel::Linear(shard.element, tile, access(packed, shard));
            self.launch_grid(kernel, Some(group), &params, workgroups);
        }
        Ok(())
    }

    fn rope_kv(&mut self, op: &Op) {
        let &Op::RopeKv { qkv, cos_sin, slots, kv, layer, heads, rope_dim, style } = op else { return };
        let (m, block_tokens) = (self.rows(qkv), self.caches[kv.0 as usize].shape.block_tokens);
        let inputs = [self.at(qkv), self.reals[cos_sin.0 as usize], self.index(slots), m as u32];
        let head = [heads.heads, heads.kv_heads, heads.head_dim, rope_dim, block_tokens].map(|n| n as u32);
        let halves = [u32::from(style == RopeStyle::Halves)];
        let params = [&inputs[..], &head, &halves].concat();
        let tasks = m * (heads.heads + 2 * heads.kv_heads) * heads.head_dim.div_ceil(2);
        self.launch(Kernel::RopeKv, Some(GroupKey::Kv { kv, layer }), &params, tasks.div_ceil(64));
    }

    fn paged_attention(&mut self, op: &Op) -> Recorded {
        let &Op::PagedAttention { qkv, kv, layer, sequence, position, block_tables, table_width, heads, scale, out } =
            op
        else {
            return Ok(());
        };
        let block_tokens = self.caches[kv.0 as usize].shape.block_tokens;
        let mut params = self.attention((qkv, out), heads, scale)?;
        params.extend([sequence, position, block_tables].map(|index| self.index(index)));
        params.extend([table_width as u32, block_tokens as u32]);
        self.launch(Kernel::PagedAttention, Some(GroupKey::Kv { kv, layer }), &params, self.rows(qkv) * heads.heads);
        Ok(())
    }

    /// The parameters all attention kernels begin with.
    fn attention(&self, (qkv, out): (ValueId, ValueId), heads: HeadShape, scale: f32) -> Result<Vec<u32>, String> {
        let HeadShape { heads, kv_heads, head_dim } = heads;
        if head_dim > HEAD_DIM_MAX {
            return Err(format!("heads of {head_dim} elements; up to {HEAD_DIM_MAX} are supported"));
        }
        let (qkv, Shape { rows, cols }) = self.value(qkv);
        let extents = [rows, cols, heads, kv_heads, head_dim].map(|n| n as u32);
        Ok([&[qkv, self.at(out)][..], &extents, &[scale.to_bits()]].concat())
    }

    fn pool(&mut self, x: ValueId, starts: IndexId, pooling: Pooling, out: ValueId) {
        let (out, Shape { rows, cols }) = self.value(out);
        let pooling = match pooling {
            Pooling::Mean => 0,
            Pooling::Cls => 1,
            Pooling::Last => 2,
        };
        let params = [self.at(x), self.index(starts), out, rows as u32, cols as u32, pooling];
        self.launch(Kernel::Pool, None, &params, (rows * cols).div_ceil(64));
    }
}
