//! Joins the engine to a device: Batch → Program → Device → logits; and texts → Program → Device → vectors.
//!
//! Decides how large the KV cache is. Never schedules: what is in a batch is the engine's business.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use crate::config::KvCache;
use crate::device::{Device, DeviceError, KvId, KvShape};
use crate::engine::{Batch, Forward, ForwardError};
use crate::models::{Encoder, Generator, KvNeed, Normalize, Wanted};

/// Tokens of one block of the KV cache: 16 keys of 64 elements fill a page of memory.
pub const BLOCK_TOKENS: usize = 16;
/// Full contexts the cache holds unless told otherwise: pages are touched only when they are used.
const CONTEXTS: u64 = 8;
/// Share of the memory the cache may take unless told otherwise.
const MEMORY_SHARE: u64 = 4;

/// Blocks of a KV cache.
///
/// `memory_bytes`: memory of the machine, where it is known. At least one block more than a full context is given by
/// default; an explicit size is taken as it is, at least one block.
pub fn kv_blocks(choice: KvCache, need: KvNeed, context_length: usize, memory_bytes: Option<u64>) -> usize {
    let block_bytes = need.bytes_per_token() * BLOCK_TOKENS as u64;
    let context_blocks = (context_length as u64).div_ceil(BLOCK_TOKENS as u64) + 1;
    let blocks = match choice {
        KvCache::Bytes(bytes) => bytes / block_bytes,
        KvCache::Tokens(tokens) => tokens.div_ceil(BLOCK_TOKENS as u64),
        KvCache::Default => {
            let share = memory_bytes.map_or(u64::MAX, |bytes| bytes / MEMORY_SHARE / block_bytes);
            (CONTEXTS * context_blocks).min(share).max(context_blocks.min(share))
        }
    };
    // Slot numbers are u32.
    blocks.clamp(1, u64::from(u32::MAX) / BLOCK_TOKENS as u64 - 1) as usize
}

/// Shape of a cache of so many blocks.
pub fn kv_shape(need: KvNeed, blocks: usize) -> KvShape {
    let KvNeed { layers, kv_heads, head_dim } = need;
    KvShape { layers, blocks, block_tokens: BLOCK_TOKENS, kv_heads, head_dim }
}

/// A generator on a device, as the engine sees it.
pub struct Executor {
    device: Arc<dyn Device>,
    model: Arc<dyn Generator>,
    kv: KvId,
}

impl Executor {
    /// `kv` was allocated on `device` with [`kv_shape`] of this model.
    pub fn new(device: Arc<dyn Device>, model: Arc<dyn Generator>, kv: KvId) -> Self {
        Executor { device, model, kv }
    }
}

impl Forward for Executor {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, ForwardError> {
        if batch.ids.is_empty() {
            return Ok(Vec::new());
        }
        let program = self.model.record(batch, self.kv);
        let mut outputs = self.device.run(&program).map_err(|error| ForwardError { reason: error.to_string() })?;
        match outputs.pop() {
            // Most steps of one sequence: no copy.
            Some(logits) if batch.logit_rows.len() == 1 => Ok(vec![logits]),
            Some(logits) => Ok(logits.chunks_exact(self.model.facts().vocabulary).map(<[f32]>::to_vec).collect()),
            None => Ok(Vec::new()),
        }
    }
}

/// Logits of every position of a prompt, outside the engine and its cache.
pub struct Prober {
    device: Arc<dyn Device>,
    model: Arc<dyn Generator>,
    /// Tokens of a prompt at most.
    tokens_max: usize,
    /// A cache of its own, allocated at the first call; one call at a time.
    kv: Mutex<Option<KvId>>,
}

impl Prober {
    /// `output_bytes_max` bounds the logits of one call.
    pub fn new(device: Arc<dyn Device>, model: Arc<dyn Generator>, output_bytes_max: usize) -> Self {
        let facts = model.facts();
        let tokens_max = (output_bytes_max / (4 * facts.vocabulary)).clamp(1, facts.context_length);
        Prober { device, model, tokens_max, kv: Mutex::new(None) }
    }

    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// `[ids, vocabulary]`. `ids` are from 1 to [`Prober::tokens_max`], all in the vocabulary. Blocks.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>, DeviceError> {
        let blocks = self.tokens_max.div_ceil(BLOCK_TOKENS);
        let mut kv = self.kv.lock().unwrap_or_else(PoisonError::into_inner);
        let kv = match *kv {
            Some(kv) => kv,
            None => *kv.insert(self.device.allocate_kv(kv_shape(self.model.kv(), blocks))?),
        };
        let rows = ids.len() as u32;
        let batch = Batch {
            ids: ids.to_vec(),
            positions: (0..rows).collect(),
            sequence: vec![0; ids.len()],
            slots: (0..rows).collect(),
            block_tables: (0..blocks as u32).collect(),
            table_width: blocks,
            logit_rows: (0..rows).collect(),
        };
        let mut outputs = self.device.run(&self.model.record(&batch, kv))?;
        Ok(outputs.pop().unwrap_or_default())
    }
}

/// Vectors of some texts, asked of the encoder's thread.
struct Job {
    texts: Vec<Vec<u32>>,
    wanted: Wanted,
    reply: oneshot::Sender<Result<Vec<Vectors>, EncodeError>>,
}

/// What an encoder made of one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// `[tokens, hidden_size]`, if it was wanted.
    pub hidden: Vec<f32>,
    /// `[hidden_size]`, if it was wanted.
    pub sentence: Vec<f32>,
}

/// The device failed, or the encoder is gone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the encoder failed: {reason}")]
pub struct EncodeError {
    pub reason: String,
}

/// Hands texts to the encoder's thread; cloned freely. The thread ends with the last of these.
#[derive(Clone)]
pub struct EncoderHandle {
    jobs: mpsc::Sender<Job>,
    waiting_max: usize,
    waiting: Arc<AtomicUsize>,
}

/// An encoder on a device and the thread that runs it: texts of many callers share one program.
pub struct EncoderLoop {
    device: Arc<dyn Device>,
    model: Arc<dyn Encoder>,
    tokens_per_step_max: usize,
    jobs: mpsc::Receiver<Job>,
    waiting: Arc<AtomicUsize>,
}

/// A handle and the loop behind it; run [`EncoderLoop::run`] on a thread of its own.
pub fn encoder(
    device: Arc<dyn Device>,
    model: Arc<dyn Encoder>,
    tokens_per_step_max: usize,
    waiting_max: usize,
) -> (EncoderHandle, EncoderLoop) {
    let (sender, receiver) = mpsc::channel();
    let waiting = Arc::default();
    let handle = EncoderHandle { jobs: sender, waiting_max, waiting: Arc::clone(&waiting) };
    (handle, EncoderLoop { device, model, tokens_per_step_max, jobs: receiver, waiting })
}

impl EncoderHandle {
    /// Vectors of texts, in order. Texts are neither empty nor longer than the context, ids in the vocabulary.
    /// `None`: too many calls wait. Dropping the future gives up what has not been computed.
    pub async fn encode(&self, texts: Vec<Vec<u32>>, wanted: Wanted) -> Option<Result<Vec<Vectors>, EncodeError>> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let gone = || EncodeError { reason: "its thread has ended".to_string() };
        let (reply, answer) = oneshot::channel();
        if self.jobs.send(Job { texts, wanted, reply }).is_err() {
            return Some(Err(gone()));
        }
        Some(answer.await.unwrap_or_else(|_| Err(gone())))
    }
}

/// A job on its way: how many of its texts are done.
struct Running {
    job: Job,
    done: Vec<Vectors>,
}

impl EncoderLoop {
    /// Runs until every handle is gone.
    pub fn run(self) {
        let mut queue: VecDeque<Running> = VecDeque::new();
        let enter = |job: Job| Running { done: Vec::with_capacity(job.texts.len()), job };
        loop {
            if queue.is_empty() {
                match self.jobs.recv() {
                    Ok(job) => queue.push_back(enter(job)),
                    Err(_) => return,
                }
            }
            queue.extend(self.jobs.try_iter().map(enter));
            self.step(&mut queue);
            self.settle(&mut queue);
        }
    }

    /// One program: texts from the front of the queue, while they want the same and fit.
    fn step(&self, queue: &mut VecDeque<Running>) {
        queue.retain(|running| {
            let keep = !running.job.reply.is_closed();
            if !keep {
                self.left();
            }
            keep
        });
        let Some(wanted) = queue.front().map(|running| running.job.wanted) else { return };
        let mut taken: Vec<(usize, Range<usize>)> = Vec::new();
        let mut tokens = 0;
        'jobs: for (at, running) in queue.iter().enumerate().take_while(|(_, running)| running.job.wanted == wanted) {
            let first = running.done.len();
            taken.push((at, first..first));
            for text in &running.job.texts[first..] {
                if tokens > 0 && tokens + text.len() > self.tokens_per_step_max {
                    break 'jobs;
                }
                tokens += text.len();
                taken.last_mut().expect("pushed above").1.end += 1;
            }
        }
        let texts: Vec<&[u32]> = taken
            .iter()
            .flat_map(|(at, texts)| queue[*at].job.texts[texts.clone()].iter().map(Vec::as_slice))
            .collect();
        if texts.is_empty() {
            return;
        }
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let result = self.device.run(&self.model.record(&texts, wanted));
        match result {
            Ok(outputs) => {
                let mut vectors = self.split(outputs, wanted, &lengths).into_iter();
                for (at, texts) in taken {
                    queue[at].done.extend(vectors.by_ref().take(texts.len()));
                }
            }
            Err(error) => {
                let failed = EncodeError { reason: error.to_string() };
                let last = taken.last().map_or(0, |(at, _)| at + 1);
                for running in queue.drain(..last) {
                    let _ = running.job.reply.send(Err(failed.clone()));
                    self.left();
                }
            }
        }
    }

    fn split(&self, mut outputs: Vec<Vec<f32>>, wanted: Wanted, lengths: &[usize]) -> Vec<Vectors> {
        let width = self.model.facts().hidden_size;
        let sentences = if wanted.sentence.is_some() { outputs.pop().unwrap_or_default() } else { Vec::new() };
        let hidden = if wanted.hidden { outputs.pop().unwrap_or_default() } else { Vec::new() };
        let slice =
            |of: &[f32], rows: Range<usize>| of.get(rows.start * width..rows.end * width).map_or(vec![], <[_]>::to_vec);
        let mut row = 0;
        let each = lengths.iter().enumerate().map(|(i, length)| {
            row += length;
            Vectors { hidden: slice(&hidden, row - length..row), sentence: slice(&sentences, i..i + 1) }
        });
        each.collect()
    }

    /// Answers the jobs that are done.
    fn settle(&self, queue: &mut VecDeque<Running>) {
        while queue.front().is_some_and(|running| running.done.len() == running.job.texts.len()) {
            let running = queue.pop_front().expect("looked at above");
            let _ = running.job.reply.send(Ok(running.done));
            self.left();
        }
    }

    fn left(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The usual wish: one vector for each text.
pub fn sentence(normalize: bool) -> Wanted {
    Wanted { hidden: false, sentence: Some(if normalize { Normalize::Yes } else { Normalize::No }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: KvNeed = KvNeed { layers: 30, kv_heads: 3, head_dim: 64 };

    #[test]
    fn how_large_is_the_cache() {
        let token = NEED.bytes_per_token();
        assert_eq!(token, 46_080);
        let block = token * 16;
        let cases = [
            (KvCache::Tokens(1000), None, 63),
            (KvCache::Tokens(1), None, 1),
            (KvCache::Bytes(10 * block + 5), None, 10),
            (KvCache::Bytes(1), None, 1),
            (KvCache::Default, None, 8 * 513),
            (KvCache::Default, Some(400 * block), 100),
            (KvCache::Default, Some(u64::MAX), 8 * 513),
        ];
        for (choice, memory, blocks) in cases {
            assert_eq!(kv_blocks(choice, NEED, 8192, memory), blocks, "{choice:?} {memory:?}");
        }
    }
}
