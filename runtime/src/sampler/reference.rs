//! The sampler in obvious code: sort everything, cut, draw. Slow; judges the fast path in tests.

use super::select::pick;
use super::{History, SampleError, Settings, penalties, weights};

/// As [`super::Sampler::sample`].
pub fn sample(
    logits: &mut [f32],
    settings: &Settings,
    history: &History,
    forbidden: &[u32],
    uniform: f64,
) -> Result<u32, SampleError> {
    penalties::apply(logits, settings, history, forbidden);
    if logits.iter().any(|x| x.is_nan() || *x == f32::INFINITY) {
        return Err(SampleError::NotFinite);
    }
    let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no NaN").then(a.0.cmp(&b.0)));
    let Some((first, max)) = sorted.first().copied().filter(|(_, max)| *max > f32::NEG_INFINITY) else {
        return Err(SampleError::NothingLeft);
    };
    if settings.greedy() {
        return Ok(first);
    }
    // `weights::exp` is judged by the library's in its own file.
    let scale = 1.0 / settings.temperature;
    let weigh = |(id, x): (u32, f32)| (id, f64::from(weights::exp((x - max) * scale)));
    let mut kept: Vec<(u32, f64)> = sorted.into_iter().map(weigh).collect();
    if settings.top_k > 0 {
        kept.truncate(settings.top_k);
    }
    kept.retain(|(_, weight)| *weight >= f64::from(settings.min_p) && *weight > 0.0);
    if settings.top_p < 1.0 {
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let mut length = 0;
        while length < kept.len() && sum < f64::from(settings.top_p) * total {
            sum += kept[length].1;
            length += 1;
        }
        kept.truncate(length);
    } else if settings.top_k == 0 || settings.top_k >= logits.len() {
        // Nothing was sorted away: the draw goes in order of id.
        kept.sort_by_key(|(id, _)| *id);
    }
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    Ok(pick(kept.into_iter(), uniform * total))
}

mod tests {
    use super::super::{Sampler, random};
    use super::*;
    use proptest::prelude::*;

    fn settings() -> impl Strategy<Value = Settings> {
        (
            prop_oneof![Just(0.0f32), Just(1.0), 0.01f32..5.0],
            prop_oneof![Just(0usize), 1usize..8, 1usize..400],
            prop_oneof![Just(1.0f32), 0.01f32..1.0, Just(0.5)],
            prop_oneof![Just(0.0f32), 0.0f32..1.0],
            prop_oneof![Just(1.0f32), 0.5f32..2.0],
            (-2.0f32..2.0, -2.0f32..2.0),
            proptest::collection::vec((0u32..400, -100.0f32..100.0), 0..3),
        )
            .prop_map(|(temperature, top_k, top_p, min_p, repetition, (presence, frequency), bias)| Settings {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty: repetition,
                presence_penalty: presence,
                frequency_penalty: frequency,
                logit_bias: bias,
            })
    }

    /// Rows with many ties, wide ranges, and sometimes −∞ or NaN.
    fn row() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            8 => (-40i32..40).prop_map(|x| x as f32 / 4.0),
            8 => -30.0f32..30.0,
            1 => Just(f32::NEG_INFINITY),
        ];
        let row = proptest::collection::vec(logit, 1..400);
        (row, 0usize..4000).prop_map(|(mut row, poison)| {
            if poison < row.len() {
                row[poison] = f32::NAN;
            }
            row
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn does_the_fast_path_choose_what_the_obvious_code_chooses(
            row in row(),
            settings in settings(),
            tokens in proptest::collection::vec(0u32..400, 0..20),
            forbidden in proptest::collection::vec(0u32..400, 0..3),
            seed in any::<u64>(),
        ) {
            let mut history = History::of_prompt(&tokens, &settings);
            tokens.iter().step_by(2).for_each(|id| history.push(*id, &settings));
            let mut sampler = Sampler::default();
            for step in 0..4 {
                let uniform = random::uniform(seed, step);
                let fast = sampler.sample(&mut row.clone(), &settings, &history, &forbidden, uniform);
                let slow = sample(&mut row.clone(), &settings, &history, &forbidden, uniform);
                prop_assert_eq!(fast, slow);
            }
        }
    }

    #[test]
    fn does_a_draw_follow_the_distribution() {
        let settings = Settings { temperature: 0.5, ..Settings::from(&Default::default()) };
        let row = [0.0f32, 0.5, 1.0, -1.0];
        let weights: Vec<f64> = row.iter().map(|x| f64::from(*x * 2.0).exp()).collect();
        let total: f64 = weights.iter().sum();
        let (mut sampler, mut counts) = (Sampler::default(), [0u32; 4]);
        for step in 0..40_000 {
            let uniform = random::uniform(11, step);
            let id = sampler.sample(&mut row.clone(), &settings, &History::default(), &[], uniform);
            counts[id.expect("finite logits") as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let (seen, expected) = (f64::from(*count) / 40_000.0, weight / total);
            assert!((seen - expected).abs() < 0.01, "{seen} against {expected}");
        }
    }

    #[test]
    fn is_greedy_the_lowest_id_of_the_largest() {
        let settings = Settings { temperature: 0.0, ..Settings::from(&Default::default()) };
        let mut row = vec![1.0f32; 50_000];
        row[40_001] = 2.0;
        row[49_999] = 2.0;
        let chosen = Sampler::default().sample(&mut row, &settings, &History::default(), &[], 0.3);
        assert_eq!(chosen, Ok(40_001));
        let nothing = Sampler::default().sample(&mut [1.0], &settings, &History::default(), &[0], 0.3);
        assert_eq!(nothing, Err(SampleError::NothingLeft));
    }
}
