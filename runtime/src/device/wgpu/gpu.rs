//! The opened device: what every part of this folder allocates on, submits to and asks for faults.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wgpu::{Adapter, Buffer, BufferDescriptor, BufferUsages, Device, PollType, Queue};

use super::adapter::ready;
use super::faults::Faults;
use crate::device::DeviceError;

/// Handles of one device; clones are the same device.
#[derive(Clone)]
pub(super) struct Gpu {
    pub(super) device: Device,
    pub(super) queue: Queue,
    pub(super) faults: Faults,
    /// Most bytes of one buffer that a kernel binds whole.
    pub(super) binding_bytes_max: u64,
}

impl Gpu {
    /// Opens an adapter with all its limits and none of its features.
    pub(super) fn open(adapter: &Adapter) -> Result<Gpu, DeviceError> {
        let limits = adapter.limits();
        let opened = ready(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("outrider"),
            required_features: wgpu::Features::empty(),
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        }));
        let (device, queue) = opened.map_err(|error| DeviceError::Lost { reason: error.to_string() })?;
        let faults = Faults::listen(&device);
        // Some backends count bytes within a binding in 32 bits.
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(u64::from(u32::MAX));
        Ok(Gpu { device, queue, faults, binding_bytes_max: most / 16 * 16 })
    }

    /// A buffer of `size` bytes, or the error that `what` does not fit.
    pub(super) fn buffer(&self, what: &'static str, size: u64, usage: BufferUsages) -> Result<Buffer, DeviceError> {
        let descriptor = BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        self.faults.check(what, size).map(|()| buffer)
    }

    /// Waits until everything submitted has run.
    pub(super) fn wait(&self) -> Result<(), DeviceError> {
        let waited = self.device.poll(PollType::wait_indefinitely());
        waited.map(|_| ()).map_err(|error| DeviceError::Lost { reason: error.to_string() })
    }

    /// Runs `f`. wgpu turns some driver failures in submit and poll into panics; here they are a lost device.
    pub(super) fn guarded<T>(
        &self,
        what: &'static str,
        f: impl FnOnce() -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        self.faults.check(what, 0)?;
        catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            self.faults.lose(words.unwrap_or_else(|| "the driver failed".to_owned()));
            self.faults.check(what, 0)?;
            unreachable!("a lost device stays lost")
        })
    }
}
