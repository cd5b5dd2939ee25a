//! SmolLM2-135M-Instruct, Q4_1, on the CPU device.

use crate::{cases, generated, greedy, tokenizing};
use outrider_protos::worker::v1::{DataType, GenerateRequest, InferRequest, Sampling, Tensor, generate_event::Event};
use outrider_tests::places::smollm2;
use outrider_tests::worker::{WorkerProcess, generate};

fn worker() -> WorkerProcess {
    WorkerProcess::start("cpu", &[("smollm2", &smollm2())])
}

#[tokio::test]
async fn does_every_prompt_tokenize_as_in_the_reference() {
    let worker = worker();
    let mut client = worker.client().await;
    for case in cases() {
        let reply = client.tokenize(tokenizing(&case.prompt)).await.expect("tokens").into_inner();
        assert_eq!(reply.ids, case.prompt_ids, "{:?}", case.prompt);
    }
}

#[tokio::test]
async fn are_sixty_four_greedy_tokens_of_twenty_prompts_the_references() {
    let worker = worker();
    let client = worker.client().await;
    // All at once: what else is in the batch must not matter.
    let streams: Vec<_> = cases()
        .into_iter()
        .map(|case| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let events = generate(&mut client, greedy(case.prompt.clone(), 64)).await;
                (case, events)
            })
        })
        .collect();
    for stream in streams {
        let (case, events) = stream.await.expect("a stream ends");
        let Some(Event::Accepted(accepted)) = events.first() else { panic!("the first event is {:?}", events.first()) };
        assert_eq!(accepted.prompt_tokens as usize, case.prompt_ids.len());
        assert_eq!(generated(&events), case.ids, "{:?}", case.prompt);
    }
}

#[tokio::test]
async fn are_the_first_logits_within_two_thousandths() {
    let worker = worker();
    let mut client = worker.client().await;
    let mut worst = 0f32;
    for case in cases() {
        let data: Vec<u8> = case.prompt_ids.iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect();
        let shape = vec![1, case.prompt_ids.len() as i64];
        let input = Tensor { name: "input_ids".into(), data_type: DataType::Int64.into(), shape, data: data.into() };
        let request = InferRequest { model: "smollm2".into(), inputs: vec![input], ..Default::default() };
        let reply = client.infer(request).await.expect("logits").into_inner();
        let logits = reply.outputs.iter().find(|output| output.name == "logits").expect("an output named logits");
        let vocabulary = *logits.shape.last().expect("extents") as usize;
        let last = &logits.data[logits.data.len() - 4 * vocabulary..];
        let at = |i: usize| f32::from_le_bytes(last[4 * i..4 * i + 4].try_into().expect("four bytes"));
        let scale = case.logits.iter().fold(0f32, |most, (_, logit)| most.max(logit.abs()));
        for (i, expected) in &case.logits {
            worst = worst.max((at(*i) - expected).abs() / scale);
        }
    }
    println!("worst relative error of a logit: {worst:.2e}");
    assert!(worst < 2e-3, "{worst}");
}

/// Sampled, with a seed.
fn seeded(text: &str, seed: u64) -> GenerateRequest {
    use outrider_protos::worker::v1::generate_request::Prompt;
    let sampling = Sampling { temperature: Some(1.0), top_p: Some(0.95), seed: Some(seed), ..Default::default() };
    GenerateRequest { sampling: Some(sampling), ..greedy(Prompt::Text(text.into()), 24) }
}

#[tokio::test]
async fn does_a_seed_give_the_same_text_whatever_else_runs() {
    let worker = worker();
    let mut client = worker.client().await;
    let alone = generated(&generate(&mut client, seeded("Once upon a time", 7)).await);
    let other = generated(&generate(&mut client, seeded("Once upon a time", 8)).await);
    assert_ne!(alone, other, "another seed, another text");
    let crowd: Vec<_> = (0..12)
        .map(|i| {
            let mut client = client.clone();
            let text = if i == 5 { "Once upon a time".to_owned() } else { format!("Story number {i}:").repeat(1 + i) };
            let seed = if i == 5 { 7 } else { i as u64 };
            tokio::spawn(async move { generated(&generate(&mut client, seeded(&text, seed)).await) })
        })
        .collect();
    for (i, stream) in crowd.into_iter().enumerate() {
        let ids = stream.await.expect("a stream ends");
        if i == 5 {
            assert_eq!(ids, alone);
        }
    }
}
