//! Selection without sorting the vocabulary: the largest k of a row, and one draw from what truncation leaves.
//!
//! Ties are always broken by the lowest id, so that an answer never depends on the order of a partial sort.

use std::cmp::Ordering;

use super::SampleError;
use super::weights::{CHUNK, Weights};

/// A token that may be chosen. `weight` is its probability times a constant; 0 until it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub id: u32,
    pub logit: f32,
    weight: f64,
}

impl Candidate {
    fn new(id: usize, logit: f32) -> Candidate {
        Candidate { id: id as u32, logit, weight: 0.0 }
    }

    /// Likeliest first, then lowest id. Not `total_cmp`: 0 and −0 are the same logit.
    fn order(a: &Candidate, b: &Candidate) -> Ordering {
        b.logit.partial_cmp(&a.logit).expect("`max` has refused NaN").then(a.id.cmp(&b.id))
    }
}

/// Memory that is reused from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    pub candidates: Vec<Candidate>,
    sums: Vec<f64>,
}

/// Up to this many, insertion into a sorted list beats selection over the whole vocabulary.
const SHORT_LIST: usize = 128;
/// First guess at how many tokens hold top-p's mass; grows by 16 until it is enough.
const FIRST_GUESS: usize = 64;

/// The largest logit. An error if any is NaN or +∞, or if all are −∞.
pub fn max(logits: &[f32]) -> Result<f32, SampleError> {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut poison = [0u32; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    // Lane by lane, so that the compiler keeps the lanes in vector registers.
    for chunk in chunks.chain(std::iter::once(rest)) {
        for ((lane, poison), x) in lanes.iter_mut().zip(&mut poison).zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
            *poison |= u32::from(x.is_nan());
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    match max {
        _ if poison.contains(&1) || max == f32::INFINITY => Err(SampleError::NotFinite),
        f32::NEG_INFINITY => Err(SampleError::NothingLeft),
        max => Ok(max),
    }
}

/// The lowest id with this logit, which is in the row.
pub fn first_equal(logits: &[f32], max: f32) -> u32 {
    logits.iter().position(|x| *x == max).expect("the maximum is one of the logits") as u32
}

/// Leaves the `count` largest logits in `out`, likeliest first. The row has no NaN: [`max`] was asked first.
pub fn largest(logits: &[f32], count: usize, out: &mut Vec<Candidate>) {
    out.clear();
    if count == 0 {
        return;
    }
    if count <= SHORT_LIST {
        return short_list(logits, count, out);
    }
    out.extend(logits.iter().enumerate().map(|(id, logit)| Candidate::new(id, *logit)));
    if count < out.len() {
        out.select_nth_unstable_by(count - 1, Candidate::order);
        out.truncate(count);
    }
    out.sort_unstable_by(Candidate::order);
}

/// As [`largest`], by insertion: nearly every logit is refused by one comparison with the smallest kept.
fn short_list(logits: &[f32], count: usize, out: &mut Vec<Candidate>) {
    let mut floor = f32::NEG_INFINITY;
    for (id, logit) in logits.iter().enumerate() {
        // Ids come in ascending order: among equals the one already kept stays.
        if out.len() == count && *logit <= floor {
            continue;
        }
        if out.len() == count {
            out.pop();
        }
        let at = out.partition_point(|kept| kept.logit >= *logit);
        out.insert(at, Candidate::new(id, *logit));
        floor = out.last().expect("one was just inserted").logit;
    }
}

/// The distribution a token is drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Truncation {
    /// Temperature and min-p.
    pub weights: Weights,
    /// In 1 ..= vocabulary.
    pub top_k: usize,
    /// In (0, 1].
    pub top_p: f64,
}

impl Truncation {
    /// Draws a token: the first at which the cumulated weight exceeds `uniform` times the whole.
    pub fn draw(&self, logits: &[f32], scratch: &mut Scratch, uniform: f64) -> u32 {
        let all = self.top_k >= logits.len();
        if all && self.top_p >= 1.0 {
            return self.draw_untruncated(logits, &mut scratch.sums, uniform);
        }
        let candidates = &mut scratch.candidates;
        let kept = if all { self.nucleus(logits, candidates) } else { self.top_k_then_p(logits, candidates) };
        let total: f64 = kept.iter().map(|c| c.weight).sum();
        pick(kept.iter().map(|c| (c.id, c.weight)), uniform * total)
    }

    /// Neither top-k nor top-p: in order of id, no candidates at all. Chunk sums lead to the chunk that is hit.
    fn draw_untruncated(&self, logits: &[f32], sums: &mut Vec<f64>, uniform: f64) -> u32 {
        sums.clear();
        sums.extend(logits.chunks(CHUNK).map(|chunk| self.weights.sum(chunk)));
        let mut target = uniform * sums.iter().sum::<f64>();
        let mut hit = 0;
        for (at, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            hit = at;
            if *sum > target {
                break;
            }
            target -= sum;
        }
        let first = hit * CHUNK;
        let chunk = &logits[first..logits.len().min(first + CHUNK)];
        pick((first as u32..).zip(chunk.iter().map(|logit| self.weights.of(*logit))), target)
    }

    /// The k likeliest, of these the ones min-p leaves, of these the ones top-p leaves.
    fn top_k_then_p<'a>(&self, logits: &[f32], candidates: &'a mut Vec<Candidate>) -> &'a [Candidate] {
        largest(logits, self.top_k, candidates);
        self.weigh(candidates);
        let total = candidates.iter().map(|c| c.weight).sum();
        let end = self.reach(candidates, total).unwrap_or(candidates.len());
        &candidates[..end]
    }

    /// Top-p without top-k: the mass of all is summed once, then ever longer lists of the likeliest are tried.
    fn nucleus<'a>(&self, logits: &[f32], candidates: &'a mut Vec<Candidate>) -> &'a [Candidate] {
        let total: f64 = logits.chunks(CHUNK).map(|chunk| self.weights.sum(chunk)).sum();
        let mut count = FIRST_GUESS;
        loop {
            let tried = count.min(logits.len());
            largest(logits, tried, candidates);
            self.weigh(candidates);
            if let Some(end) = self.reach(candidates, total) {
                return &candidates[..end];
            }
            if tried == logits.len() || candidates.len() < tried {
                // All that min-p leaves is here; rounding kept the sum under the total.
                return candidates;
            }
            count = count.saturating_mul(16);
        }
    }

    /// Computes the weights and drops those of 0: a suffix, since the list is sorted.
    fn weigh(&self, sorted: &mut Vec<Candidate>) {
        for candidate in sorted.iter_mut() {
            candidate.weight = self.weights.of(candidate.logit);
        }
        sorted.truncate(sorted.partition_point(|c| c.weight > 0.0).max(1));
    }

    /// Length of the shortest prefix with top-p's share of `total`.
    fn reach(&self, sorted: &[Candidate], total: f64) -> Option<usize> {
        let mut sum = 0.0;
        let reached = |c: &Candidate| {
            sum += c.weight;
            sum >= self.top_p * total
        };
        sorted.iter().position(reached).map(|last| last + 1)
    }
}

/// The first id at which the cumulated weight exceeds `target`; the last with any weight if rounding leaves none.
pub fn pick(weights: impl Iterator<Item = (u32, f64)>, target: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (id, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        sum += weight;
        last = id;
        if sum > target {
            break;
        }
    }
    last
}
