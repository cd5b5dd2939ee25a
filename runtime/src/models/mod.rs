//! Models: how each architecture is read from a checkpoint, and how its forward pass is recorded as a program.
//!
//! To add one: a file, and a line in [`MODELS`]. Never names a concrete device, and computes nothing but what depends
//! on positions alone.

pub mod bert;
pub mod llama;

use crate::device::program::{Activation, KvId, Program};
use crate::device::{Device, DeviceError};
use crate::engine::Batch;
use crate::weights::{Checkpoint, Parameters, SentenceEncoder, WeightsError};

/// Reads an architecture's hyper-parameters and packs its weights into a device.
pub type Load = fn(&Checkpoint, &dyn Device) -> Result<Model, ModelError>;

/// Every architecture, by the name its weights give it.
pub static MODELS: &[(&str, Load)] = &[("bert", bert::load), ("llama", llama::load)];

/// A loaded model: its weights are on the device.
pub enum Model {
    /// Continues text.
    Generator(Box<dyn Generator>),
    /// Makes vectors of text.
    Encoder(Box<dyn Encoder>),
}

/// What there is to know about any model.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// As in [`MODELS`].
    pub architecture: &'static str,
    /// Positions it was made for.
    pub context_length: usize,
    /// Number of token ids; ids from here on must never reach a program.
    pub vocabulary: usize,
    pub hidden_size: usize,
}

/// Shape of what a model keeps of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvNeed {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl KvNeed {
    /// Bytes of keys and values of one token, in f32.
    pub fn bytes_per_token(&self) -> u64 {
        8 * self.layers as u64 * self.kv_heads as u64 * self.head_dim as u64
    }
}

/// A model that continues text.
pub trait Generator: Send + Sync {
    fn facts(&self) -> &Facts;

    fn kv(&self) -> KvNeed;

    /// Records the forward pass of a batch that has rows. The only output is `[logit_rows, vocabulary]`; none if no
    /// row's logits are wanted.
    fn record(&self, batch: &Batch, kv: KvId) -> Program;
}

/// What is wanted of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `[tokens of all sequences, hidden_size]`, the first output.
    pub hidden: bool,
    /// `[sequences, hidden_size]`, the last output.
    pub sentence: Option<Normalize>,
}

/// Whether sentence vectors are scaled to length 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    Yes,
    No,
}

/// A model that makes vectors of text.
pub trait Encoder: Send + Sync {
    fn facts(&self) -> &Facts;

    /// Pooling, normalisation and length of texts.
    fn sentence(&self) -> &SentenceEncoder;

    /// Records the forward pass of some sequences, none of them empty or longer than the context.
    fn record(&self, sequences: &[&[u32]], wanted: Wanted) -> Program;
}

/// Why a checkpoint is no model this build can run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("architecture {found:?} is not supported (supported: {supported})")]
    Architecture { found: String, supported: String },
    #[error(
        "tensor {tensor:?} is {} × {}, expected {} × {}: the file does not fit its own hyper-parameters",
        found.0, found.1, expected.0, expected.1
    )]
    Shape { tensor: String, found: (usize, usize), expected: (usize, usize) },
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Loads whatever model a checkpoint holds.
///
/// # Errors
/// An architecture that is not in [`MODELS`], hyper-parameters or tensors that do not fit it, a full device.
pub fn load(checkpoint: &Checkpoint, device: &dyn Device) -> Result<Model, ModelError> {
    let found = checkpoint.architecture();
    match MODELS.iter().find(|(name, _)| *name == found) {
        Some((_, load)) => load(checkpoint, device),
        None => Err(ModelError::Architecture {
            found: found.to_string(),
            supported: MODELS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        }),
    }
}

impl Model {
    pub fn facts(&self) -> &Facts {
        match self {
            Model::Generator(model) => model.facts(),
            Model::Encoder(model) => model.facts(),
        }
    }
}

/// `hidden_act` under transformers' names.
fn activation(config: &Parameters, default: &'static str) -> Result<Activation, WeightsError> {
    match config.optional_str("hidden_act")?.unwrap_or(default) {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        "tanh" => Ok(Activation::Tanh),
        other => {
            let supported = "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu, relu, tanh";
            Err(config.refuse("hidden_act", format!("{other:?} is not supported (supported: {supported})")))
        }
    }
}

/// An extent that products of a few can be made of without overflow.
fn extent(config: &Parameters, key: &str) -> Result<usize, WeightsError> {
    const EXTENT_MAX: usize = 1 << 24;
    match config.extent(key)? {
        value if value <= EXTENT_MAX => Ok(value),
        value => Err(config.refuse(key, format!("is {value}; at most {EXTENT_MAX} is supported"))),
    }
}

#[cfg(test)]
mod tests;
