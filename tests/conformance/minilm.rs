//! all-MiniLM-L6-v2 on the CPU device.

use outrider_protos::worker::v1::{EmbedInput, EmbedRequest, embed_input};
use outrider_tests::places::{golden, minilm};
use outrider_tests::worker::WorkerProcess;

#[tokio::test]
async fn do_embeddings_point_where_the_references_do() {
    let worker = WorkerProcess::start("cpu", &[("minilm", &minilm())]);
    let mut client = worker.client().await;
    let golden = golden("minilm/embeddings.json");
    let cases = golden["cases"].as_array().expect("cases");
    let input = |text: &str| EmbedInput { input: Some(embed_input::Input::Text(text.into())) };
    let inputs = cases.iter().map(|case| input(case["text"].as_str().expect("a text"))).collect();
    let request = EmbedRequest { model: "minilm".into(), inputs, ..Default::default() };
    let reply = client.embed(request).await.expect("embeddings").into_inner();
    assert_eq!(reply.embeddings.len(), cases.len());
    let tokens: usize = cases.iter().map(|case| case["ids"].as_array().expect("ids").len()).sum();
    assert_eq!(reply.prompt_tokens as usize, tokens, "no padding is counted");
    for (case, embedding) in cases.iter().zip(&reply.embeddings) {
        let expected = crate::numbers(&case["embedding"]);
        let dot: f64 = expected.iter().zip(&embedding.values).map(|(a, b)| a * f64::from(*b)).sum();
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let length = norm(&mut embedding.values.iter().map(|x| f64::from(*x)));
        let cosine = dot / (length * norm(&mut expected.iter().copied()));
        assert!(cosine >= 0.9999, "{}: {cosine}", case["text"]);
        assert!((length - 1.0).abs() < 1e-4, "{} is not normalised: {length}", case["text"]);
    }
}
