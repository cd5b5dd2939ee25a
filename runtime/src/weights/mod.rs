//! Where weights come from: files with named tensors, read through a memory map.

pub mod checkpoint;
pub mod element;
pub mod error;
pub mod gguf;
pub mod parameters;
pub mod safetensors;

pub use checkpoint::{Checkpoint, Naming, SentenceEncoder, SpecialTokens, TokenizerSource};
pub use element::ElementType;
pub use error::WeightsError;
pub use gguf::Gguf;
pub use parameters::Parameters;
pub use safetensors::SafetensorsFiles;

/// One stored weight tensor, borrowed from its file.
///
/// Every weight is seen as a matrix: a vector has `rows == 1`. `bytes` holds `rows` runs of whole blocks.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Name in the file, for errors.
    pub name: &'a str,
    pub element: ElementType,
    /// Output features of a linear layer, entries of an embedding table.
    pub rows: usize,
    /// Input features of a linear layer, width of an embedding.
    pub cols: usize,
    /// Not aligned to anything: a safetensors file may begin a tensor at any byte.
    pub bytes: &'a [u8],
}
