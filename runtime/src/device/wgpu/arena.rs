//! Where the values of one run lie: offsets by lifetime, in one buffer that all kernels bind whole.
//!
//! One buffer, because a dispatch may not bind the same buffer for reading and for writing, and because one bind group
//! then serves every dispatch. Memory of a value is used again after the last op that names it.

use wgpu::{BindGroup, Buffer, BufferBinding, BufferUsages, Device};

use super::gpu::Gpu;
use super::pipelines::PARAM_WORDS;
use crate::device::{DeviceError, Op, Program, ValueId};

/// Words between the beginnings of values: 256 bytes, the largest alignment any device asks for.
const ALIGN_WORDS: u64 = 64;

/// Offsets of a program's values.
pub(super) struct Plan {
    /// In words, by value id; values that no op names have none.
    pub(super) offsets: Vec<Option<u32>>,
    /// Words the arena must have.
    pub(super) words: u64,
}

/// Values an op reads or writes.
pub(super) fn values_of(op: &Op) -> impl Iterator<Item = ValueId> {
    let named = match op {
        Op::Embed { out, .. } => [Some(*out), None, None],
        Op::RmsNorm { x, add, out, .. } | Op::LayerNorm { x, add, out, .. } => [Some(*x), *add, Some(*out)],
        Op::RopeKv { qkv, .. } => [Some(*qkv), None, None],
        Op::PagedAttention { qkv, out, .. } | Op::EncoderAttention { qkv, out, .. } => [Some(*qkv), Some(*out), None],
        Op::GatedActivation { gate_up, out, .. } => [Some(*gate_up), Some(*out), None],
        Op::Linear { x, out, .. }
        | Op::Gather { x, out, .. }
        | Op::Pool { x, out, .. }
        | Op::L2Normalize { x, out } => [Some(*x), Some(*out), None],
    };
    named.into_iter().flatten()
}

impl Plan {
    /// Lays out the values, first fit; every id must be in range.
    pub(super) fn new(program: &Program) -> Plan {
        let never = program.ops.len();
        let mut last = vec![0; program.values.len()];
        for (at, op) in program.ops.iter().enumerate() {
            values_of(op).for_each(|value| last[value.0 as usize] = at);
        }
        program.outputs.iter().for_each(|value| last[value.0 as usize] = never);
        let mut plan = Plan { offsets: vec![None; program.values.len()], words: 0 };
        let mut free: Vec<(u64, u64)> = Vec::new();
        for (at, op) in program.ops.iter().enumerate() {
            values_of(op).for_each(|value| plan.place(program, value, &mut free));
            // Only after the whole op is placed: an op's output must not lie on its input.
            for value in values_of(op) {
                if last[value.0 as usize] == at {
                    last[value.0 as usize] = never;
                    plan.release(program, value, &mut free);
                }
            }
        }
        program.outputs.iter().for_each(|value| plan.place(program, *value, &mut free));
        plan
    }

    fn place(&mut self, program: &Program, value: ValueId, free: &mut Vec<(u64, u64)>) {
        if self.offsets[value.0 as usize].is_some() {
            return;
        }
        let words = room(program, value);
        let offset = match free.iter().position(|(_, size)| *size >= words) {
            Some(at) => {
                let (offset, size) = free.remove(at);
                if size > words {
                    free.insert(at, (offset + words, size - words));
                }
                offset
            }
            None => {
                self.words += words;
                self.words - words
            }
        };
        // Over u32 the run is refused, since the arena is then over any binding limit.
        self.offsets[value.0 as usize] = Some(u32::try_from(offset).unwrap_or(u32::MAX));
    }

    fn release(&self, program: &Program, value: ValueId, free: &mut Vec<(u64, u64)>) {
        let Some(offset) = self.offsets[value.0 as usize] else { return };
        let (offset, words) = (u64::from(offset), room(program, value));
        let at = free.partition_point(|(other, _)| *other < offset);
        free.insert(at, (offset, words));
        if at + 1 < free.len() && offset + words == free[at + 1].0 {
            free[at].1 += free.remove(at + 1).1;
        }
        if at > 0 && free[at - 1].0 + free[at - 1].1 == offset {
            free[at - 1].1 += free.remove(at).1;
        }
    }
}

fn room(program: &Program, value: ValueId) -> u64 {
    let shape = program.shape(value);
    (shape.rows as u64).saturating_mul(shape.cols as u64).max(1).next_multiple_of(ALIGN_WORDS)
}

/// The buffers of a run; they grow and are kept.
pub(super) struct Arena {
    pub(super) values: Buffer,
    /// Indices and reals, then the parameters of each dispatch.
    pub(super) inputs: Buffer,
    pub(super) readback: Buffer,
    pub(super) common: BindGroup,
}

/// Bytes a run needs of each buffer.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    pub(super) values: u64,
    pub(super) inputs: u64,
    pub(super) readback: u64,
}

impl Arena {
    /// Buffers at least as large as `needs`; those of `before` that are large enough are kept.
    pub(super) fn fitted(
        before: Option<Arena>,
        needs: Needs,
        gpu: &Gpu,
        layout: &wgpu::BindGroupLayout,
    ) -> Result<Arena, DeviceError> {
        let ([values, inputs, readback], common) = match before {
            Some(arena) => ([Some(arena.values), Some(arena.inputs), Some(arena.readback)], Some(arena.common)),
            None => ([None, None, None], None),
        };
        let fits = |buffer: &Option<Buffer>, bytes| buffer.as_ref().is_some_and(|buffer| buffer.size() >= bytes);
        let common = common.filter(|_| fits(&values, needs.values) && fits(&inputs, needs.inputs));
        let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let readable = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let values = grown(values, needs.values, (VALUES, storage | BufferUsages::COPY_SRC), gpu)?;
        let inputs =
            grown(inputs, needs.inputs, ("the inputs of a forward pass", storage | BufferUsages::UNIFORM), gpu)?;
        let readback = grown(readback, needs.readback, ("the outputs of a forward pass", readable), gpu)?;
        let common = common.unwrap_or_else(|| common_group(&gpu.device, layout, &values, &inputs));
        Ok(Arena { values, inputs, readback, common })
    }
}

/// What the largest buffer of a run holds, for errors.
pub(super) const VALUES: &str = "the values of a forward pass (fewer rows would fit)";

fn grown(
    before: Option<Buffer>,
    bytes: u64,
    (what, usage): (&'static str, BufferUsages),
    gpu: &Gpu,
) -> Result<Buffer, DeviceError> {
    match before {
        Some(buffer) if buffer.size() >= bytes => Ok(buffer),
        _ if bytes > gpu.binding_bytes_max => Err(DeviceError::OutOfMemory { what, bytes }),
        _ => {
            // Half as much again, so that a batch that grows row by row does not allocate at every step.
            let roomy = (bytes + bytes / 2).next_multiple_of(1024);
            gpu.buffer(what, roomy.min(gpu.binding_bytes_max), usage)
        }
    }
}

fn common_group(device: &Device, layout: &wgpu::BindGroupLayout, values: &Buffer, inputs: &Buffer) -> BindGroup {
    let params = BufferBinding { buffer: inputs, offset: 0, size: std::num::NonZeroU64::new(4 * PARAM_WORDS as u64) };
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("arena"),
        layout,
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: values.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: inputs.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 2, resource: wgpu::BindingResource::Buffer(params) },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ProgramBuilder;

    #[test]
    fn does_a_chain_of_values_take_two_places() {
        let mut b = ProgramBuilder::new();
        let values: Vec<ValueId> = (0..6).map(|_| b.value(3, 64)).collect();
        values.windows(2).for_each(|pair| b.push(Op::L2Normalize { x: pair[0], out: pair[1] }));
        b.output(values[5]);
        let plan = Plan::new(&b.finish());
        assert_eq!(plan.words, 2 * 3 * 64);
        assert!(plan.offsets.windows(2).all(|pair| pair[0] != pair[1]), "an output lies on its input");
    }

    #[test]
    fn do_living_values_never_overlap() {
        let mut b = ProgramBuilder::new();
        let sizes = [5, 70, 1, 300, 64, 9, 128, 33];
        let values: Vec<ValueId> = sizes.iter().map(|cols| b.value(1, *cols)).collect();
        let mut uses = vec![(0, 0); values.len()];
        for (at, (x, out)) in [(0, 1), (1, 2), (0, 3), (3, 4), (2, 5), (5, 6), (6, 7)].into_iter().enumerate() {
            b.push(Op::L2Normalize { x: values[x], out: values[out] });
            uses[x].1 = at;
            uses[out] = (at, at);
        }
        b.output(values[4]);
        uses[4].1 = 99;
        let program = b.finish();
        let plan = Plan::new(&program);
        let place = |v: usize| (plan.offsets[v].unwrap() as usize, plan.offsets[v].unwrap() as usize + sizes[v]);
        for (a, b) in (0..values.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let together = uses[a].0 <= uses[b].1 && uses[b].0 <= uses[a].1;
            let apart = place(a).1 <= place(b).0 || place(b).1 <= place(a).0;
            assert!(!together || apart, "values {a} and {b}");
        }
    }
}
