//! What the client makes of a worker that answers, refuses, vanishes or comes back.

use super::*;
use std::path::Path;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response};
use v1::worker_server::{Worker as Service, WorkerServer};

/// Says its prompt back, word by word; then as the last word tells.
struct Echo;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Service for Echo {
    type GenerateStream = stream::BoxStream<'static, Result<v1::GenerateEvent, Status>>;

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Answer<Self::GenerateStream> {
        let Some(v1::generate_request::Prompt::Text(text)) = request.into_inner().prompt else {
            return Err(Status::invalid_argument("no text"));
        };
        if text == "loading" {
            return Err(Status::unavailable("weights"));
        }
        let hang = text.ends_with("hang");
        let words: Vec<_> = text.split(' ').map(|word| Ok(chunk(word))).collect();
        let words = stream::iter(words);
        Ok(Response::new(if hang { words.chain(stream::pending()).boxed() } else { words.boxed() }))
    }

    async fn embed(&self, _: Request<v1::EmbedRequest>) -> Answer<v1::EmbedResponse> {
        Ok(Response::new(v1::EmbedResponse { prompt_tokens: 7, ..Default::default() }))
    }

    async fn infer(&self, request: Request<v1::InferRequest>) -> Answer<v1::InferResponse> {
        Ok(Response::new(v1::InferResponse { outputs: request.into_inner().inputs }))
    }

    async fn tokenize(&self, _: Request<v1::TokenizeRequest>) -> Answer<v1::TokenizeResponse> {
        Err(Status::failed_precondition("cannot"))
    }

    async fn detokenize(&self, _: Request<v1::DetokenizeRequest>) -> Answer<v1::DetokenizeResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn model_info(&self, _: Request<v1::ModelInfoRequest>) -> Answer<v1::ModelInfoResponse> {
        Ok(Response::new(v1::ModelInfoResponse { models: vec![v1::Model { name: "m".into(), ..Default::default() }] }))
    }

    async fn ready(&self, _: Request<v1::ReadyRequest>) -> Answer<v1::ReadyResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn lifecycle(&self, _: Request<v1::LifecycleRequest>) -> Answer<v1::LifecycleResponse> {
        Ok(Response::new(Default::default()))
    }
}

fn chunk(word: &str) -> v1::GenerateEvent {
    let chunk = v1::Chunk { text: word.into(), ..Default::default() };
    v1::GenerateEvent { event: Some(v1::generate_event::Event::Chunk(chunk)) }
}

/// A worker in a runtime of its own, so that ending it ends its connections, as SIGKILL does.
struct Process(Option<tokio::runtime::Runtime>, #[expect(dead_code)] JoinHandle<()>);

impl Process {
    fn start(socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _within = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        let connections = stream::unfold(listener, |listener| async move {
            let connection = listener.accept().await.map(|(connection, _)| connection);
            Some((connection, listener))
        });
        let limit = WorkerServer::new(Echo).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let service = limit.max_encoding_message_size(MESSAGE_BYTES_MAX);
        let serve = async { drop(tonic::transport::Server::builder().serve_with_incoming(service, connections).await) };
        let task = runtime.spawn(serve);
        Process(Some(runtime), task)
    }

    fn kill(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn say(text: &str) -> v1::GenerateRequest {
    v1::GenerateRequest { prompt: Some(v1::generate_request::Prompt::Text(text.into())), ..Default::default() }
}

/// Events in a few words.
async fn told(worker: &Uds, ask: Ask) -> Vec<String> {
    let words = |event: Result<Event, Error>| match event {
        Ok(Event::Generate { prompt, event }) => match event.event {
            Some(v1::generate_event::Event::Chunk(chunk)) => format!("{prompt}:{}", chunk.text),
            _ => "?".into(),
        },
        Ok(Event::Done) => "done".into(),
        Ok(Event::Embedded(embedded)) => format!("{} tokens", embedded.prompt_tokens),
        Ok(Event::Inferred(inferred)) => format!("{} bytes", inferred.outputs[0].data.len()),
        Ok(_) => "?".into(),
        Err(Error::Worker { code, message }) => format!("{code} {message}"),
        Err(error) => error.verdict().label.into(),
    };
    worker.ask(ask).map(words).collect().await
}

#[tokio::test]
async fn what_is_heard_of_a_worker_that_answers_or_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("w.sock");
    let worker = Uds::new(socket.clone(), 1);
    assert_eq!(told(&worker, Ask::Generate(say("x"))).await[0], "worker_gone", "nobody is there yet");
    let _process = Process::start(&socket);
    assert_eq!(told(&worker, Ask::Generate(say("a b"))).await, ["0:a", "0:b", "done"]);
    assert_eq!(told(&worker, Ask::Generate(say("loading"))).await[0], "14 weights");
    assert_eq!(told(&worker, Ask::Embed(Default::default())).await, ["7 tokens", "done"]);
    assert_eq!(told(&worker, Ask::Tokenize(Default::default())).await[0], "9 cannot");
    let mut many = told(&worker, Ask::GenerateMany(vec![say("a"), say("b"), say("c")])).await;
    assert_eq!(many.pop().as_deref(), Some("done"));
    many.sort();
    assert_eq!(many, ["0:a", "1:b", "2:c"]);
    let tensor = v1::Tensor { data: vec![7; 20 << 20].into(), ..Default::default() };
    let large = v1::InferRequest { inputs: vec![tensor], ..Default::default() };
    assert_eq!(told(&worker, Ask::Infer(large)).await[0], format!("{} bytes", 20 << 20));
    assert_eq!(worker.models().await.unwrap()[0].name, "m");
}

#[tokio::test]
async fn what_is_heard_of_a_worker_that_is_killed_and_of_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("w.sock");
    let mut process = Process::start(&socket);
    let worker = Uds::new(socket.clone(), 1);
    let mut events = worker.ask(Ask::Generate(say("then hang")));
    assert!(events.next().await.unwrap().is_ok());
    assert!(events.next().await.unwrap().is_ok());
    process.kill();
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.verdict().label, "worker_lost");
    assert_eq!(told(&worker, Ask::Generate(say("x"))).await[0], "worker_gone");
    let _process = Process::start(&socket);
    let again = async {
        // The old connection's end may be noticed a moment later than the new worker's beginning.
        while told(&worker, Ask::Generate(say("x"))).await != ["0:x", "done"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("the next worker is found");
}
