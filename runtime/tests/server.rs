//! The worker as its caller sees it: the real binary on a real socket, with tiny random checkpoints.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outrider_protos::worker::v1 as wire;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use wire::generate_event::Event;
use wire::worker_client::WorkerClient;

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/checkpoints").join(name)
}

fn golden(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(checkpoint(name).join("golden.json")).expect("golden.json");
    serde_json::from_str(&text).expect("JSON")
}

/// A running worker; killed when dropped.
struct Worker {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a worker with two checkpoints, or with the lines given instead.
fn start(models: &str) -> Worker {
    let folder = tempfile::tempdir().expect("a temporary folder");
    start_in(folder, models)
}

fn start_in(folder: tempfile::TempDir, models: &str) -> Worker {
    let config = folder.path().join("worker.yaml");
    let socket = folder.path().join("worker.sock");
    let text =
        format!("socket: {}\ndevice: cpu\nthreads: 1\ndrain_seconds_max: 5\nmodels:\n{models}", socket.display());
    std::fs::write(&config, text).expect("written");
    let child = Command::new(env!("CARGO_BIN_EXE_outrider-worker"))
        .args(["--config".as_ref(), config.as_os_str()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the worker starts");
    Worker { child, folder }
}

fn both() -> String {
    let line = |name: &str, folder: &str| format!("  - {{name: {name}, path: {}}}\n", checkpoint(folder).display());
    line("llama", "llama-gqa") + &line("bert", "bert-mean")
}

impl Worker {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("worker.sock")
    }

    /// A client; waits for the socket.
    async fn connect(&self) -> WorkerClient<Channel> {
        let socket = self.socket();
        let begun = Instant::now();
        loop {
            let socket = socket.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
            });
            match Endpoint::from_static("http://worker").connect_with_connector(connector).await {
                Ok(channel) => return WorkerClient::new(channel).max_decoding_message_size(64 << 20),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A client of a worker that has loaded.
    async fn ready(&self) -> WorkerClient<Channel> {
        let mut client = self.connect().await;
        let begun = Instant::now();
        loop {
            let response = client.ready(wire::ReadyRequest {}).await.expect("Ready always answers").into_inner();
            if response.ready {
                return client;
            }
            assert!(begun.elapsed() < PATIENCE, "{}", response.reason);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for the end: exit code and what was written to stderr.
    async fn ended(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        while self.child.try_wait().expect("our child").is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let code = self.child.wait().expect("our child").code();
        let mut text = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        (code, text)
    }
}

fn request(prompt: wire::generate_request::Prompt, max_tokens: u32) -> wire::GenerateRequest {
    wire::GenerateRequest {
        model: "llama".into(),
        prompt: Some(prompt),
        stopping: Some(wire::Stopping { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() }),
        sampling: Some(wire::Sampling { temperature: Some(0.0), ..Default::default() }),
        logprobs: Some(0),
        ..Default::default()
    }
}

fn ids(ids: &[u32]) -> wire::generate_request::Prompt {
    wire::generate_request::Prompt::TokenIds(wire::TokenIds { ids: ids.to_vec() })
}

/// Everything a Generate call gives.
async fn generate(client: &mut WorkerClient<Channel>, request: wire::GenerateRequest) -> Result<Vec<Event>, Status> {
    let mut stream = client.generate(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await? {
        events.push(event.event.expect("an event"));
    }
    Ok(events)
}

fn tokens(events: &[Event]) -> Vec<u32> {
    let chunks = events.iter().filter_map(|event| match event {
        Event::Chunk(chunk) => Some(chunk.tokens.iter().map(|token| token.id)),
        _ => None,
    });
    chunks.flatten().collect()
}

fn numbers(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().expect("numbers").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

fn token_list(value: &serde_json::Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

fn int64(name: &str, shape: &[i64], values: &[i64]) -> wire::Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    wire::Tensor {
        name: name.into(),
        data_type: wire::DataType::Int64.into(),
        shape: shape.to_vec(),
        data: data.into(),
    }
}

fn floats(tensor: &wire::Tensor) -> Vec<f32> {
    tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

fn near(got: &[f32], want: &[f32]) -> bool {
    let scale = want.iter().fold(0f32, |max, x| max.max(x.abs()));
    got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-3 * scale)
}

#[tokio::test]
async fn does_generate_give_what_transformers_gives() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    for case in golden("llama-gqa")["cases"].as_array().expect("cases") {
        let prompt = token_list(&case["ids"]);
        let events = generate(&mut client, request(ids(&prompt), 16)).await.expect("an answer");
        assert!(matches!(&events[0], Event::Accepted(accepted) if accepted.prompt_tokens == prompt.len() as u32));
        assert_eq!(tokens(&events), token_list(&case["greedy"]));
        let Some(Event::Finished(finished)) = events.last() else { panic!("{events:?}") };
        assert_eq!((finished.reason(), finished.completion_tokens), (wire::FinishReason::Length, 16));
    }
}

#[tokio::test]
async fn is_a_conversation_rendered_by_the_models_template() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    let message = |role: &str| wire::ChatMessage { role: role.into(), content: "hi".into(), ..Default::default() };
    let chat = |role: &str| wire::Chat { messages: vec![message(role)], ..Default::default() };
    let tokenize = |chat| wire::TokenizeRequest {
        model: "llama".into(),
        input: Some(wire::tokenize_request::Input::Chat(chat)),
        add_special_tokens: false,
    };
    let response = client.tokenize(tokenize(chat("user"))).await.expect("rendered").into_inner();
    let text: Vec<u8> = response.tokens.concat();
    assert_eq!(String::from_utf8_lossy(&text), "user: hi\nassistant:");
    let back = wire::DetokenizeRequest { model: "llama".into(), ids: response.ids.clone(), skip_special_tokens: true };
    assert_eq!(client.detokenize(back).await.expect("text").into_inner().text, "user: hi\nassistant:");

    let asked =
        generate(&mut client, request(wire::generate_request::Prompt::Chat(chat("user")), 4)).await.expect("an answer");
    assert_eq!(
        tokens(&asked),
        tokens(&generate(&mut client, request(ids(&response.ids), 4)).await.expect("an answer"))
    );

    let refused = client.tokenize(tokenize(chat("wizard"))).await.expect_err("the template knows no wizard");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("unknown role wizard"), "{refused}");
}

#[tokio::test]
async fn does_work_end_when_its_caller_leaves() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    // Four answers of 200 tokens each, given up after the first event.
    let wanted = wire::GenerateRequest { n: 4, ..request(ids(&[1, 2, 3]), 200) };
    let mut stream = client.generate(wanted).await.expect("accepted").into_inner();
    stream.message().await.expect("no error").expect("an event");
    drop(stream);
    let begun = Instant::now();
    loop {
        let state = client.lifecycle(wire::LifecycleRequest::default()).await.expect("a state").into_inner();
        if (state.running, state.waiting, state.kv_blocks_used) == (0, 0, 0) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{state:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    generate(&mut client, request(ids(&[1]), 2)).await.expect("it still serves");
}

#[tokio::test]
async fn are_embeddings_those_of_the_reference() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    let golden = golden("bert-mean");
    let cases = golden["cases"].as_array().expect("cases");
    let inputs = cases.iter().map(|case| wire::EmbedInput {
        input: Some(wire::embed_input::Input::Text(case["text"].as_str().expect("a text").into())),
    });
    let embed = wire::EmbedRequest { model: "bert".into(), inputs: inputs.collect(), ..Default::default() };
    let response = client.embed(embed).await.expect("vectors").into_inner();
    assert_eq!(response.prompt_tokens as usize, cases.iter().map(|case| token_list(&case["ids"]).len()).sum::<usize>());
    for (got, case) in response.embeddings.iter().zip(cases) {
        assert!(near(&got.values, &numbers(&case["embedding"])), "{}", case["text"]);
    }

    let long = |truncate| wire::EmbedRequest {
        model: "bert".into(),
        inputs: vec![wire::EmbedInput { input: Some(wire::embed_input::Input::Text("a ".repeat(100))) }],
        truncate,
        ..Default::default()
    };
    let refused = client.embed(long(false)).await.expect_err("too long");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("inputs[0]: has 102 tokens; the model takes 48"), "{refused}");
    assert_eq!(client.embed(long(true)).await.expect("cut off").into_inner().prompt_tokens, 48);
}

#[tokio::test]
async fn does_infer_give_logits_and_hidden_states() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    let case = &golden("llama-gqa")["cases"][0];
    let prompt: Vec<i64> = token_list(&case["ids"]).into_iter().map(i64::from).collect();
    let inputs = vec![int64("input_ids", &[1, prompt.len() as i64], &prompt)];
    let infer = |model: &str, inputs| wire::InferRequest { model: model.into(), inputs, ..Default::default() };
    let response = client.infer(infer("llama", inputs)).await.expect("logits").into_inner();
    let logits = &response.outputs[0];
    assert_eq!((logits.name.as_str(), &logits.shape), ("logits", &vec![1, prompt.len() as i64, 258]));
    assert!(near(&floats(logits)[(prompt.len() - 1) * 258..], &numbers(&case["logits_of_last"])));

    let case = &golden("bert-mean")["cases"][0];
    let row = token_list(&case["ids"]);
    let (length, wide) = (row.len(), row.len() + 3);
    let padded: Vec<i64> = row.iter().map(|id| i64::from(*id)).chain([0; 3]).collect();
    let mask: Vec<i64> = (0..wide).map(|i| i64::from(i < length)).collect();
    let shape = [1, wide as i64];
    let inputs = vec![int64("input_ids", &shape, &padded), int64("attention_mask", &shape, &mask)];
    let response = client.infer(infer("bert", inputs)).await.expect("hidden states").into_inner();
    let hidden = floats(&response.outputs[0]);
    assert_eq!(response.outputs[0].shape, [1, wide as i64, 24]);
    assert!(near(&hidden[..length * 24], &numbers(&case["last_hidden_state"])));
    assert!(hidden[length * 24..].iter().all(|x| *x == 0.0));
    assert!(near(&floats(&response.outputs[1]), &numbers(&case["embedding"])));
}

#[tokio::test]
async fn does_every_wrong_request_say_what_is_wanted() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    let text = |text: String| Some(wire::generate_request::Prompt::Text(text));
    let base = || request(ids(&[1]), 4);
    let generations = [
        (wire::GenerateRequest { model: "gpt".into(), ..base() }, Code::NotFound, "there is llama, bert"),
        (wire::GenerateRequest { model: "bert".into(), ..base() }, Code::FailedPrecondition, "does not generate"),
        (wire::GenerateRequest { prompt: None, ..base() }, Code::InvalidArgument, "give text, chat or token_ids"),
        (wire::GenerateRequest { prompt: text("x".repeat(300)), ..base() }, Code::InvalidArgument, "has 300 tokens"),
        (
            wire::GenerateRequest { prompt: text("x".repeat(2 << 20)), ..base() },
            Code::InvalidArgument,
            "at most 1048576",
        ),
        (wire::GenerateRequest { prompt: Some(ids(&[258])), ..base() }, Code::InvalidArgument, "not in the vocabulary"),
        (wire::GenerateRequest { n: 1000, ..base() }, Code::InvalidArgument, "at most 128"),
        (
            wire::GenerateRequest {
                prompt: Some(wire::generate_request::Prompt::Chat(wire::Chat::default())),
                ..base()
            },
            Code::InvalidArgument,
            "at least one is needed",
        ),
    ];
    for (request, code, words) in generations {
        let refused = generate(&mut client, request).await.expect_err(words);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(words), "{refused} does not say {words:?}");
    }
    let one = |tensor| vec![tensor];
    let fp32 = wire::Tensor { data_type: wire::DataType::Fp32.into(), ..int64("input_ids", &[1, 1], &[1]) };
    let inferences = [
        (one(int64("tokens", &[1, 1], &[1])), "this model takes input_ids INT64 [1, -1]"),
        (one(fp32), "wanted is INT64"),
        (one(int64("input_ids", &[2, 1], &[1, 1])), "wanted is [1, S]"),
        (one(int64("input_ids", &[1, -1], &[1])), "wanted are two extents"),
        (one(int64("input_ids", &[1, 2], &[1])), "do not fill"),
        (one(int64("input_ids", &[1, 1], &[-5])), "-5 is not in the vocabulary"),
        (one(int64("input_ids", &[1, 0], &[])), "S from 1 to"),
        (vec![], "\"input_ids\" is missing"),
    ];
    for (inputs, words) in inferences {
        let request = wire::InferRequest { model: "llama".into(), inputs, ..Default::default() };
        let refused = client.infer(request).await.expect_err(words);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused} does not say {words:?}");
    }
    let none = wire::EmbedRequest { model: "bert".into(), ..Default::default() };
    assert!(client.embed(none).await.expect_err("nothing to embed").message().contains("inputs: 0 given"));
}

#[tokio::test]
async fn is_the_socket_this_users_alone_and_gone_at_the_end() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    let metadata = std::fs::symlink_metadata(worker.socket()).expect("a socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let info = client.model_info(wire::ModelInfoRequest::default()).await.expect("info").into_inner();
    assert_eq!(info.models.iter().map(|m| m.architecture.as_str()).collect::<Vec<_>>(), ["llama", "bert"]);

    // A second one on the same socket refuses to start and does no harm.
    let second = Command::new(env!("CARGO_BIN_EXE_outrider-worker"))
        .arg("--config")
        .arg(worker.folder.path().join("worker.yaml"))
        .output()
        .expect("it runs");
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another worker is serving on"), "{second:?}");
    client.ready(wire::ReadyRequest {}).await.expect("the first still answers");

    let socket = worker.socket();
    let drain = wire::LifecycleRequest { action: wire::lifecycle_request::Action::Drain.into() };
    client.lifecycle(drain).await.expect("draining");
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket.exists());
}

#[tokio::test]
async fn is_a_stale_socket_replaced_and_a_file_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Dropping a listener leaves its file behind, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("worker.sock")).expect("bound"));
    let worker = start_in(folder, &both());
    worker.ready().await;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("worker.sock");
    std::fs::write(&file, "precious").expect("written");
    let worker = start_in(folder, &both());
    let kept = tempfile::tempdir().expect("a temporary folder");
    std::fs::hard_link(&file, kept.path().join("kept")).expect("linked");
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(1));
    assert!(log.contains("exists and is no socket"), "{log}");
    assert_eq!(std::fs::read_to_string(kept.path().join("kept")).expect("still there"), "precious");
}

#[tokio::test]
async fn does_a_drain_let_answers_end() {
    let worker = start(&both());
    let mut client = worker.ready().await;
    let mut stream = client.generate(request(ids(&[1, 2]), 100)).await.expect("accepted").into_inner();
    stream.message().await.expect("no error").expect("an event");
    // SAFETY: a signal to our own child.
    unsafe { libc::kill(worker.child.id() as libc::pid_t, libc::SIGTERM) };
    let mut finished = None;
    while let Some(event) = stream.message().await.expect("no error") {
        if let Some(Event::Finished(event)) = event.event {
            finished = Some(event);
        }
    }
    let finished = finished.expect("the answer is whole");
    assert_eq!((finished.reason(), finished.completion_tokens), (wire::FinishReason::Length, 100));
    assert_eq!(worker.ended().await.0, Some(0));
}

#[tokio::test]
async fn does_a_failed_load_say_why() {
    let cases = [
        ("  - {name: m, path: /nowhere/at/all.gguf}\n".to_string(), "/nowhere/at/all.gguf"),
        (format!("  - {{name: m, path: {}/Cargo.toml}}\n", env!("CARGO_MANIFEST_DIR")), "neither a .gguf file"),
    ];
    for (models, words) in cases {
        let worker = start(&models);
        let (code, log) = worker.ended().await;
        assert_eq!(code, Some(1), "{log}");
        let line = log.lines().find(|line| line.starts_with("outrider-worker: ")).expect("a plain line");
        assert!(line.contains(words), "{line}");
    }
}
