//! One step's work as plain numbers: what the scheduler decides and a model computes. No tensor, no device.

use super::scheduler::Plan;
use super::sequence::Sequence;

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

impl Batch {
    /// Lays out a plan: rows, slots, block tables. What was there before is overwritten.
    pub(super) fn fill(&mut self, running: &[Sequence], plan: &Plan, block_tokens: usize) {
        let tables = || plan.works.iter().map(|work| &running[work.running].table.blocks);
        self.table_width = tables().map(Vec::len).max().unwrap_or(0);
        for column in [&mut self.ids, &mut self.positions, &mut self.sequence, &mut self.slots] {
            column.clear();
        }
        self.block_tables.clear();
        self.logit_rows.clear();
        for (ordinal, work) in plan.works.iter().enumerate() {
            let sequence = &running[work.running];
            let first_row = self.ids.len();
            for position in sequence.computed..sequence.computed + work.rows {
                let block = sequence.table.blocks[position / block_tokens];
                self.ids.push(sequence.tokens[position]);
                self.positions.push(position as u32);
                self.sequence.push(ordinal as u32);
                self.slots.push(block * block_tokens as u32 + (position % block_tokens) as u32);
            }
            let scores = work.scores.clone().map(|position| (first_row + position - sequence.computed) as u32);
            self.logit_rows.extend(scores);
            if work.samples {
                self.logit_rows.push(self.ids.len() as u32 - 1);
            }
            self.block_tables.extend_from_slice(&sequence.table.blocks);
            self.block_tables.resize((ordinal + 1) * self.table_width, 0);
        }
    }
}

/// Computes a batch. The engine's only view of models and devices.
pub trait Forward {
    /// Logits for each of `batch.logit_rows`, in order, `[vocabulary]` each.
    ///
    /// A row may attend to slots that earlier rows of the same batch fill, of its own sequence or of another with the
    /// same prefix: keys and values are stored before they are read, as `Op::RopeKv` and `Op::PagedAttention` say.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, ForwardError>;
}

/// The device failed; every sequence in the batch is lost.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the forward pass failed: {reason}")]
pub struct ForwardError {
    pub reason: String,
}
