//! Where weights come from: files with named tensors, read through a memory map.

pub mod element;

pub use element::ElementType;

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
    pub bytes: &'a [u8],
}
