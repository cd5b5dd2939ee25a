//! Takes named tensors out of a checkpoint, checks their shapes and packs them into a device.

use crate::device::{Device, WeightId};
use crate::models::ModelError;
use crate::weights::{Checkpoint, ElementType, Naming, TensorView};

/// A checkpoint and the device its weights go to.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a dyn Device,
}

impl<'a> Parts<'a> {
    pub fn new(checkpoint: &'a Checkpoint, device: &'a dyn Device) -> Self {
        Parts { checkpoint, device }
    }

    /// The name of a tensor, by whose rules the checkpoint names them.
    pub fn name<'n>(&self, gguf: &'n str, hugging_face: &'n str) -> &'n str {
        match self.checkpoint.naming() {
            Naming::Gguf => gguf,
            Naming::HuggingFace => hugging_face,
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.find_tensor(name).is_some()
    }

    /// A matrix `[rows, cols]`; errors name the tensor and both shapes.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<TensorView<'a>, ModelError> {
        let view = self.checkpoint.tensor(name)?;
        if (view.rows, view.cols) != (rows, cols) {
            return Err(ModelError::Shape {
                tensor: name.to_string(),
                found: (view.rows, view.cols),
                expected: (rows, cols),
            });
        }
        Ok(view)
    }

    /// As [`Parts::matrix`]; `None` if there is no such tensor.
    pub fn optional_matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<TensorView<'a>>, ModelError> {
        if self.has(name) { self.matrix(name, rows, cols).map(Some) } else { Ok(None) }
    }

    /// Packs matrices, stacked by rows, as one weight.
    pub fn pack(&self, views: &[TensorView<'_>]) -> Result<WeightId, ModelError> {
        Ok(self.device.pack(views)?)
    }

    /// Packs a vector of `len` elements: a norm's weight or bias.
    pub fn vector(&self, name: &str, len: usize) -> Result<WeightId, ModelError> {
        self.pack(&[self.matrix(name, 1, len)?])
    }

    /// A vector's elements; `None` if there is no such tensor.
    pub fn reals(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.optional_matrix(name, 1, len)?.map(|view| decode(&view)))
    }

    /// The biases of stacked matrices as one vector: name and length of each part. `None` if no part has one; a part
    /// without one among others that have is 0.
    pub fn stacked_bias(&self, stack: &[(String, usize)]) -> Result<Option<WeightId>, ModelError> {
        let mut joined = Vec::new();
        let mut any = false;
        for (name, len) in stack {
            match self.reals(name, *len)? {
                Some(bias) => {
                    any = true;
                    joined.extend(bias);
                }
                None => joined.resize(joined.len() + len, 0.0),
            }
        }
        if !any {
            return Ok(None);
        }
        // A vector is one row: its parts cannot be stacked as rows, so they are joined here.
        let bytes: Vec<u8> = joined.iter().flat_map(|x| x.to_le_bytes()).collect();
        let name = stack.iter().map(|part| part.0.as_str()).collect::<Vec<_>>().join(" + ");
        let view = TensorView { name: &name, element: ElementType::F32, rows: 1, cols: joined.len(), bytes: &bytes };
        self.pack(&[view]).map(Some)
    }
}

fn decode(view: &TensorView<'_>) -> Vec<f32> {
    let mut out = vec![0.0; view.rows * view.cols];
    view.element.decode(view.bytes, &mut out);
    out
}
