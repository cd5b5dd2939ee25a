//! The paged KV cache on the device: two buffers for each layer, so that no binding holds more than one layer.

use wgpu::{Buffer, BufferUsages};

use super::gpu::Gpu;
use crate::device::{DeviceError, KvShape};

/// Keys and values of all layers.
pub(super) struct Cache {
    pub(super) shape: KvShape,
    pub(super) layers: Vec<[Buffer; 2]>,
}

impl Cache {
    /// Allocates the cache; keys of one layer must fit a binding.
    pub(super) fn allocate(shape: KvShape, gpu: &Gpu) -> Result<Cache, DeviceError> {
        const WHAT: &str = "the KV cache (fewer blocks would fit)";
        let extents = [shape.blocks, shape.kv_heads, shape.block_tokens, shape.head_dim, 4];
        let bytes = extents.iter().try_fold(1u64, |bytes, n| bytes.checked_mul(*n as u64)).unwrap_or(u64::MAX);
        if bytes > gpu.binding_bytes_max || bytes == 0 {
            return Err(DeviceError::OutOfMemory { what: WHAT, bytes });
        }
        let make = || gpu.buffer(WHAT, bytes, BufferUsages::STORAGE);
        let layers = (0..shape.layers).map(|_| Ok([make()?, make()?])).collect::<Result<_, DeviceError>>()?;
        Ok(Cache { shape, layers })
    }
}
