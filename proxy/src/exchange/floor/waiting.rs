//! A sign of life for whoever waits, as far as its dialect has one.

use super::{Floor, Voice};
use crate::dialects::Note;
use crate::error::Error;

impl Floor<'_> {
    /// Sends it; false if this caller cannot be told anything before its answer.
    pub async fn keep_alive(&mut self, note: &Note) -> Result<bool, Error> {
        let Voice::Answer(answer) = &mut self.voice else { return Ok(false) };
        let parts = answer.waiting(note);
        if parts.is_empty() {
            return Ok(false);
        }
        self.send(parts).await?;
        Ok(true)
    }
}
