//! A device on wgpu: Vulkan, Metal or Direct3D 12, with nothing beyond base WebGPU asked of it.
//!
//! One run is one upload, one compute pass, one submit and one read. Software adapters compute the same but are no way
//! to serve (the cpu device is many times faster): they are opened only when named. Never panics because of a driver.

mod adapter;
mod arena;
mod encode;
mod faults;
mod gpu;
mod kv;
mod pack;
mod pipelines;
mod readback;
mod weights;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu::{BindGroup, Buffer, BufferUsages};

use super::check::{Holdings, check};
use super::{Device, DeviceError, KvId, KvShape, Program, Shape, WeightId};
use crate::weights::TensorView;
pub use adapter::{AdapterSummary, adapters, real_gpu};
use arena::{Arena, Needs, Plan};
use encode::{Dispatch, GroupKey, Recording};
use gpu::Gpu;
use kv::Cache;
use pipelines::{PARAM_WORDS, Pipelines};
use readback::Outputs;
use weights::{Uploader, Weight};

/// Bytes between the parameters of two dispatches: the largest alignment any device asks of a uniform offset.
const PARAM_STRIDE: u64 = 256;

/// An open device with the weights and caches it holds. `run` and `pack` wait for one another.
pub struct WgpuDevice {
    name: String,
    gpu: Gpu,
    pipelines: Arc<Pipelines>,
    /// Most bytes of a shard of a weight.
    shard_bytes_max: u64,
    /// Bound where a kernel has no bias.
    nothing: Buffer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    weights: Vec<Weight>,
    caches: Vec<Cache>,
    /// Making one costs microseconds for each dispatch; weights and caches never move.
    groups: HashMap<GroupKey, BindGroup>,
    arena: Option<Arena>,
}

impl Holdings for State {
    fn weight(&self, id: WeightId) -> Option<Shape> {
        self.weights.get(id.0 as usize).map(|weight| weight.shape)
    }

    fn kv(&self, id: KvId) -> Option<KvShape> {
        self.caches.get(id.0 as usize).map(|cache| cache.shape)
    }
}

impl WgpuDevice {
    /// Opens the first real GPU, or the first adapter whose name contains `selector`, whatever its case.
    ///
    /// A software adapter is opened only when named. Errors: `NoAdapter` lists what was found; `Lost` says why the
    /// driver refused.
    pub fn open(selector: Option<&str>) -> Result<WgpuDevice, DeviceError> {
        let adapter = adapter::select(selector)?;
        let info = adapter.get_info();
        let gpu = Gpu::open(&adapter)?;
        let pipelines = Arc::new(Pipelines::new(&gpu.device));
        let nothing = gpu.buffer("opening the device", 16, BufferUsages::STORAGE)?;
        Ok(WgpuDevice {
            name: format!("wgpu: {} ({:?})", info.name, info.backend),
            shard_bytes_max: gpu.binding_bytes_max,
            gpu,
            pipelines,
            nothing,
            state: Mutex::default(),
        })
    }

    /// The same device and pipelines, holding nothing, with small shards: what a binding limit does is tested by it.
    #[cfg(test)]
    fn with_shards_of(&self, bytes: u64) -> WgpuDevice {
        WgpuDevice {
            name: self.name.clone(),
            gpu: self.gpu.clone(),
            pipelines: self.pipelines.clone(),
            shard_bytes_max: bytes,
            nothing: self.nothing.clone(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_locked(&self, state: &mut State, program: &Program) -> Result<Vec<Vec<f32>>, DeviceError> {
        check(program, state)?;
        let plan = Plan::new(program);
        if plan.words * 4 > self.gpu.binding_bytes_max {
            return Err(DeviceError::OutOfMemory { what: arena::VALUES, bytes: plan.words * 4 });
        }
        let recording = encode::record(program, &plan, &state.weights, &state.caches)?;
        let params_at = (recording.inputs.len() as u64 * 4).next_multiple_of(PARAM_STRIDE);
        let outputs = Outputs::new(program, &plan);
        let needs = Needs {
            values: (plan.words * 4).max(16),
            inputs: params_at + PARAM_STRIDE * (recording.dispatches.len() as u64).max(1),
            readback: outputs.bytes.max(16),
        };
        let before = state.arena.take();
        let arena = Arena::fitted(before, needs, &self.gpu, &self.pipelines.common)?;
        self.submit(state, &arena, &recording, &outputs)?;
        let read = outputs.read(&self.gpu, &arena.readback);
        self.gpu.faults.check("running a program", 0)?;
        state.arena = Some(arena);
        read
    }

    fn submit(
        &self,
        state: &mut State,
        arena: &Arena,
        recording: &Recording,
        outputs: &Outputs,
    ) -> Result<(), DeviceError> {
        let stride = PARAM_STRIDE as usize / 4;
        let mut words = recording.inputs.clone();
        words.resize(words.len().next_multiple_of(stride), 0);
        let params_at = words.len() * 4;
        for dispatch in &recording.dispatches {
            words.extend_from_slice(&dispatch.params);
            words.resize(words.len() + stride - PARAM_WORDS, 0);
        }
        self.gpu.queue.write_buffer(&arena.inputs, 0, bytemuck::cast_slice(&words));
        for dispatch in &recording.dispatches {
            self.bind(state, dispatch.group);
        }
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for (at, dispatch) in recording.dispatches.iter().enumerate() {
            let Dispatch { kernel, group, workgroups: [x, y, z], .. } = dispatch;
            pass.set_pipeline(&self.pipelines.get(*kernel));
            pass.set_bind_group(0, &arena.common, &[(params_at + at * PARAM_STRIDE as usize) as u32]);
            if let Some(group) = group.and_then(|group| state.groups.get(&group)) {
                pass.set_bind_group(1, group, &[]);
            }
            pass.dispatch_workgroups(*x, *y, *z);
        }
        drop(pass);
        for copy in &outputs.copies {
            encoder.copy_buffer_to_buffer(&arena.values, copy.from, &arena.readback, copy.to, copy.bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.faults.check("running a program", 0)
    }

    /// Makes the bind group of a dispatch, if it is not made yet.
    fn bind(&self, state: &mut State, key: Option<GroupKey>) {
        let Some(key) = key.filter(|key| !state.groups.contains_key(key)) else { return };
        let vector = |weight: WeightId| state.weights[weight.0 as usize].vector().expect("recorded as a vector");
        let (layout, buffers) = match key {
            GroupKey::Weight { weight, shard, bias } => {
                let weight = &state.weights[weight.0 as usize].shards[shard].buffer;
                (&self.pipelines.weights, [weight, bias.map_or(&self.nothing, vector)])
            }
            GroupKey::Vectors { weight, bias } => {
                (&self.pipelines.weights, [vector(weight), bias.map_or(&self.nothing, vector)])
            }
            GroupKey::Kv { kv, layer } => {
                let [keys, values] = &state.caches[kv.0 as usize].layers[layer];
                (&self.pipelines.kv, [keys, values])
            }
        };
        let entry = |binding: usize| wgpu::BindGroupEntry {
            binding: binding as u32,
            resource: buffers[binding].as_entire_binding(),
        };
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout, entries: &[entry(0), entry(1)] };
        state.groups.insert(key, self.gpu.device.create_bind_group(&descriptor));
    }
}

impl Device for WgpuDevice {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn pack(&self, parts: &[TensorView<'_>]) -> Result<WeightId, DeviceError> {
        let uploader = Uploader { gpu: &self.gpu, shard_bytes_max: self.shard_bytes_max };
        let mut state = self.state();
        let weight = self.gpu.guarded("packing a weight", || uploader.upload(parts))?;
        state.weights.push(weight);
        Ok(WeightId(state.weights.len() as u32 - 1))
    }

    fn allocate_kv(&self, shape: KvShape) -> Result<KvId, DeviceError> {
        let mut state = self.state();
        let cache = self.gpu.guarded("allocating a KV cache", || Cache::allocate(shape, &self.gpu))?;
        state.caches.push(cache);
        Ok(KvId(state.caches.len() as u32 - 1))
    }

    fn run(&self, program: &Program) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut state = self.state();
        self.gpu.guarded("running a program", || self.run_locked(&mut state, program))
    }

    fn weight_bytes(&self) -> u64 {
        self.state().weights.iter().map(Weight::bytes).sum()
    }
}
