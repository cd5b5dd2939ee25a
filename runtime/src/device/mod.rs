//! Where a program runs: one small trait, and one folder for each kind of device.
//!
//! A device knows weights, the KV cache and programs. It never knows a model, a sequence or a request.

pub mod check;
pub mod cpu;
pub mod program;
pub mod reference;
pub mod select;
pub mod testing;
mod text;
pub mod wgpu;

use crate::weights::TensorView;
pub use program::{
    Activation, HeadShape, IndexId, KvId, Op, Pooling, Program, ProgramBuilder, RealId, RopeStyle, Shape, ValueId,
    WeightId,
};

/// Something that holds weights and runs programs.
///
/// **Batch invariance.** What a program computes for one row of a value must not depend, in a single bit, on which
/// other rows are in the program: the same seed must give the same text whatever else is in the batch. Every kernel
/// therefore has one order of summation for each output element, whatever the number of rows.
pub trait Device: Send + Sync {
    /// For people: `"cpu (avx512)"`, `"wgpu: NVIDIA H100 (Vulkan)"`.
    fn name(&self) -> String;

    /// Takes the rows of one or more tensors, stacked in order, as one weight; all have the same `cols`.
    ///
    /// Stacking joins matrices that read the same input (q, k and v; gate and up) into one linear layer; each part
    /// keeps its own element type. The device chooses the layout, and splits what is over its binding limit.
    fn pack(&self, parts: &[TensorView<'_>]) -> Result<WeightId, DeviceError>;

    /// Allocates a paged KV cache. Pages cost memory when they are first written, where the device can do that.
    fn allocate_kv(&self, shape: KvShape) -> Result<KvId, DeviceError>;

    /// Runs a program to its end and returns its outputs in order, each row-major.
    fn run(&self, program: &Program) -> Result<Vec<Vec<f32>>, DeviceError>;

    /// Bytes held by packed weights.
    fn weight_bytes(&self) -> u64;
}

/// Shape of a paged KV cache. One slot holds the keys and values of one token in one layer.
///
/// Layout, for each layer, keys and then values alike: `[blocks][kv_heads][block_tokens][head_dim]`, f32.
/// Slot number = block number × `block_tokens` + offset in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub blocks: usize,
    pub block_tokens: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Why a device could not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("no adapter matches {wanted:?}; found: {found}")]
    NoAdapter { wanted: String, found: String },
    #[error("tensor {tensor:?}: {reason}")]
    Pack { tensor: String, reason: String },
    #[error("op {op} of the program cannot run: {reason}; this is a mistake of the model that recorded it")]
    Program { op: usize, reason: String },
    #[error("out of device memory: {bytes} bytes for {what}")]
    OutOfMemory { what: &'static str, bytes: u64 },
    #[error("the device was lost: {reason}")]
    Lost { reason: String },
}
