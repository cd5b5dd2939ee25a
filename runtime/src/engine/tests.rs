//! The engine against one sequence at a time: whatever the batch, the chunks, the preemptions and who else is there,
//! every answer must be the one that its request would get alone.

use std::sync::Arc;

use outrider_protos::worker::v1::{FinishReason, Sampling, Stopping};
use proptest::prelude::*;

use super::fake::{EOS, FakeModel, Letters, Recorder, VOCABULARY, logits_after};
use super::sequence::Terms;
use super::stops::Stops;
use super::text::Text;
use super::{Engine, EngineConfig, EngineError, Event, Request, SubmitError};
use crate::sampler::{History, Logprobs, random, reference};
use crate::tokenizer::Vocabulary;

/// What one choice must come to.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    tokens: u32,
    reason: FinishReason,
    stop_string: String,
    stop_token_id: Option<u32>,
}

/// The answer of choice `index`, computed alone, from the whole past at each token.
fn alone(request: &Request, index: u32, length_max: usize) -> Answer {
    let (vocabulary, terms) = (Letters::new(), Terms::new(request, &[EOS], length_max));
    let seed = request.sampling.seed.expect("tests name a seed") + u64::from(index);
    let mut history = History::of_prompt(&request.prompt, &terms.settings);
    let mut text = Text::new(Stops::new(&request.stopping.stop), request.stopping.include_stop_string);
    let mut tokens = request.prompt.clone();
    let mut answer = Answer {
        text: if request.echo { prompt_text(request) } else { String::new() },
        tokens: 0,
        reason: FinishReason::Length,
        stop_string: String::new(),
        stop_token_id: None,
    };
    while (answer.tokens as usize) < terms.max_tokens {
        let forbidden: &[u32] = if (answer.tokens as usize) < terms.min_tokens { &terms.ending_ids } else { &[] };
        let uniform = random::uniform(seed, u64::from(answer.tokens));
        let id = reference::sample(&mut logits_after(&tokens), &terms.settings, &history, forbidden, uniform)
            .expect("the fake's logits are finite");
        tokens.push(id);
        history.push(id, &terms.settings);
        answer.tokens += 1;
        let may_stop = answer.tokens as usize > terms.min_tokens;
        if may_stop && terms.ending_ids.contains(&id) {
            answer.reason = FinishReason::Stop;
            answer.stop_token_id = Some(id);
            break;
        }
        let piece = text.push(vocabulary.token_bytes(id), may_stop);
        answer.text.push_str(&piece.text);
        if let Some(stop) = piece.stop {
            (answer.reason, answer.stop_string) = (FinishReason::Stop, stop);
            return answer;
        }
    }
    answer.text.push_str(&text.finish(false).text);
    answer
}

fn prompt_text(request: &Request) -> String {
    let vocabulary = Letters::new();
    let bytes: Vec<u8> = request.prompt.iter().flat_map(|id| vocabulary.token_bytes(*id).to_vec()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check_answer(recorder: &Recorder, request: &Request, length_max: usize) {
    let told = recorder.told();
    assert!(told.failed.is_none(), "{:?}", told.failed);
    assert!(told.dropped, "the sink is dropped after the last word");
    let accepted = told.accepted().expect("Accepted comes first");
    assert_eq!(accepted.prompt_tokens as usize, request.prompt.len());
    assert_eq!(accepted.prompt.len(), if request.echo { request.prompt.len() } else { 0 });
    for (position, token) in accepted.prompt.iter().enumerate() {
        assert_eq!(token.id, request.prompt[position]);
        let scored = request.logprobs.filter(|_| position > 0).map(|count| {
            let row = logits_after(&request.prompt[..position]);
            let all = Logprobs::of(&row, count as usize, &mut Vec::new()).expect("finite");
            (all.score(row[token.id as usize]), all.top.iter().map(|top| top.id).collect::<Vec<_>>())
        });
        assert_eq!(token.logprob, scored.as_ref().map(|scored| scored.0));
        let top: Vec<u32> = token.top.iter().map(|top| top.id).collect();
        assert_eq!(top, scored.map_or(Vec::new(), |scored| scored.1));
    }
    for index in 0..request.choices() {
        let finished = told.finished(index).expect("every choice is finished");
        let chunks = told.chunks(index);
        let answer = Answer {
            text: told.text(index),
            tokens: chunks.iter().map(|chunk| chunk.token_count).sum(),
            reason: finished.reason(),
            stop_string: finished.stop_string.clone(),
            stop_token_id: finished.stop_token_id,
        };
        assert_eq!(answer, alone(request, index, length_max));
        assert_eq!(answer.tokens, finished.completion_tokens);
        let reported: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        assert_eq!(reported as u32, request.logprobs.map_or(0, |_| answer.tokens));
    }
}

fn request() -> impl Strategy<Value = Request> {
    let sampling = (
        prop_oneof![Just(0.0f32), 0.2f32..2.0],
        prop_oneof![Just(0u32), 1u32..20],
        prop_oneof![Just(None), (0.1f32..1.0).prop_map(Some)],
        prop_oneof![Just(None), (0.8f32..1.5).prop_map(Some)],
        any::<u32>(),
    );
    let sampling = sampling.prop_map(|(temperature, top_k, top_p, repetition_penalty, seed)| Sampling {
        temperature: Some(temperature),
        top_k,
        top_p,
        repetition_penalty,
        seed: Some(u64::from(seed)),
        ..Sampling::default()
    });
    let stopping = (
        prop_oneof![1 => Just(None), 6 => (1u32..24).prop_map(Some)],
        0u32..4,
        proptest::collection::vec("[a-z]|[a-z] ", 0..2),
        proptest::collection::vec(0u32..VOCABULARY as u32, 0..2),
        (any::<bool>(), any::<bool>()),
    );
    let stopping = stopping.prop_map(|(max, min_tokens, stop, stop_token_ids, (ignore_eos, include))| Stopping {
        max_tokens: max.map(|max| max.max(min_tokens)),
        min_tokens,
        stop,
        stop_token_ids,
        ignore_eos,
        include_stop_string: include,
    });
    // Few different tokens at the start, so that prompts share prefixes.
    let prompt = (proptest::collection::vec(2u32..4, 0..20), proptest::collection::vec(0u32..VOCABULARY as u32, 1..20));
    let rest = (prop_oneof![4 => Just(1u32), 1 => 2u32..5], prop_oneof![Just(None), Just(Some(0)), Just(Some(3u32))]);
    (prompt, sampling, stopping, rest, prop::bool::weighted(0.25)).prop_map(
        |((start, end), sampling, stopping, (n, logprobs), echo)| Request {
            prompt: [start, end].concat(),
            stopping,
            sampling,
            n,
            logprobs,
            echo,
        },
    )
}

/// A caller: when he comes, and after how many events he leaves, if he does.
fn callers() -> impl Strategy<Value = Vec<(usize, Request, Option<usize>)>> {
    let leaves = prop_oneof![3 => Just(None), 1 => (0usize..6).prop_map(Some)];
    proptest::collection::vec((0usize..30, request(), leaves), 1..12)
}

fn config() -> impl Strategy<Value = EngineConfig> {
    let sizes = (1usize..9, 1usize..30, 1usize..40, 1usize..9, 1usize..8);
    (sizes, any::<bool>()).prop_map(|((block_tokens, spare, tokens, sequences, scored), prefix_sharing)| EngineConfig {
        block_tokens,
        // At least the longest prompt and one token more; often too few for two.
        blocks: 41usize.div_ceil(block_tokens) + spare,
        tokens_per_step_max: tokens,
        sequences_max: sequences,
        scored_rows_per_step_max: scored,
        prefix_sharing,
        ..EngineConfig::new(64, 0, vec![EOS])
    })
}

/// What must hold between any two steps.
fn check_invariants(engine: &Engine) {
    let scheduler = &engine.scheduler;
    let order: Vec<_> =
        scheduler.running.iter().chain(&scheduler.waiting).map(|sequence| (sequence.request, sequence.index)).collect();
    assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "first come, first served: {order:?}");
    assert!(scheduler.running.len() <= scheduler.budget.sequences_max);
    let mut holders = vec![0u32; scheduler.pool.total()];
    for sequence in &scheduler.running {
        assert!(
            sequence.missing() > 0 && sequence.computed <= sequence.table.blocks.len() * scheduler.budget.block_tokens
        );
        sequence.table.blocks.iter().for_each(|block| holders[*block as usize] += 1);
    }
    assert!(scheduler.waiting.iter().all(|sequence| sequence.table.blocks.is_empty()));
    assert_eq!(scheduler.pool.holders(), holders);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn is_every_answer_the_one_it_would_be_alone(config in config(), callers in callers()) {
        let length_max = config.limits(VOCABULARY).length_max();
        let mut model = FakeModel::new(config.block_tokens, config.blocks);
        model.rows_max = config.tokens_per_step_max;
        let mut engine = Engine::new(config, Letters::new());
        let recorders: Vec<Recorder> = callers.iter().map(|_| Recorder::default()).collect();
        for step in 0..20_000 {
            for ((comes, request, leaves), recorder) in callers.iter().zip(&recorders) {
                if *comes == step {
                    recorder.told().close_after = *leaves;
                    recorder.told().closed = *leaves == Some(0);
                    engine.submit(request.clone(), recorder.sink(), step as f64).expect("a valid request");
                }
            }
            if step > 30 && engine.is_idle() {
                break;
            }
            let (idle, gone) = (engine.is_idle(), recorders.iter().any(|recorder| recorder.told().closed));
            let report = engine.step(&mut model, &|| step as f64);
            prop_assert!(idle || gone || report.rows > 0, "a step without work while {} wait", engine.waiting());
            check_invariants(&engine);
        }
        prop_assert!(engine.is_idle(), "not all ended");
        prop_assert_eq!(engine.blocks_used(), 0);
        for ((_, request, _), recorder) in callers.iter().zip(&recorders) {
            let left = recorder.told().closed;
            prop_assert!(recorder.told().dropped);
            if !left {
                check_answer(recorder, request, length_max);
            }
        }
    }
}

fn greedy(prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request {
        prompt,
        stopping: Stopping { max_tokens: Some(max_tokens), ignore_eos: true, ..Stopping::default() },
        sampling: Sampling { temperature: Some(0.0), seed: Some(1), ..Sampling::default() },
        ..Request::default()
    }
}

fn small(blocks: usize) -> (Engine, FakeModel) {
    let config = EngineConfig { block_tokens: 4, ..EngineConfig::new(64, blocks, vec![EOS]) };
    (Engine::new(config, Letters::new()), FakeModel::new(4, blocks))
}

fn run(engine: &mut Engine, model: &mut FakeModel) -> Vec<super::StepReport> {
    let mut reports = Vec::new();
    while !engine.is_idle() {
        reports.push(engine.step(model, &|| 0.0));
        assert!(reports.len() < 10_000, "the engine does not come to an end");
    }
    reports
}

#[test]
fn is_a_prompt_computed_once_for_all_its_choices() {
    let (mut engine, mut model) = small(64);
    let recorder = Recorder::default();
    let request = Request { n: 4, ..greedy((2..22).collect(), 3) };
    engine.submit(request.clone(), recorder.sink(), 0.0).expect("valid");
    let reports = run(&mut engine, &mut model);
    // 20 prompt tokens fill 5 blocks; the last one's logits are needed by each, so 4 blocks are shared.
    assert_eq!(reports[0].rows, 20 + 3 * 4);
    assert_eq!(reports[0].cached_tokens, 3 * 16);
    check_answer(&recorder, &request, 64);
}

#[test]
fn is_a_known_prompt_taken_from_the_cache() {
    let (mut engine, mut model) = small(64);
    let mut cached = Vec::new();
    for _ in 0..2 {
        let recorder = Recorder::default();
        engine.submit(greedy((2..22).collect(), 3), recorder.sink(), 0.0).expect("valid");
        run(&mut engine, &mut model);
        cached.push(recorder.told().accepted().expect("accepted").cached_tokens);
        check_answer(&recorder, &greedy((2..22).collect(), 3), 64);
    }
    assert_eq!(cached, [0, 16]);
}

#[test]
fn who_is_preempted_when_blocks_run_out() {
    let (mut engine, mut model) = small(8);
    let requests = [greedy(vec![2; 8], 20), greedy(vec![3; 8], 20)];
    let recorders = [Recorder::default(), Recorder::default()];
    for (request, recorder) in requests.iter().zip(&recorders) {
        engine.submit(request.clone(), recorder.sink(), 0.0).expect("valid");
    }
    let reports = run(&mut engine, &mut model);
    assert!(reports.iter().map(|report| report.preempted).sum::<usize>() > 0);
    let preemptions = recorders.iter().map(|recorder| {
        recorder.told().finished(0).and_then(|finished| finished.timings).expect("finished").preemptions
    });
    assert_eq!(preemptions.map(|count| count > 0).collect::<Vec<_>>(), [false, true]);
    for (request, recorder) in requests.iter().zip(&recorders) {
        check_answer(recorder, request, 32);
    }
}

#[test]
fn does_the_work_end_within_a_step_of_the_caller_leaving() {
    let (mut engine, mut model) = small(64);
    let recorder = Recorder::default();
    engine.submit(greedy(vec![2; 8], 50), recorder.sink(), 0.0).expect("valid");
    engine.step(&mut model, &|| 0.0);
    assert!(engine.blocks_used() > 0);
    recorder.told().closed = true;
    let report = engine.step(&mut model, &|| 0.0);
    assert_eq!((report.cancelled, report.rows, engine.blocks_used()), (1, 0, 0));
    assert!(engine.is_idle() && recorder.told().dropped);
}

#[test]
fn what_becomes_of_requests_when_the_device_fails() {
    let (mut engine, mut model) = small(64);
    model.fail_in = Some(2);
    let lost = Recorder::default();
    engine.submit(greedy((2..22).collect(), 9), lost.sink(), 0.0).expect("valid");
    run(&mut engine, &mut model);
    assert!(matches!(lost.told().failed, Some(EngineError::Forward(_))));
    assert_eq!(engine.blocks_used(), 0);
    // The fake's cache is empty now: the same prompt must not be taken from it.
    let next = Recorder::default();
    engine.submit(greedy((2..22).collect(), 9), next.sink(), 0.0).expect("valid");
    run(&mut engine, &mut model);
    check_answer(&next, &greedy((2..22).collect(), 9), 64);
}

#[test]
fn does_a_row_of_nan_end_only_its_own_request() {
    let (mut engine, mut model) = small(64);
    model.poison = Some(63);
    let (bad, good) = (Recorder::default(), Recorder::default());
    engine.submit(Request { n: 2, ..greedy(vec![63; 9], 5) }, bad.sink(), 0.0).expect("valid");
    let mut request = greedy(vec![2; 9], 5);
    request.sampling.logit_bias = [(63, -100.0)].into();
    engine.submit(request.clone(), good.sink(), 0.0).expect("valid");
    run(&mut engine, &mut model);
    assert!(matches!(bad.told().failed, Some(EngineError::Logits { .. })));
    assert!(bad.told().dropped);
    check_answer(&good, &request, 64);
}

#[test]
fn can_a_prompt_be_scored_without_an_answer() {
    let (mut engine, mut model) = small(64);
    for (n, logprobs) in [(1, Some(2)), (3, Some(0)), (2, None)] {
        let recorder = Recorder::default();
        let request = Request { n, logprobs, echo: true, ..greedy((2..22).collect(), 0) };
        engine.submit(request.clone(), recorder.sink(), 0.0).expect("valid");
        run(&mut engine, &mut model);
        check_answer(&recorder, &request, 64);
    }
}

#[test]
fn does_the_context_end_an_answer() {
    let (mut engine, mut model) = small(64);
    let recorder = Recorder::default();
    let mut request = greedy(vec![5; 60], 1000);
    request.stopping.max_tokens = None;
    engine.submit(request.clone(), recorder.sink(), 0.0).expect("valid");
    run(&mut engine, &mut model);
    assert_eq!(recorder.told().finished(0).expect("finished").completion_tokens, 4);
    check_answer(&recorder, &request, 64);
}

#[test]
fn what_is_said_when_the_worker_stops() {
    let config = EngineConfig { sequences_max: 1, ..EngineConfig::new(64, 64, vec![EOS]) };
    let (mut engine, mut model) = (Engine::new(config, Letters::new()), FakeModel::new(16, 64));
    let (begun, waits) = (Recorder::default(), Recorder::default());
    engine.submit(greedy(vec![2; 8], 50), begun.sink(), 0.0).expect("valid");
    engine.submit(greedy(vec![3; 8], 50), waits.sink(), 0.0).expect("valid");
    let generated: usize = (0..3).map(|_| engine.step(&mut model, &|| 0.0).generated).sum();
    assert_eq!(generated, 3);
    engine.abort(1.0);
    let told = begun.told();
    let finished = told.finished(0).expect("finished");
    assert_eq!((finished.reason(), finished.completion_tokens), (FinishReason::Aborted, 3));
    assert_eq!(told.chunks(0).iter().map(|chunk| chunk.token_count).sum::<u32>(), 3);
    assert!(matches!(waits.told().failed, Some(EngineError::Stopping)));
    assert!(engine.is_idle() && engine.blocks_used() == 0);
}

#[test]
fn is_a_full_queue_refused() {
    let config = EngineConfig { waiting_max: 2, ..EngineConfig::new(64, 64, vec![EOS]) };
    let mut engine = Engine::new(config, Letters::new());
    let submit = |engine: &mut Engine, n| {
        engine.submit(Request { n, ..greedy(vec![2; 8], 5) }, Recorder::default().sink(), 0.0).map(drop)
    };
    assert_eq!(submit(&mut engine, 1), Ok(()));
    assert_eq!(submit(&mut engine, 1), Ok(()));
    assert_eq!(submit(&mut engine, 1), Err(SubmitError::QueueFull { waiting: 2, waiting_max: 2 }));
}

#[test]
fn are_times_told_in_order() {
    let (mut engine, mut model) = small(64);
    let recorder = Recorder::default();
    let now = std::cell::Cell::new(10.0);
    engine.submit(greedy(vec![2; 8], 3), recorder.sink(), 4.0).expect("valid");
    // Each look at the clock is a second later: two for a step.
    let clock = || now.replace(now.get() + 1.0);
    while !engine.is_idle() {
        engine.step(&mut model, &clock);
    }
    let times = recorder.told().finished(0).and_then(|finished| finished.timings).expect("timings");
    assert_eq!((times.queue_seconds, times.prefill_seconds, times.decode_seconds), (6.0, 1.0, 4.0));
}

#[test]
fn do_choices_without_a_seed_differ() {
    let (mut engine, mut model) = small(64);
    let texts: Vec<String> = (0..3)
        .map(|_| {
            let recorder = Recorder::default();
            let mut request = greedy(vec![2; 8], 12);
            request.sampling = Sampling { temperature: Some(2.0), ..Sampling::default() };
            engine.submit(request, recorder.sink(), 0.0).expect("valid");
            run(&mut engine, &mut model);
            recorder.told().text(0)
        })
        .collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
}

#[test]
fn does_the_first_event_come_first_even_if_another_choice_is_quicker() {
    let config = EngineConfig { scored_rows_per_step_max: 1, ..EngineConfig::new(64, 64, vec![EOS]) };
    let (mut engine, mut model) = (Engine::new(config, Letters::new()), FakeModel::new(16, 64));
    let recorder = Recorder::default();
    let request = Request { n: 3, logprobs: Some(1), echo: true, ..greedy((2..12).collect(), 2) };
    engine.submit(request.clone(), recorder.sink(), 0.0).expect("valid");
    run(&mut engine, &mut model);
    assert!(matches!(recorder.told().events[0], Event::Accepted(_)));
    check_answer(&recorder, &request, 64);
}

mod driven {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::engine::{EngineHandle, Forward, drive};

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < patience, "{what} never came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn start(forward: impl Forward + Send + 'static) -> (EngineHandle, std::thread::JoinHandle<()>) {
        let engine = Engine::new(EngineConfig::new(64, 64, vec![EOS]), Letters::new());
        let begun = Instant::now();
        drive(engine, Box::new(forward), Box::new(move || begun.elapsed().as_secs_f64())).expect("a thread")
    }

    #[test]
    fn do_requests_from_many_threads_get_their_answers_and_a_drain_its_end() {
        let (handle, thread) = start(FakeModel::new(16, 64));
        let threads: Vec<_> = (2..10)
            .map(|id| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    let (recorder, request) = (Recorder::default(), greedy(vec![id; 9], 7));
                    handle.submit(request.clone(), recorder.sink()).expect("accepted");
                    wait_until("the answer", || recorder.told().dropped);
                    check_answer(&recorder, &request, 64);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("its answer was right"));
        assert!(matches!(
            handle.submit(greedy(vec![], 1), Recorder::default().sink()),
            Err(SubmitError::Invalid { .. })
        ));
        let last = Recorder::default();
        handle.submit(greedy(vec![2; 9], 40), last.sink()).expect("accepted");
        handle.drain();
        let refused = handle.submit(greedy(vec![2; 9], 1), Recorder::default().sink());
        assert_eq!(refused, Err(SubmitError::Draining));
        thread.join().expect("no panic");
        check_answer(&last, &greedy(vec![2; 9], 40), 64);
        let stats = handle.stats();
        assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used, stats.kv_blocks_total), (0, 0, 0, 64));
        assert_eq!((stats.generated_tokens, handle.alive()), (8 * 7 + 40, false));
    }

    /// Goes on only when the test lets it.
    struct Gated(FakeModel, std::sync::mpsc::Receiver<()>);

    impl Forward for Gated {
        fn forward(&mut self, batch: &super::super::Batch) -> Result<Vec<Vec<f32>>, super::super::ForwardError> {
            self.1.recv().expect("the gate is open or the test is over");
            self.0.forward(batch)
        }
    }

    #[test]
    fn does_a_stop_end_what_runs_after_its_step() {
        let (gate, gated) = std::sync::mpsc::channel();
        let (handle, thread) = start(Gated(FakeModel::new(16, 64), gated));
        let recorder = Recorder::default();
        handle.submit(greedy(vec![2; 9], 40), recorder.sink()).expect("accepted");
        gate.send(()).expect("the engine listens");
        wait_until("the first token", || handle.stats().generated_tokens == 1);
        handle.stop();
        gate.send(()).expect("the engine listens");
        thread.join().expect("no panic");
        let told = recorder.told();
        assert_eq!(told.finished(0).expect("finished").reason(), FinishReason::Aborted);
        assert!(told.dropped);
    }

    #[test]
    fn does_everyone_learn_of_a_panic_in_the_device() {
        let (gate, gated) = std::sync::mpsc::channel();
        let (handle, thread) = start(Gated(FakeModel::new(16, 64), gated));
        let recorder = Recorder::default();
        handle.submit(greedy(vec![2; 9], 40), recorder.sink()).expect("accepted");
        drop(gate);
        assert!(thread.join().is_err(), "the panic reaches whoever joins");
        assert!(recorder.told().dropped && recorder.told().finished(0).is_none());
        assert!(!handle.alive());
        assert_eq!(handle.submit(greedy(vec![2; 9], 1), Recorder::default().sink()), Err(SubmitError::Draining));
    }

    #[test]
    fn does_a_cancel_reach_a_request_that_waits() {
        let (gate, gated) = std::sync::mpsc::channel();
        let (handle, thread) = start(Gated(FakeModel::new(16, 64), gated));
        let recorder = Recorder::default();
        let id = handle.submit(greedy(vec![2; 9], 40), recorder.sink()).expect("accepted");
        handle.cancel(id);
        // At most the step that had begun.
        gate.send(()).expect("the engine listens");
        wait_until("the cancellation", || recorder.told().dropped);
        handle.drain();
        thread.join().expect("no panic");
        assert!(recorder.told().finished(0).is_none());
    }
}

#[test]
fn does_the_vocabulary_of_the_tests_have_what_it_says() {
    let letters = Letters::new();
    assert_eq!((letters.len(), letters.token_bytes(EOS)), (VOCABULARY, &[][..]));
    assert!(Arc::strong_count(&letters) == 1 && letters.token_bytes(9999).is_empty());
}
