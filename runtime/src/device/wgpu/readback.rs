//! From the arena back to the caller: outputs are copied side by side into one buffer and read once.

use wgpu::Buffer;

use super::arena::Plan;
use super::gpu::Gpu;
use crate::device::{DeviceError, Program};

/// Which bytes of the arena are handed back.
pub(super) struct Outputs {
    pub(super) copies: Vec<Copy>,
    pub(super) bytes: u64,
}

/// One copy from the arena to the readback buffer, in bytes.
pub(super) struct Copy {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) bytes: u64,
}

impl Outputs {
    pub(super) fn new(program: &Program, plan: &Plan) -> Outputs {
        let mut outputs = Outputs { copies: Vec::with_capacity(program.outputs.len()), bytes: 0 };
        for value in &program.outputs {
            let shape = program.shape(*value);
            let offset = plan.offsets[value.0 as usize].expect("the plan places every output");
            let bytes = (shape.rows * shape.cols * 4) as u64;
            outputs.copies.push(Copy { from: u64::from(offset) * 4, to: outputs.bytes, bytes });
            outputs.bytes += bytes;
        }
        outputs
    }

    /// Waits for the submitted work and reads what it left.
    pub(super) fn read(&self, gpu: &Gpu, readback: &Buffer) -> Result<Vec<Vec<f32>>, DeviceError> {
        if self.bytes == 0 {
            gpu.wait()?;
            return Ok(vec![Vec::new(); self.copies.len()]);
        }
        let slice = readback.slice(..self.bytes);
        slice.map_async(wgpu::MapMode::Read, |_| {});
        gpu.wait()?;
        let view = slice.get_mapped_range().map_err(|error| DeviceError::Lost { reason: error.to_string() })?;
        let words = |copy: &Copy| {
            let bytes = &view[copy.to as usize..(copy.to + copy.bytes) as usize];
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let read = self.copies.iter().map(words).collect();
        drop(view);
        readback.unmap();
        Ok(read)
    }
}
