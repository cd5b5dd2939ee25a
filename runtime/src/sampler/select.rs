//! Selection without sorting the vocabulary: the largest k of a row, and one draw from what truncation leaves.
//!
//! Ties are always broken by the lowest id, so that an answer never depends on the order of a partial sort.

use std::cmp::Ordering;

use super::SampleError;

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

/// Up to this many, insertion into a sorted list beats selection over the whole vocabulary.
const SHORT_LIST: usize = 128;
/// First guess at how many tokens hold top-p's mass; grows by 16 until it is enough.
const FIRST_GUESS: usize = 64;

/// The largest logit. An error if any is NaN or +∞, or if all are −∞.
pub fn max(logits: &[f32]) -> Result<f32, SampleError> {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut poison = [false; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    // Lane by lane, so that the compiler keeps the lanes in vector registers.
    for chunk in chunks.chain(std::iter::once(rest)) {
        for ((lane, poison), x) in lanes.iter_mut().zip(&mut poison).zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
            *poison |= x.is_nan();
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    match max {
        _ if poison.contains(&true) || max == f32::INFINITY => Err(SampleError::NotFinite),
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

/// The distribution a token is drawn from: `weight = exp((logit − max) · scale)`, truncated.
#[derive(Clone, Copy, Debug)]
pub struct Truncation {
    /// 1 / temperature.
    pub scale: f64,
    /// The row's largest logit, finite.
    pub max: f32,
    /// In 1 ..= vocabulary.
    pub top_k: usize,
    /// In (0, 1].
    pub top_p: f64,
    /// In [0, 1].
    pub min_p: f64,
}

impl Truncation {
    /// A logit's weight; the likeliest token's is 1.
    pub fn weight(&self, logit: f32) -> f64 {
        f64::from(((f64::from(logit - self.max) * self.scale) as f32).exp())
    }

    /// Draws a token: the first at which the cumulated weight exceeds `uniform` times the whole.
    pub fn draw(&self, logits: &[f32], scratch: &mut Vec<Candidate>, uniform: f64) -> u32 {
        let all = self.top_k >= logits.len();
        if all && self.top_p >= 1.0 {
            return self.draw_untruncated(logits, uniform);
        }
        let kept = if all { self.nucleus(logits, scratch) } else { self.top_k_then_p(logits, scratch) };
        let total: f64 = kept.iter().map(|c| c.weight).sum();
        pick(kept.iter().map(|c| (c.id, c.weight)), uniform * total)
    }

    /// Neither top-k nor top-p: two passes in order of id, no candidates at all.
    fn draw_untruncated(&self, logits: &[f32], uniform: f64) -> u32 {
        let weights = || {
            logits.iter().enumerate().filter_map(|(id, logit)| {
                let weight = self.weight(*logit);
                (weight >= self.min_p && weight > 0.0).then_some((id as u32, weight))
            })
        };
        let total: f64 = weights().map(|(_, weight)| weight).sum();
        pick(weights(), uniform * total)
    }

    /// The k likeliest, of these the ones min-p leaves, of these the ones top-p leaves.
    fn top_k_then_p<'a>(&self, logits: &[f32], scratch: &'a mut Vec<Candidate>) -> &'a [Candidate] {
        largest(logits, self.top_k, scratch);
        self.weigh(scratch);
        let total = scratch.iter().map(|c| c.weight).sum();
        self.cut(scratch, total).unwrap_or(scratch)
    }

    /// Top-p without top-k: the mass of all is summed once, then ever longer lists of the likeliest are tried.
    fn nucleus<'a>(&self, logits: &[f32], scratch: &'a mut Vec<Candidate>) -> &'a [Candidate] {
        let weights = logits.iter().map(|logit| self.weight(*logit));
        let total: f64 = weights.filter(|weight| *weight >= self.min_p).sum();
        let mut count = FIRST_GUESS;
        loop {
            largest(logits, count.min(logits.len()), scratch);
            self.weigh(scratch);
            if let Some(end) = self.reach(scratch, total) {
                return &scratch[..end];
            }
            if count >= logits.len() || scratch.len() < count.min(logits.len()) {
                // All that min-p leaves is here; rounding kept the sum under the total.
                return scratch;
            }
            count = count.saturating_mul(16);
        }
    }

    /// Computes the weights and drops what min-p drops: a suffix, since the list is sorted.
    fn weigh(&self, sorted: &mut Vec<Candidate>) {
        for candidate in sorted.iter_mut() {
            candidate.weight = self.weight(candidate.logit);
        }
        let kept = sorted.partition_point(|c| c.weight >= self.min_p && c.weight > 0.0);
        sorted.truncate(kept.max(1));
    }

    /// The shortest prefix with top-p's share of `total`.
    fn cut<'a>(&self, sorted: &'a [Candidate], total: f64) -> Option<&'a [Candidate]> {
        self.reach(sorted, total).map(|end| &sorted[..end])
    }

    fn reach(&self, sorted: &[Candidate], total: f64) -> Option<usize> {
        let mut sum = 0.0;
        let reached = |c: &Candidate| {
            sum += c.weight;
            sum >= self.top_p * total
        };
        sorted.iter().position(reached).map(|last| last + 1)
    }
}

/// The first id at which the cumulated weight exceeds `target`; the last of all if rounding leaves none.
pub fn pick(weights: impl Iterator<Item = (u32, f64)>, target: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (id, weight) in weights {
        sum += weight;
        last = id;
        if sum > target {
            break;
        }
    }
    last
}
