//! A model for tests, which forgives no mistake of the engine: it keeps what it is given in a paged cache by slot,
//! reads a sequence's past back through the block table, and computes logits from every token and position it finds.
//! A wrong slot, position, table, chunk or preemption changes the answer.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use outrider_protos::worker::v1::{Accepted, Chunk, Finished};

use super::{Batch, EngineError, Event, Forward, ForwardError, Sink};
use crate::tokenizer::Vocabulary;

/// Ids are bytes; id 0 is end-of-sequence and has no text.
pub const VOCABULARY: usize = 64;
pub const EOS: u32 = 0;

/// Token id → bytes. Id 1 is half a character, the others are letters.
pub struct Letters {
    bytes: Vec<Vec<u8>>,
}

impl Letters {
    pub fn new() -> Arc<Letters> {
        let letter = |id: u8| match id {
            0 => vec![],
            1 => vec![0xc3],
            id => vec![b' ' + id % 64, b'a' + id % 26],
        };
        Arc::new(Letters { bytes: (0..VOCABULARY as u8).map(letter).collect() })
    }
}

impl Vocabulary for Letters {
    fn len(&self) -> usize {
        VOCABULARY
    }

    fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }
}

/// Logits after these tokens: noise that depends on all of them and their order.
pub fn logits_after(tokens: &[u32]) -> Vec<f32> {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for (position, token) in tokens.iter().enumerate() {
        state = (state ^ (u64::from(*token) << 20) ^ position as u64).wrapping_mul(0x0000_0100_0000_01b3);
        state ^= state >> 29;
    }
    let logit = |id: u64| {
        let mut hasher = DefaultHasher::new();
        (state, id).hash(&mut hasher);
        (hasher.finish() % 1000) as f32 / 125.0
    };
    (0..VOCABULARY as u64).map(logit).collect()
}

pub struct FakeModel {
    /// Slot → (position, token).
    cache: Vec<Option<(u32, u32)>>,
    block_tokens: usize,
    /// Fails in this many calls from now.
    pub fail_in: Option<usize>,
    /// Gives NaN for a sequence that has this token.
    pub poison: Option<u32>,
    pub rows_max: usize,
}

impl FakeModel {
    pub fn new(block_tokens: usize, blocks: usize) -> FakeModel {
        let cache = vec![None; block_tokens * blocks];
        FakeModel { cache, block_tokens, fail_in: None, poison: None, rows_max: usize::MAX }
    }

    /// The tokens of row `row`'s sequence up to it, as the cache has them.
    fn past(&self, batch: &Batch, row: usize) -> Vec<u32> {
        let table = &batch.block_tables[batch.sequence[row] as usize * batch.table_width..][..batch.table_width];
        (0..=batch.positions[row])
            .map(|position| {
                let (block, offset) = (position as usize / self.block_tokens, position as usize % self.block_tokens);
                let slot = table[block] as usize * self.block_tokens + offset;
                let (at, token) = self.cache[slot].expect("a slot is written before it is read");
                assert_eq!(at, position, "the slot of position {position} holds another");
                token
            })
            .collect()
    }

    fn check(&self, batch: &Batch) {
        let rows = batch.ids.len();
        assert!(rows > 0 && rows <= self.rows_max, "{rows} rows");
        assert_eq!((batch.positions.len(), batch.sequence.len(), batch.slots.len()), (rows, rows, rows));
        assert!(batch.logit_rows.windows(2).all(|pair| pair[0] < pair[1]), "logit rows ascend");
        let mut slots = batch.slots.clone();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), rows, "two rows write one slot");
        let sequences = batch.sequence.last().map_or(0, |last| *last as usize + 1);
        assert_eq!(batch.block_tables.len(), sequences * batch.table_width);
        for row in 0..rows {
            let table = &batch.block_tables[batch.sequence[row] as usize * batch.table_width..];
            let (position, slot) = (batch.positions[row] as usize, batch.slots[row] as usize);
            assert_eq!(table[position / self.block_tokens] as usize, slot / self.block_tokens);
        }
    }
}

impl Forward for FakeModel {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, ForwardError> {
        self.check(batch);
        if let Some(left) = &mut self.fail_in {
            if *left == 0 {
                self.fail_in = None;
                // What is in the cache after a failure is anything.
                self.cache.fill(None);
                return Err(ForwardError { reason: "the device is gone".into() });
            }
            *left -= 1;
        }
        for row in 0..batch.ids.len() {
            self.cache[batch.slots[row] as usize] = Some((batch.positions[row], batch.ids[row]));
        }
        let row = |row: &u32| {
            let past = self.past(batch, *row as usize);
            let bad = self.poison.is_some_and(|id| past.contains(&id));
            if bad { vec![f32::NAN; VOCABULARY] } else { logits_after(&past) }
        };
        Ok(batch.logit_rows.iter().map(row).collect())
    }
}

/// What a request's sink was told.
#[derive(Default)]
pub struct Told {
    pub events: Vec<Event>,
    pub failed: Option<EngineError>,
    pub closed: bool,
    /// Closes when this many events have come.
    pub close_after: Option<usize>,
    pub dropped: bool,
}

impl Told {
    pub fn accepted(&self) -> Option<&Accepted> {
        match self.events.first() {
            Some(Event::Accepted(accepted)) => Some(accepted),
            _ => None,
        }
    }

    pub fn chunks(&self, index: u32) -> Vec<&Chunk> {
        let of_choice = self.events.iter().filter_map(|event| match event {
            Event::Chunk(chunk) if chunk.index == index => Some(chunk),
            _ => None,
        });
        of_choice.collect()
    }

    pub fn text(&self, index: u32) -> String {
        self.chunks(index).iter().map(|chunk| chunk.text.as_str()).collect()
    }

    pub fn finished(&self, index: u32) -> Option<&Finished> {
        self.events.iter().find_map(|event| match event {
            Event::Finished(finished) if finished.index == index => Some(finished),
            _ => None,
        })
    }
}

/// A sink whose story the test can read.
#[derive(Clone, Default)]
pub struct Recorder(pub Arc<Mutex<Told>>);

impl Recorder {
    pub fn sink(&self) -> Box<dyn Sink> {
        Box::new(RecorderSink(self.clone()))
    }

    pub fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().expect("no test thread panicked with it")
    }
}

struct RecorderSink(Recorder);

impl Sink for RecorderSink {
    fn send(&mut self, event: Event) -> bool {
        let mut told = self.0.told();
        assert!(told.failed.is_none(), "nothing follows a failure");
        told.events.push(event);
        told.closed |= told.close_after == Some(told.events.len());
        !told.closed
    }

    fn is_closed(&self) -> bool {
        self.0.told().closed
    }

    fn fail(&mut self, error: EngineError) {
        self.0.told().failed = Some(error);
    }
}

impl Drop for RecorderSink {
    fn drop(&mut self) {
        if let Ok(mut told) = self.0.0.lock() {
            told.dropped = true;
        }
    }
}
