//! Memory of the CPU device: huge-page slabs for weights, lazily touched maps for KV caches, aligned scratch.
//!
//! Weights are never freed one by one: they live as long as the device.

use memmap2::{MmapMut, MmapOptions};

use super::lanes::LANES;
use crate::device::{DeviceError, KvShape};

/// Weights are cut from slabs of this size. Large enough for 2 MiB pages, which spare a decode step that streams
/// 100 MB most of its TLB misses; untouched pages of the last slab cost nothing.
const SLAB_BYTES: usize = 64 << 20;

/// Alignment of all that is handed out: one cache line, one 512-bit register.
const ALIGN: usize = 64;

fn map(what: &'static str, bytes: usize) -> Result<MmapMut, DeviceError> {
    let map = MmapOptions::new().len(bytes.max(1)).map_anon();
    map.map_err(|_| DeviceError::OutOfMemory { what, bytes: bytes as u64 })
}

/// Gives out zeroed memory for weights.
#[derive(Debug, Default)]
pub struct Slabs {
    slabs: Vec<MmapMut>,
    used: usize,
    total: u64,
}

impl Slabs {
    /// `bytes` of zeroed memory, aligned to a cache line, good for as long as `self`.
    pub fn allocate(&mut self, bytes: usize) -> Result<*mut u8, DeviceError> {
        let bytes = bytes.next_multiple_of(ALIGN);
        let room = self.slabs.last().map_or(0, |slab| slab.len() - self.used);
        if room < bytes {
            let slab = map("weights", bytes.max(SLAB_BYTES))?;
            // Only a hint: without huge pages everything works, a little slower.
            #[cfg(target_os = "linux")]
            let _ = slab.advise(memmap2::Advice::HugePage);
            self.slabs.push(slab);
            self.used = 0;
        }
        let slab = self.slabs.last_mut().expect("one was just made");
        let start = self.used;
        self.used += bytes;
        self.total += bytes as u64;
        Ok(slab[start..].as_mut_ptr())
    }

    /// Bytes given out.
    pub fn bytes(&self) -> u64 {
        self.total
    }
}

/// A paged KV cache: one anonymous map, whose pages cost memory when they are first written.
#[derive(Debug)]
pub struct Kv {
    pub shape: KvShape,
    map: MmapMut,
    layer_elements: usize,
}

impl Kv {
    pub fn allocate(shape: KvShape) -> Result<Kv, DeviceError> {
        let KvShape { layers, blocks, block_tokens, kv_heads, head_dim } = shape;
        let product = |factors: &[usize]| factors.iter().try_fold(1usize, |all, factor| all.checked_mul(*factor));
        let too_large = DeviceError::OutOfMemory { what: "the kv cache", bytes: u64::MAX };
        let Some(bytes) = product(&[layers, 2, blocks, block_tokens, kv_heads, head_dim, 4]) else {
            return Err(too_large);
        };
        let map = map("the kv cache", bytes)?;
        Ok(Kv { shape, map, layer_elements: blocks * block_tokens * kv_heads * head_dim })
    }

    /// First key and first value of a layer.
    pub fn layer(&mut self, layer: usize) -> (*mut f32, *mut f32) {
        let start = 2 * layer * self.layer_elements;
        let base = self.map.as_mut_ptr().cast::<f32>();
        // In range: the map holds `layers · 2 · layer_elements` elements, and `layer < layers` was checked.
        unsafe { (base.add(start), base.add(start + self.layer_elements)) }
    }
}

/// f32 memory aligned to a register, grown on demand and kept from run to run.
#[derive(Debug, Default)]
pub struct Scratch {
    lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
#[allow(dead_code, reason = "read and written as raw elements")]
struct Line([f32; LANES]);

impl Scratch {
    /// At least `elements` f32 of unspecified contents. Earlier pointers are void if it had to grow.
    pub fn elements(&mut self, elements: usize) -> *mut f32 {
        let lines = elements.div_ceil(LANES);
        if lines > self.lines.len() {
            // The old contents are not wanted: drop them first, so that no copy is made.
            self.lines = Vec::new();
            self.lines = vec![Line([0.0; LANES]); lines];
        }
        self.lines.as_mut_ptr().cast()
    }
}
