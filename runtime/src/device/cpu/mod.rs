//! The CPU as a device: packed weights, f32 activations, one pool of threads.
//!
//! Weights are dequantised exactly and multiplied in f32: activations are never quantised, so greedy text is that of
//! the f32 model on the same weights. Never reads the environment, never spins when idle.

mod arena;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod decode;
mod isa;
mod lanes;
mod linear;
mod memory;
mod pack;
mod panel;
mod plan;
mod pool;
mod portable;
mod rope;
mod rows;
#[cfg(test)]
mod tests;
mod weight;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use isa::Isa;

use self::isa::Kernels;
use self::lanes::LANES;
use self::memory::{Kv, Scratch, Slabs};
use self::plan::{Bindings, Task};
use self::pool::{PerThread, Pool};
use self::weight::{Data, Part, Weight};
use super::check::{Holdings, check, check_parts};
use super::{Device, DeviceError, KvId, KvShape, Program, Shape, WeightId};
use crate::weights::TensorView;

/// Chunks below which a run is not worth a wake: a few dozen microseconds.
const ALONE_CHUNKS: usize = 8;

/// Runs programs on this machine's cores.
pub struct CpuDevice {
    isa: Isa,
    kernels: Kernels,
    pool: Pool,
    scratch: PerThread<Scratch>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    slabs: Slabs,
    weights: Vec<Weight>,
    caches: Vec<Kv>,
    arena: Scratch,
}

impl Holdings for Held {
    fn weight(&self, id: WeightId) -> Option<Shape> {
        self.weights.get(id.0 as usize).map(|weight| weight.shape)
    }

    fn kv(&self, id: KvId) -> Option<KvShape> {
        self.caches.get(id.0 as usize).map(|kv| kv.shape)
    }
}

impl CpuDevice {
    /// A device with `threads` threads (all the machine's by default) and the best instruction set the machine has,
    /// or `isa` if the machine has it: forcing one is for tests.
    pub fn new(threads: Option<usize>, isa: Option<Isa>) -> CpuDevice {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let pool = Pool::new(threads.unwrap_or_else(cores));
        let wanted = isa.into_iter().chain(Isa::available());
        let (isa, kernels) =
            wanted.filter_map(|isa| Some((isa, isa.kernels()?))).next().expect("portable kernels run on every machine");
        CpuDevice { isa, kernels, scratch: PerThread::new(pool.threads()), pool, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs one tensor into a slab, all threads together.
    fn pack_part(&self, slabs: &mut Slabs, tensor: &TensorView<'_>, first_row: usize) -> Result<Part, DeviceError> {
        /// Groups packed in one chunk.
        const GROUPS: usize = 8;
        let kind = pack::kind(tensor.element);
        let group_bytes = kind.group_bytes(tensor.cols);
        let groups = tensor.rows.div_ceil(LANES);
        let base = slabs.allocate(groups * group_bytes)?;
        let to = Sendable(base);
        let chunks = groups.div_ceil(GROUPS);
        let ok = self.pool.run(&[chunks as u32], chunks < ALONE_CHUNKS, &|step| {
            for group in step.chunk * GROUPS..((step.chunk + 1) * GROUPS).min(groups) {
                // Each group is its own stretch of the fresh allocation.
                let out = unsafe { std::slice::from_raw_parts_mut(to.at(group * group_bytes), group_bytes) };
                pack::pack_group(tensor, group, out);
            }
        });
        let reason = "its blocks could not be repacked".to_owned();
        let part = Part { kind, first_row, rows: tensor.rows, group_bytes, base };
        if ok { Ok(part) } else { Err(DeviceError::Pack { tensor: tensor.name.to_owned(), reason }) }
    }
}

/// A pointer that may cross to the pool's threads, which write apart.
#[derive(Clone, Copy)]
struct Sendable(*mut u8);

unsafe impl Sync for Sendable {}

impl Sendable {
    unsafe fn at(&self, offset: usize) -> *mut u8 {
        unsafe { self.0.add(offset) }
    }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        format!("cpu ({}, {} threads)", self.isa.name(), self.pool.threads())
    }

    fn pack(&self, parts: &[TensorView<'_>]) -> Result<WeightId, DeviceError> {
        let shape = check_parts(parts)?;
        let mut held = self.held();
        let held = &mut *held;
        let data = if shape.rows == 1 || shape.cols == 1 {
            let base = held.slabs.allocate(4 * shape.rows * shape.cols)?.cast::<f32>();
            let mut rest = unsafe { std::slice::from_raw_parts_mut(base, shape.rows * shape.cols) };
            for part in parts {
                let (rows, below) = rest.split_at_mut(part.rows * part.cols);
                part.element.decode(part.bytes, rows);
                rest = below;
            }
            Data::Vector(base)
        } else {
            let mut packed = Vec::new();
            let mut first_row = 0;
            for part in parts {
                packed.push(self.pack_part(&mut held.slabs, part, first_row)?);
                first_row += part.rows;
            }
            Data::Panels(packed)
        };
        held.weights.push(Weight::new(shape, data));
        Ok(WeightId(held.weights.len() as u32 - 1))
    }

    fn allocate_kv(&self, shape: KvShape) -> Result<KvId, DeviceError> {
        let mut held = self.held();
        held.caches.push(Kv::allocate(shape)?);
        Ok(KvId(held.caches.len() as u32 - 1))
    }

    fn run(&self, program: &Program) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut held = self.held();
        check(program, &*held)?;
        let Held { weights, caches, arena, .. } = &mut *held;
        let layout = arena::layout(program);
        let base = arena.elements(layout.elements);
        // In range: the arena holds what the layout asks for.
        let values: Vec<*mut f32> = layout.offsets.iter().map(|offset| unsafe { base.add(*offset) }).collect();
        let mut bindings = Bindings { program, weights, caches, values, threads: self.pool.threads() };
        let mut phases = bindings.tasks();
        phases.retain(|phase| phase.iter().any(|task| task.chunks() > 0));
        let chunks: Vec<u32> =
            phases.iter().map(|phase| phase.iter().map(Task::chunks).sum::<usize>() as u32).collect();
        let alone = chunks.iter().map(|chunks| *chunks as usize - 1).sum::<usize>() < ALONE_CHUNKS;
        let ok = self.pool.run(&chunks, alone, &|step| {
            let mut chunk = step.chunk;
            for task in &phases[step.phase] {
                if chunk < task.chunks() {
                    // The pool runs every chunk once, and the kernels are of this machine.
                    return unsafe { task.run(&self.kernels, chunk, self.scratch.of(step.thread)) };
                }
                chunk -= task.chunks();
            }
        });
        if !ok {
            return Err(DeviceError::Lost { reason: "a kernel panicked; the log says where".to_owned() });
        }
        let read = |id: &super::ValueId| {
            let shape = program.shape(*id);
            unsafe { std::slice::from_raw_parts(bindings.values[id.0 as usize], shape.rows * shape.cols) }.to_vec()
        };
        Ok(program.outputs.iter().map(read).collect())
    }

    fn weight_bytes(&self) -> u64 {
        self.held().slabs.bytes()
    }
}
