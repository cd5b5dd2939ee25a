//! One step's work as plain numbers: what the scheduler decides and a model computes.

/// A ragged batch: some rows of some sequences. Row r is one LLM token of one sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Its position in its sequence, from 0.
    pub positions: Vec<u32>,
    /// Its sequence: row of the block table.
    pub sequence: Vec<u32>,
    /// Where its keys and values go: block number × block_tokens + offset.
    pub slots: Vec<u32>,
    /// `[sequences, table_width]`: block numbers of each sequence in order of position; unused entries are 0.
    pub block_tables: Vec<u32>,
    pub table_width: usize,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
}

/// Computes a batch. The engine's only view of models and devices.
pub trait Forward {
    /// Logits for each of `batch.logit_rows`, in order, `[vocabulary]` each.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, ForwardError>;
}

/// The device failed; every sequence in the batch is lost.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the forward pass failed: {reason}")]
pub struct ForwardError {
    pub reason: String,
}
