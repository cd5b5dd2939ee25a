//! A device that runs the kernels' plain-Rust references, one op after another: the judge of every other device.
//!
//! Never fast: weights are decoded to f32 when packed, sums are in f64, and there are no threads.

use std::sync::Mutex;

use super::check::{Holdings, check, check_parts};
use super::program::{HeadShape, IndexId, KvId, Op, Program, Shape, ValueId, WeightId};
use super::{Device, DeviceError, KvShape};
use crate::kernels::{self, layer_norm::LayerNorm, linear::Linear, paged_attention::Paging};
use crate::kernels::{rope_kv::KvLayer, rope_kv::Rope};
use crate::weights::TensorView;

/// Runs programs by the references in `kernels/`.
#[derive(Debug, Default)]
pub struct ReferenceDevice {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    weights: Vec<(Shape, Vec<f32>)>,
    caches: Vec<(KvShape, Vec<KvLayer>)>,
}

impl Holdings for Held {
    fn weight(&self, id: WeightId) -> Option<Shape> {
        self.weights.get(id.0 as usize).map(|weight| weight.0)
    }

    fn kv(&self, id: KvId) -> Option<KvShape> {
        self.caches.get(id.0 as usize).map(|kv| kv.0)
    }
}

impl ReferenceDevice {
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Device for ReferenceDevice {
    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn pack(&self, parts: &[TensorView<'_>]) -> Result<WeightId, DeviceError> {
        let shape = check_parts(parts)?;
        let mut decoded = vec![0.0; shape.rows * shape.cols];
        let mut rest = decoded.as_mut_slice();
        for part in parts {
            let (rows, below) = rest.split_at_mut(part.rows * part.cols);
            part.element.decode(part.bytes, rows);
            rest = below;
        }
        let mut held = self.held();
        held.weights.push((shape, decoded));
        Ok(WeightId(held.weights.len() as u32 - 1))
    }

    fn allocate_kv(&self, shape: KvShape) -> Result<KvId, DeviceError> {
        let elements = shape.blocks * shape.kv_heads * shape.block_tokens * shape.head_dim;
        let layer = KvLayer { keys: vec![0.0; elements], values: vec![0.0; elements] };
        let mut held = self.held();
        held.caches.push((shape, vec![layer; shape.layers]));
        Ok(KvId(held.caches.len() as u32 - 1))
    }

    fn run(&self, program: &Program) -> Result<Vec<Vec<f32>>, DeviceError> {
        let held = &mut *self.held();
        check(program, held)?;
        let values = program.values.iter().map(|shape| vec![0.0; shape.rows * shape.cols]).collect();
        let mut run = Run { program, values, held };
        program.ops.iter().for_each(|op| run.op(op));
        Ok(program.outputs.iter().map(|output| run.values[output.0 as usize].clone()).collect())
    }

    fn weight_bytes(&self) -> u64 {
        self.held().weights.iter().map(|(_, weight)| 4 * weight.len() as u64).sum()
    }
}

struct Run<'a> {
    program: &'a Program,
    values: Vec<Vec<f32>>,
    held: &'a mut Held,
}

impl Run<'_> {
    /// Takes a value out so that it can be changed while others are read; [`Run::put`] brings it back.
    fn take(&mut self, id: ValueId) -> Vec<f32> {
        std::mem::take(&mut self.values[id.0 as usize])
    }

    fn put(&mut self, id: ValueId, value: Vec<f32>) {
        self.values[id.0 as usize] = value;
    }

    fn value(&self, id: ValueId) -> &[f32] {
        &self.values[id.0 as usize]
    }

    fn weight(&self, id: WeightId) -> &[f32] {
        &self.held.weights[id.0 as usize].1
    }

    fn indices(&self, id: IndexId) -> &[u32] {
        &self.program.indices[id.0 as usize]
    }

    fn op(&mut self, op: &Op) {
        match *op {
            Op::RmsNorm { x, .. } | Op::LayerNorm { x, .. } => {
                let value = self.take(x);
                self.norm(op, value, x);
            }
            Op::RopeKv { qkv, cos_sin, slots, kv, layer, heads, rope_dim, style } => {
                let mut value = self.take(qkv);
                let program = self.program;
                let (shape, layers) = &mut self.held.caches[kv.0 as usize];
                let (cos_sin, slots) = (&program.reals[cos_sin.0 as usize], &program.indices[slots.0 as usize]);
                let rope = Rope { heads, rope_dim, style };
                kernels::rope_kv::reference(rope, &mut value, cos_sin, slots, (shape, &mut layers[layer]));
                self.put(qkv, value);
            }
            Op::Embed { out, .. }
            | Op::Linear { out, .. }
            | Op::PagedAttention { out, .. }
            | Op::EncoderAttention { out, .. }
            | Op::GatedActivation { out, .. }
            | Op::Gather { out, .. }
            | Op::Pool { out, .. }
            | Op::L2Normalize { out, .. } => {
                let mut value = self.take(out);
                self.map(op, &mut value);
                self.put(out, value);
            }
        }
    }

    fn norm(&mut self, op: &Op, mut value: Vec<f32>, x: ValueId) {
        match *op {
            Op::RmsNorm { add, weight, eps, out, .. } => {
                let mut to = self.take(out);
                let add = add.map(|add| self.value(add));
                kernels::rms_norm::reference(&mut value, add, self.weight(weight), eps, &mut to);
                self.put(out, to);
            }
            Op::LayerNorm { add, weight, bias, eps, out, .. } => {
                let mut to = self.take(out);
                let norm = LayerNorm { weight: self.weight(weight), bias: self.weight(bias), eps };
                kernels::layer_norm::reference(norm, &mut value, add.map(|add| self.value(add)), &mut to);
                self.put(out, to);
            }
            _ => {}
        }
        self.put(x, value);
    }

    /// Ops that change nothing but their output.
    fn map(&self, op: &Op, to: &mut [f32]) {
        let cols = |value: ValueId| self.program.shape(value).cols;
        match *op {
            Op::Embed { table, ids, accumulate, .. } => {
                kernels::embed::reference(self.weight(table), self.indices(ids), accumulate, to);
            }
            Op::Linear { x, weight, bias, activation, .. } => {
                let bias = bias.map(|bias| self.weight(bias));
                let linear = Linear { weight: self.weight(weight), cols: cols(x), bias, activation };
                kernels::linear::reference(linear, self.value(x), to);
            }
            Op::PagedAttention { .. } => self.paged_attention(op, to),
            Op::EncoderAttention { qkv, starts, heads, scale, .. } => {
                kernels::encoder_attention::reference(heads, scale, self.indices(starts), self.value(qkv), to);
            }
            Op::GatedActivation { gate_up, activation, .. } => {
                kernels::gated_activation::reference(activation, cols(gate_up) / 2, self.value(gate_up), to);
            }
            Op::Gather { x, rows, .. } => {
                kernels::gather::reference(self.value(x), cols(x), self.indices(rows), to);
            }
            Op::Pool { x, starts, pooling, .. } => {
                kernels::pool::reference(pooling, self.value(x), cols(x), self.indices(starts), to);
            }
            Op::L2Normalize { x, .. } => kernels::l2_normalize::reference(self.value(x), cols(x), to),
            Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::RopeKv { .. } => {}
        }
    }

    fn paged_attention(&self, op: &Op, to: &mut [f32]) {
        let Op::PagedAttention { qkv, kv, layer, sequence, position, block_tables, table_width, heads, scale, .. } =
            *op
        else {
            return;
        };
        let heads: HeadShape = heads;
        let (shape, layers) = &self.held.caches[kv.0 as usize];
        let paging = Paging {
            sequence: self.indices(sequence),
            position: self.indices(position),
            block_tables: self.indices(block_tables),
            table_width,
        };
        kernels::paged_attention::reference((heads, scale), paging, (shape, &layers[layer]), self.value(qkv), to);
    }
}
