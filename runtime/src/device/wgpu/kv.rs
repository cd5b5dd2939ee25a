//! The paged KV cache on the device: two buffers for each layer, so that no binding holds more than one layer.

use wgpu::{Buffer, BufferDescriptor, BufferUsages, Device};

use super::faults::Faults;
use crate::device::{DeviceError, KvShape};

/// Keys and values of all layers.
pub(super) struct Cache {
    pub(super) shape: KvShape,
    pub(super) layers: Vec<[Buffer; 2]>,
}

impl Cache {
    /// Allocates the cache; `limit` is the most bytes one binding may have.
    pub(super) fn allocate(shape: KvShape, device: &Device, faults: &Faults, limit: u64) -> Result<Cache, DeviceError> {
        const WHAT: &str = "the KV cache (fewer blocks would fit)";
        let extents = [shape.blocks, shape.kv_heads, shape.block_tokens, shape.head_dim, 4];
        let bytes = extents.iter().try_fold(1u64, |bytes, n| bytes.checked_mul(*n as u64)).unwrap_or(u64::MAX);
        if bytes > limit || bytes == 0 {
            return Err(DeviceError::OutOfMemory { what: WHAT, bytes });
        }
        let mut layers = Vec::with_capacity(shape.layers);
        for _ in 0..shape.layers {
            let make = || {
                let descriptor = BufferDescriptor {
                    label: Some("kv"),
                    size: bytes,
                    usage: BufferUsages::STORAGE,
                    mapped_at_creation: false,
                };
                device.create_buffer(&descriptor)
            };
            layers.push([make(), make()]);
            faults.check(WHAT, bytes.saturating_mul(2 * shape.layers as u64))?;
        }
        Ok(Cache { shape, layers })
    }
}
