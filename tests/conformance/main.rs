//! The worker against the reference: transformers in float32 on the dequantised weights, computed once
//! (`tests/goldens/scripts/model_goldens.py`) and kept as goldens.

mod minilm;
mod smollm2;
mod wgpu;

use outrider_protos::worker::v1::{
    Chat, ChatMessage, GenerateRequest, Sampling, Stopping, TokenizeRequest, generate_event::Event, generate_request,
    tokenize_request,
};
use serde_json::Value;

/// One golden continuation.
pub struct Case {
    pub prompt: generate_request::Prompt,
    pub prompt_ids: Vec<u32>,
    pub ids: Vec<u32>,
    /// (index, logit) after the prompt.
    pub logits: Vec<(usize, f32)>,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|number| number as u32).collect()
}

/// All golden continuations of SmolLM2.
pub fn cases() -> Vec<Case> {
    let golden = outrider_tests::places::golden("smollm2/greedy.json");
    let cases: Vec<Case> = golden["cases"].as_array().expect("cases").iter().map(case).collect();
    assert_eq!(cases.len(), 20);
    cases
}

fn case(golden: &Value) -> Case {
    let text = golden["prompt"].as_str().expect("a prompt").to_owned();
    let prompt = match golden["kind"].as_str() {
        Some("chat") => generate_request::Prompt::Chat(Chat {
            messages: vec![ChatMessage { role: "user".into(), content: text, ..Default::default() }],
            ..Default::default()
        }),
        _ => generate_request::Prompt::Text(text),
    };
    let stride = golden["logits_stride"].as_u64().expect("a stride") as usize;
    let strided = numbers(&golden["logits"]).into_iter().enumerate().map(|(i, logit)| (i * stride, logit as f32));
    let top = ids(&golden["top_ids"]).into_iter().zip(numbers(&golden["top_logits"]));
    let logits = strided.chain(top.map(|(id, logit)| (id as usize, logit as f32))).collect();
    Case { prompt, prompt_ids: ids(&golden["prompt_ids"]), ids: ids(&golden["ids"]), logits }
}

/// Greedy, exactly this many tokens, with their ids.
pub fn greedy(prompt: generate_request::Prompt, tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: "smollm2".into(),
        prompt: Some(prompt),
        stopping: Some(Stopping { max_tokens: Some(tokens), ignore_eos: true, ..Default::default() }),
        sampling: Some(Sampling { temperature: Some(0.0), ..Default::default() }),
        logprobs: Some(0),
        ..Default::default()
    }
}

/// The ids of all tokens a stream of events stands for.
pub fn generated(events: &[Event]) -> Vec<u32> {
    let chunks = events.iter().filter_map(|event| match event {
        Event::Chunk(chunk) => Some(chunk),
        _ => None,
    });
    chunks.flat_map(|chunk| chunk.tokens.iter().map(|token| token.id)).collect()
}

/// The question that tokenizes a prompt as Generate would.
pub fn tokenizing(prompt: &generate_request::Prompt) -> TokenizeRequest {
    let input = match prompt.clone() {
        generate_request::Prompt::Chat(chat) => tokenize_request::Input::Chat(chat),
        generate_request::Prompt::Text(text) => tokenize_request::Input::Text(text),
        generate_request::Prompt::TokenIds(_) => panic!("ids need no tokenizer"),
    };
    TokenizeRequest { model: "smollm2".into(), input: Some(input), add_special_tokens: false }
}
