//! What V2 callers send and get, case by case, over both transports.

use super::wire::{rest, tensor};
use super::{KserveV2, SERVICE, Way};
use crate::dialects::common::drive::{self, Automaton};
use crate::dialects::{Ask, Dialect, Event};
use bytes::Bytes;
use http::Method;
use outrider_protos::inference as pb;
use outrider_protos::worker::v1 as worker;
use pb::model_infer_request::InferInputTensor;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use worker::generate_event::Event as Said;
use worker::generate_request::Prompt;

const LLM: &str = "/v2/models/llm/infer";
const EMB: &str = "/v2/models/emb/infer";
const NEW: &str = "/v2/models/new/infer";

fn said(prompt: usize, said: Said) -> Event {
    Event::Generate { prompt, event: worker::GenerateEvent { event: Some(said) } }
}

fn generated(prompt: usize, text: &str) -> Vec<Event> {
    let stop = worker::FinishReason::Stop.into();
    vec![
        said(prompt, Said::Accepted(worker::Accepted { prompt_tokens: 3, ..Default::default() })),
        said(prompt, Said::Chunk(worker::Chunk { text: text.into(), token_count: 1, ..Default::default() })),
        said(prompt, Said::Finished(worker::Finished { reason: stop, completion_tokens: 2, ..Default::default() })),
    ]
}

fn with_done(mut events: Vec<Event>) -> Vec<Event> {
    events.push(Event::Done);
    events
}

fn embedded(rows: &[[f32; 3]]) -> Event {
    let embeddings = rows.iter().map(|row| worker::Embedding { values: row.to_vec() }).collect();
    Event::Embedded(worker::EmbedResponse { embeddings, prompt_tokens: 4 })
}

fn post(path: &str, body: &Value, events: Vec<Event>) -> (Option<Ask>, Automaton) {
    drive::run(&KserveV2, &drive::head(Method::POST, path, &[]), body.to_string().as_bytes(), events)
}

fn get(path: &str) -> Automaton {
    drive::run(&KserveV2, &drive::head(Method::GET, path, &[]), b"", [Event::Facts(drive::facts()), Event::Done]).1
}

fn json_of(seen: &Automaton) -> Value {
    serde_json::from_slice(&seen.body).unwrap_or_else(|_| panic!("the body is JSON: {}", seen.text()))
}

fn frame(message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
    body.extend_from_slice(&encoded);
    body
}

fn call(method: &str, body: &[u8], events: Vec<Event>) -> (Option<Ask>, Automaton) {
    let head = drive::head(Method::POST, &format!("{SERVICE}{method}"), &[("content-type", "application/grpc")]);
    drive::run(&KserveV2, &head, body, events)
}

fn status(seen: &Automaton) -> (i32, String) {
    let trailers = seen.trailers.as_ref().expect("gRPC ends with trailers");
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let words = crate::dialects::common::percent::decode(&text("grpc-message")).expect("well encoded");
    (text("grpc-status").parse().expect("a number"), words)
}

fn reply<M: Message + Default>(seen: &Automaton) -> M {
    assert_eq!(status(seen).0, 0, "{:?}", status(seen));
    assert_eq!(u32::from_be_bytes(seen.body[1..5].try_into().expect("four")) as usize, seen.body.len() - 5);
    M::decode(&seen.body[5..]).expect("the message decodes")
}

fn text_input(name: &str, texts: &[&str]) -> Value {
    json!({"name": name, "datatype": "BYTES", "shape": [texts.len()], "data": texts})
}

#[test]
fn do_texts_become_generations_with_their_knobs() {
    let body = json!({
        "id": "7", "parameters": {"max_tokens": "5", "temperature": 0.5, "stop": "[\"\\n\"]", "binary_data_output": false},
        "inputs": [text_input("text_input", &["a", "b"]),
                   {"name": "sampling_parameters", "datatype": "BYTES", "shape": [1], "data": ["{\"temperature\": \"0\", \"seed\": 3}"]},
                   {"name": "stream", "datatype": "BOOL", "shape": [1], "data": [false]}],
    });
    let mut events = generated(1, "B");
    events.extend(generated(0, "A"));
    let (ask, seen) = post(LLM, &body, with_done(events));
    let Some(Ask::GenerateMany(requests)) = ask else { panic!("two prompts: {}", seen.text()) };
    assert_eq!(requests[1].prompt, Some(Prompt::Text("b".into())));
    let stopping = requests[0].stopping.clone().expect("set");
    assert_eq!((stopping.max_tokens, stopping.stop), (Some(5), vec!["\n".to_owned()]));
    let sampling = requests[0].sampling.clone().expect("set");
    assert_eq!((sampling.temperature, sampling.seed), (Some(0.0), Some(3)));
    assert_eq!(
        json_of(&seen),
        json!({"id": "7", "model_name": "llm", "model_version": "1", "parameters": {"prompt_tokens": 6, "completion_tokens": 4},
            "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [2], "data": ["A", "B"]},
                        {"name": "finish_reason", "datatype": "BYTES", "shape": [2], "data": ["stop", "stop"]}]})
    );
}

#[test]
fn does_the_models_task_decide_what_a_text_is_for() {
    let ask = |path: &str, name: &str| post(path, &json!({"inputs": [text_input(name, &["a"])]}), vec![]).0;
    assert!(matches!(ask(LLM, "text"), Some(Ask::Generate(_))));
    assert!(matches!(ask(LLM, "prompt"), Some(Ask::Generate(_))));
    assert!(matches!(ask(EMB, "text"), Some(Ask::Embed(_))));
    assert!(matches!(ask(EMB, "text_input"), Some(Ask::Embed(_))));
    assert!(matches!(ask(NEW, "text"), Some(Ask::Embed(_))));
    assert!(matches!(ask(NEW, "text_input"), Some(Ask::Generate(_))));
    assert!(matches!(ask(NEW, "anything"), Some(Ask::Infer(_))));
    assert!(ask(LLM, "anything").is_none());
}

#[test]
fn do_embeddings_come_in_json_and_in_binary() {
    let mut body = json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b"]]}]});
    let rows = [[1.0, 2.0, 0.1], [4.0, 5.0, 6.0]];
    let seen = post(EMB, &body, vec![embedded(&rows)]).1;
    let output =
        json!({"name": "embedding", "datatype": "FP32", "shape": [2, 3], "data": [1.0, 2.0, 0.1, 4.0, 5.0, 6.0]});
    assert_eq!(json_of(&seen)["outputs"][0], output);
    assert_eq!(json_of(&seen).get("id"), None);
    body["outputs"] = json!([{"name": "embedding", "parameters": {"binary_data": true}}]);
    let seen = post(EMB, &body, vec![embedded(&rows)]).1;
    let length: usize =
        seen.headers["inference-header-content-length"].to_str().expect("text").parse().expect("a number");
    assert_eq!(seen.headers["content-type"], "application/octet-stream");
    let head: Value = serde_json::from_slice(&seen.body[..length]).expect("JSON");
    assert_eq!(head["outputs"][0]["parameters"], json!({"binary_data_size": 24}));
    assert_eq!(seen.body[length + 8..length + 12], 0.1f32.to_le_bytes());
}

#[test]
fn are_binary_inputs_read_from_behind_the_json() {
    let json = json!({"parameters": {"binary_data_output": true}, "inputs": [
        {"name": "text_input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}]})
    .to_string();
    let run = |behind: &[u8], length: String| {
        let head = drive::head(
            Method::POST,
            LLM,
            &[("content-type", "application/octet-stream"), ("inference-header-content-length", &length)],
        );
        let body = [json.as_bytes(), behind].concat();
        drive::run(&KserveV2, &head, &body, with_done(generated(0, "A")))
    };
    let (ask, seen) = run(b"\x02\0\0\0hi", json.len().to_string());
    assert!(matches!(ask, Some(Ask::Generate(request)) if request.prompt == Some(Prompt::Text("hi".into()))));
    assert!(seen.body.ends_with(b"\x01\0\0\0A\x04\0\0\0stop"));
    let table: [(&[u8], String, &str); 5] = [
        (b"\x02\0\0\0hi!", json.len().to_string(), "1 bytes of binary data are left over"),
        (b"\x02\0\0\0h", json.len().to_string(), "announces 6 bytes of binary data, but 5 are left"),
        (b"\x03\0\0\0hi", json.len().to_string(), "announces 3 bytes for element 0, but 2 are left"),
        (b"\x01\0\0\0h\0", json.len().to_string(), "ends within the length of element 1"),
        (b"", "99999".into(), "must be the JSON's length"),
    ];
    for (behind, length, words) in table {
        let (ask, seen) = run(behind, length);
        assert!(ask.is_none() && seen.status == Some(400) && seen.text().contains(words), "{}", seen.text());
    }
}

#[test]
fn which_requests_are_refused_and_with_what_words() {
    let ids = |datatype: &str, shape: Value, data: Value| json!({"inputs": [{"name": "input_ids", "datatype": datatype, "shape": shape, "data": data}]});
    let table = [
        ("/v2/models/nope/infer", json!({"inputs": [text_input("text", &["a"])]}), 404, "does not exist"),
        ("/v2/models/llm/versions/2/infer", json!({"inputs": [text_input("text", &["a"])]}), 404, "has no version `2`"),
        (LLM, json!({}), 400, "`inputs` is required"),
        (LLM, json!({"inputs": []}), 400, "at least one tensor"),
        (LLM, json!({"inputs": [text_input("text", &[])]}), 400, "at least one text"),
        (LLM, json!({"inputs": [text_input("text", &["a"]), text_input("text", &["a"])]}), 400, "is there twice"),
        (
            LLM,
            json!({"inputs": [text_input("text", &["a"]), text_input("more", &["a"])]}),
            400,
            "input `more` is unknown",
        ),
        (LLM, json!({"inputs": [text_input("elves", &["a"])]}), 400, "this model takes `text_input`"),
        (
            LLM,
            json!({"inputs": [{"name": "text", "datatype": "INT8", "shape": [1], "data": [1]}]}),
            400,
            "must be BYTES, not INT8",
        ),
        (
            LLM,
            json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}]}),
            400,
            "come as [n] or [n, 1]",
        ),
        (
            LLM,
            json!({"inputs": [text_input("text", &["a"])], "outputs": [{"name": "x"}]}),
            400,
            "there is no output `x`",
        ),
        (
            LLM,
            json!({"inputs": [text_input("text", &["a"])], "parameters": {"max_tokens": 0}}),
            400,
            "`parameters.max_tokens`",
        ),
        (LLM, json!({"inputs": [text_input("text", &["a"])], "parameters": {"n": 2}}), 400, "`n` other than 1"),
        (LLM, json!({"inputs": [text_input("text", &["a"])], "parameters": {"stream": true}}), 400, "generate_stream"),
        (
            LLM,
            json!({"inputs": [text_input("text", &["a"])], "parameters": []}),
            400,
            "must be an object, got an empty array",
        ),
        (EMB, ids("INT64", json!([1, 3]), json!([1, 2])), 400, "which is 24 bytes, but its data is 16 bytes"),
        (EMB, ids("INT64", json!([-1, 2]), json!([1, 2])), 400, "every extent must be 0 or more"),
        (EMB, ids("INT64", json!([1i64 << 40, 1i64 << 40]), json!([1])), 400, "their product small"),
        (EMB, ids("INT64", json!("x"), json!([1])), 400, "`inputs[0].shape` must be an array"),
        (EMB, ids("INT64", json!([1]), json!([1])), 400, "this model takes [-1, -1]"),
        (EMB, ids("INT32", json!([1, 1]), json!([1])), 400, "must be INT64, not INT32"),
        (EMB, ids("INT8", json!([1, 1]), json!([300])), 400, "a whole number it can hold, got the number 300"),
        (EMB, ids("FP16", json!([1, 1]), json!([1])), 400, "which JSON cannot carry"),
        (EMB, ids("COMPLEX", json!([1, 1]), json!([1])), 400, "it must be one of BF16, BOOL"),
        (
            EMB,
            json!({"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1]}]}),
            400,
            "`inputs[0].data` is required",
        ),
        ("/v2/models/emb/generate", json!({"text_input": "a"}), 400, "cannot generate text"),
        ("/v2/models/llm/generate", json!({"text": "a"}), 400, "`text_input` is required"),
        ("/v2/repository/index", json!({}), 404, "no such path"),
    ];
    for (path, body, status, words) in table {
        let (ask, seen) = post(path, &body, vec![]);
        assert!(ask.is_none() && seen.status == Some(status), "{path} {body} gave {:?} {}", seen.status, seen.text());
        assert!(json_of(&seen)["error"].as_str().expect("words").contains(words), "{body} gave {}", seen.text());
    }
}

fn infer_request(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "emb".into(),
        id: "x".into(),
        inputs,
        raw_input_contents: raw,
        ..Default::default()
    }
}

fn grpc_input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() }
}

#[test]
fn is_a_grpc_answer_raw_where_the_request_was() {
    let raw = infer_request(vec![grpc_input("text", "BYTES", &[1])], vec![tensor::pack_bytes(["hi"])]);
    let seen = call("ModelInfer", &frame(&raw), vec![embedded(&[[1.0, 2.0, 3.0]])]).1;
    assert_eq!(seen.headers["content-type"], "application/grpc");
    let answer: pb::ModelInferResponse = reply(&seen);
    assert_eq!((answer.model_version.as_str(), answer.id.as_str()), ("1", "x"));
    assert_eq!(answer.outputs[0].shape, [1, 3]);
    assert!(answer.outputs[0].contents.is_none());
    assert_eq!(answer.raw_output_contents[0].len(), 12);

    let contents = pb::InferTensorContents { bytes_contents: vec!["hi".into()], ..Default::default() };
    let typed = InferInputTensor { contents: Some(contents), ..grpc_input("text", "BYTES", &[1]) };
    let (ask, seen) =
        call("ModelInfer", &frame(&infer_request(vec![typed], vec![])), vec![embedded(&[[1.0, 2.0, 3.0]])]);
    assert!(matches!(ask, Some(Ask::Embed(_))));
    let answer: pb::ModelInferResponse = reply(&seen);
    assert_eq!(answer.outputs[0].contents.as_ref().expect("typed").fp32_contents, [1.0, 2.0, 3.0]);
    assert!(answer.raw_output_contents.is_empty());
}

#[test]
fn do_tensors_go_through_untouched() {
    let ids: Bytes = [101i64, 102].iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>().into();
    let request = infer_request(vec![grpc_input("input_ids", "INT64", &[1, 2])], vec![ids.clone()]);
    let output = worker::Tensor {
        name: "last_hidden_state".into(),
        data_type: worker::DataType::Fp32.into(),
        shape: vec![1, 1, 3],
        data: Bytes::from(vec![0; 12]),
    };
    let events =
        |output: &worker::Tensor| vec![Event::Inferred(worker::InferResponse { outputs: vec![output.clone()] })];
    let (ask, seen) = call("ModelInfer", &frame(&request), events(&output));
    let Some(Ask::Infer(request_in)) = ask else { panic!("tensors") };
    assert_eq!((request_in.inputs[0].data.clone(), request_in.inputs[0].shape.clone()), (ids, vec![1, 2]));
    assert_eq!(reply::<pb::ModelInferResponse>(&seen).raw_output_contents[0].len(), 12);
    let short = worker::Tensor { data: Bytes::from(vec![0; 11]), ..output };
    assert_eq!(status(&call("ModelInfer", &frame(&request), events(&short)).1).0, 13);
}

#[test]
fn which_grpc_calls_are_refused_and_with_what_status() {
    let good = frame(&infer_request(vec![grpc_input("text", "BYTES", &[1])], vec![tensor::pack_bytes(["hi"])]));
    let with_flag = |flag: u8| [&[flag], &good[1..]].concat();
    let both = InferInputTensor {
        contents: Some(pb::InferTensorContents { bytes_contents: vec!["a".into()], ..Default::default() }),
        ..grpc_input("text", "BYTES", &[1])
    };
    let wrong_list = InferInputTensor {
        contents: Some(pb::InferTensorContents { fp32_contents: vec![1.0], ..Default::default() }),
        ..grpc_input("input_ids", "INT64", &[1, 1])
    };
    let table: Vec<(&str, Vec<u8>, i32, &str)> = vec![
        ("ModelInfer", vec![], 3, "truncated: 0 bytes came"),
        ("ModelInfer", good[..good.len() - 1].to_vec(), 3, "is truncated"),
        ("ModelInfer", [&good[..], b"x"].concat(), 3, "1 bytes follow the gRPC message"),
        ("ModelInfer", with_flag(1), 12, "compressed gRPC message"),
        ("ModelInfer", with_flag(9), 3, "begins with 9"),
        ("ModelInfer", vec![0, 0, 0, 0, 1, 0xff], 3, "cannot be decoded"),
        ("ModelStreamInfer", good.clone(), 12, "no such path"),
        ("ModelInfer", frame(&pb::ModelInferRequest::default()), 3, "name is required"),
        (
            "ModelInfer",
            frame(&infer_request(vec![grpc_input("text", "BYTES", &[1])], vec!["".into(), "".into()])),
            3,
            "2 entries for 1 inputs",
        ),
        (
            "ModelInfer",
            frame(&infer_request(vec![both], vec![tensor::pack_bytes(["hi"])])),
            3,
            "has both contents and raw",
        ),
        (
            "ModelInfer",
            frame(&infer_request(vec![wrong_list], vec![])),
            3,
            "contents.int64_contents, not in contents.fp32_contents",
        ),
        (
            "ModelInfer",
            frame(&infer_request(vec![grpc_input("input_ids", "FP16", &[1, 1])], vec![])),
            3,
            "no typed contents",
        ),
        (
            "ModelInfer",
            frame(&infer_request(vec![grpc_input("text", "BYTES", &[1])], vec![tensor::pack_bytes([b"\xff"])])),
            3,
            "must be UTF-8",
        ),
        (
            "ModelMetadata",
            frame(&pb::ModelMetadataRequest { name: "nope".into(), ..Default::default() }),
            5,
            "does not exist",
        ),
        ("ModelReady", frame(&pb::ModelReadyRequest { name: "llm".into(), version: "3".into() }), 5, "no version `3`"),
    ];
    for (method, body, code, words) in table {
        let (ask, seen) = call(method, &body, vec![]);
        let (got, said) = status(&seen);
        assert!(ask.is_none() && got == code && said.contains(words), "{method}: {got} {said}, wanted {code} {words}");
        assert_eq!(seen.status, Some(200), "a gRPC refusal is HTTP 200");
    }
    let head = drive::head(Method::POST, &format!("{SERVICE}ModelInfer"), &[("content-type", "application/json")]);
    assert_eq!(drive::run(&KserveV2, &head, &good, []).1.status, Some(415));
    let head = drive::head(Method::GET, &format!("{SERVICE}ModelInfer"), &[("content-type", "application/grpc+proto")]);
    assert_eq!(status(&drive::run(&KserveV2, &head, &good, []).1).0, 12);
}

#[test]
fn do_health_and_metadata_say_what_is_served() {
    let seen = get("/v2/health/live");
    assert_eq!((seen.status, json_of(&seen)), (Some(200), json!({"live": true})));
    assert_eq!(json_of(&get("/v2/health/ready")), json!({"ready": true}));
    assert_eq!(json_of(&get("/v2"))["name"], "outrider");
    assert_eq!(json_of(&get("/v2/models/llm/ready")), json!({"name": "llm", "ready": true}));
    assert_eq!(get("/v2/models/nope/ready").status, Some(404));
    assert_eq!(
        json_of(&get("/v2/models/emb/versions/1")),
        json!({"name": "emb", "versions": ["1"], "platform": "outrider_bert",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}, {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}],
            "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 3]},
                        {"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, -1, 3]}]})
    );
    let name = |name: &str| pb::ModelMetadataRequest { name: name.into(), ..Default::default() };
    let (ask, seen) = call("ModelMetadata", &frame(&name("llm")), vec![Event::Facts(drive::facts())]);
    assert_eq!(ask, Some(Ask::About { wake: true }));
    let metadata: pb::ModelMetadataResponse = reply(&seen);
    assert_eq!((metadata.platform.as_str(), metadata.inputs[0].name.as_str()), ("outrider_llama", "text_input"));
    let mut asleep = drive::facts();
    asleep.ready = false;
    let seen = call("ServerReady", &frame(&pb::ServerReadyRequest {}), vec![Event::Facts(asleep.clone())]).1;
    assert!(!reply::<pb::ServerReadyResponse>(&seen).ready);
    let head = drive::head(Method::GET, "/v2/health/ready", &[]);
    assert_eq!(drive::run(&KserveV2, &head, b"", [Event::Facts(asleep)]).1.status, Some(503));
}

#[test]
fn which_paths_are_claimed_and_which_are_open() {
    let route = |method: Method, path: &str| {
        KserveV2.route(&drive::head(method, path, &[])).map(|operation| (operation.name, operation.open))
    };
    assert_eq!(route(Method::GET, "/v2/health/live"), Some(("server_live", true)));
    assert_eq!(route(Method::POST, "/inference.GRPCInferenceService/ServerReady"), Some(("server_ready", true)));
    assert_eq!(route(Method::POST, LLM), Some(("model_infer", false)));
    assert_eq!(route(Method::GET, LLM), Some(("method_not_allowed", false)));
    assert_eq!(route(Method::GET, "/v2/elves"), Some(("unknown_path", false)));
    assert_eq!(route(Method::POST, "/inference.GRPCInferenceService/Elves"), Some(("unknown_path", false)));
    for foreign in ["/v1/models", "/v2x", "/inference.Other/ServerLive", "/"] {
        assert_eq!(route(Method::GET, foreign), None, "{foreign}");
    }
    let seen = get(LLM);
    assert_eq!((seen.status, &seen.headers["allow"]), (Some(405), &http::HeaderValue::from_static("POST")));
    assert_eq!(super::way("/v2"), Some(Way::Rest));
}

#[test]
fn does_generate_answer_whole_and_in_pieces() {
    let body = json!({"text_input": "a", "id": "9", "max_tokens": 7, "parameters": {"temperature": 0}});
    let (ask, seen) = post("/v2/models/llm/generate", &body, with_done(generated(0, "hey")));
    let Some(Ask::Generate(request)) = ask else { panic!("one prompt") };
    assert_eq!(request.stopping.expect("set").max_tokens, Some(7));
    let whole = json!({"id": "9", "model_name": "llm", "model_version": "1", "text_output": "hey", "finish_reason": "stop",
        "prompt_tokens": 3, "completion_tokens": 2});
    assert_eq!(json_of(&seen), whole);
    let seen = post("/v2/models/llm/generate_stream", &body, with_done(generated(0, "hey"))).1;
    let text = seen.text();
    let events: Vec<Value> =
        text.trim_end().split("\n\n").map(|event| serde_json::from_str(&event[6..]).expect("JSON")).collect();
    assert_eq!((events[0]["text_output"].clone(), events[1]["finish_reason"].clone()), (json!("hey"), json!("stop")));
    let seen = post("/v2/models/llm/generate_stream", &body, generated(0, "hey")[..2].to_vec()).1;
    assert!(
        seen.text().ends_with("data: {\"error\":\"the worker went away in the middle of the answer\"}\n\n"),
        "{}",
        seen.text()
    );
}

#[test]
fn does_a_refusal_say_when_to_come_again() {
    let verdict = crate::error::Error::Draining.verdict();
    let mut seen = Automaton::default();
    seen.take(KserveV2.refusal(&drive::head(Method::POST, LLM, &[]), &verdict));
    assert_eq!((seen.status, &seen.headers["retry-after"]), (Some(503), &http::HeaderValue::from_static("1")));
    let mut seen = Automaton::default();
    let head = drive::head(Method::POST, &format!("{SERVICE}ModelInfer"), &[("content-type", "application/grpc")]);
    seen.take(KserveV2.refusal(&head, &verdict));
    assert_eq!(status(&seen), (14, "the server is draining".into()));
    assert_eq!(seen.trailers.expect("trailers")["grpc-retry-pushback-ms"], "1000");
}

/// A tensor of any type and shape, with data that fits.
fn any_tensor() -> impl Strategy<Value = worker::Tensor> {
    let texts = proptest::collection::vec("\\PC{0,6}", 6);
    (0..tensor::DATATYPES.len(), 0..4i64, 1..3i64, proptest::collection::vec(0..2u8, 48), texts).prop_map(
        |(which, rows, columns, bytes, texts)| {
            let (_, data_type, size) = tensor::DATATYPES[which];
            let count = (rows * columns) as usize;
            let data =
                if size == 0 { tensor::pack_bytes(&texts[..count]) } else { bytes[..count * size].to_vec().into() };
            worker::Tensor { name: "t".into(), data_type: data_type.into(), shape: vec![rows, columns], data }
        },
    )
}

proptest! {
    #[test]
    fn do_tensors_survive_every_spelling(tensor in any_tensor()) {
        tensor::check(&tensor).expect("made to fit");
        let data_type = tensor.data_type();
        if let Some(contents) = tensor::to_contents(&tensor) {
            prop_assert_eq!(&tensor::pack_contents("t", data_type, &contents).expect("it came from there"), &tensor.data);
        }
        if let Some(json) = tensor::to_json(&tensor) {
            let back = tensor::pack_json("t", data_type, json.as_array().expect("an array")).expect("it came from there");
            prop_assert_eq!(&back, &tensor.data);
        }
    }

    #[test]
    fn do_floats_survive_json(values in proptest::collection::vec(any::<f32>().prop_filter("JSON is finite", |value| value.is_finite()), 0..8)) {
        let data: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into();
        let tensor = worker::Tensor { name: "t".into(), data_type: worker::DataType::Fp32.into(), shape: vec![values.len() as i64], data };
        let json = tensor::to_json(&tensor).expect("JSON takes it").to_string();
        let back: Vec<Value> = serde_json::from_str(&json).expect("JSON");
        prop_assert_eq!(&tensor::pack_json("t", worker::DataType::Fp32, &back).expect("floats"), &tensor.data);
    }

    #[test]
    fn does_a_binary_request_equal_its_json(texts in proptest::collection::vec("\\PC{0,6}", 1..5)) {
        let json = json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [texts.len()], "data": texts}]}).to_string();
        let head = drive::head(Method::POST, LLM, &[]);
        let plain = rest::question(&head, &json.into(), "llm".into(), String::new()).expect("valid");
        let packed = tensor::pack_bytes(&texts);
        let json = json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [texts.len()],
            "parameters": {"binary_data_size": packed.len()}}]}).to_string();
        let head = drive::head(Method::POST, LLM, &[("inference-header-content-length", &json.len().to_string())]);
        let body = Bytes::from([json.as_bytes(), &packed].concat());
        prop_assert_eq!(rest::question(&head, &body, "llm".into(), String::new()).expect("valid"), plain);
    }

    #[test]
    fn do_any_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        super::fuzz(&data);
    }

    #[test]
    fn does_a_mangled_grpc_message_panic(at in 0usize..80, byte in any::<u8>()) {
        let mut body = frame(&infer_request(vec![grpc_input("input_ids", "INT64", &[1, 2])], vec![vec![0; 16].into()]));
        if let Some(place) = body.get_mut(at) { *place = byte; }
        call("ModelInfer", &body, vec![]);
    }

    #[test]
    fn does_anything_break_the_automaton(script in proptest::collection::vec(any::<u8>(), 0..40), prompts in 1usize..3) {
        let events = || script.iter().map(|byte| drive::event(*byte)).collect::<Vec<_>>();
        post(LLM, &json!({"inputs": [text_input("text", &vec!["a"; prompts])]}), events());
        post(EMB, &json!({"inputs": [text_input("text", &vec!["a"; prompts])]}), events());
        post("/v2/models/llm/generate_stream", &json!({"text_input": "a"}), events());
        let ids: Bytes = vec![0; 8].into();
        call("ModelInfer", &frame(&infer_request(vec![grpc_input("input_ids", "INT64", &[1, 1])], vec![ids])), events());
        call("ModelMetadata", &frame(&pb::ModelMetadataRequest { name: "new".into(), ..Default::default() }), events());
    }
}
