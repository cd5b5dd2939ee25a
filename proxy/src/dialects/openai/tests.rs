//! What OpenAI callers send and get, case by case.

use super::OpenAi;
use crate::dialects::common::drive::{self, Automaton};
use crate::dialects::{Ask, Dialect, Event};
use http::Method;
use outrider_protos::worker::v1 as worker;
use proptest::prelude::*;
use serde_json::{Value, json};
use worker::generate_event::Event as Said;
use worker::generate_request::Prompt;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const EMBED: &str = "/v1/embeddings";

fn said(prompt: usize, said: Said) -> Event {
    Event::Generate { prompt, event: worker::GenerateEvent { event: Some(said) } }
}

fn accepted(prompt: usize, prompt_tokens: u32) -> Event {
    said(prompt, Said::Accepted(worker::Accepted { prompt_tokens, cached_tokens: 2, ..Default::default() }))
}

fn chunk(prompt: usize, index: u32, text: &str) -> Event {
    said(prompt, Said::Chunk(worker::Chunk { index, text: text.into(), token_count: 1, ..Default::default() }))
}

fn finished(prompt: usize, index: u32, reason: worker::FinishReason) -> Event {
    let finished = worker::Finished { index, reason: reason.into(), completion_tokens: 2, ..Default::default() };
    said(prompt, Said::Finished(finished))
}

fn post(path: &str, body: &Value, events: Vec<Event>) -> (Option<Ask>, Automaton) {
    let head = drive::head(Method::POST, path, &[("content-type", "application/json")]);
    drive::run(&OpenAi, &head, body.to_string().as_bytes(), events)
}

fn get(path: &str) -> Automaton {
    drive::run(&OpenAi, &drive::head(Method::GET, path, &[]), b"", [Event::Facts(drive::facts()), Event::Done]).1
}

fn json_of(seen: &Automaton) -> Value {
    serde_json::from_slice(&seen.body).unwrap_or_else(|_| panic!("the body is JSON: {}", seen.text()))
}

fn generate(path: &str, body: Value) -> worker::GenerateRequest {
    match post(path, &body, vec![]) {
        (Some(Ask::Generate(request)), _) => request,
        (other, seen) => panic!("{body} gave {other:?}: {}", seen.text()),
    }
}

fn hello() -> Vec<Event> {
    use worker::FinishReason::Stop;
    vec![accepted(0, 5), chunk(0, 0, "Hel"), chunk(0, 0, "lo"), finished(0, 0, Stop), Event::Done]
}

#[test]
fn does_a_chat_reach_the_worker_whole() {
    let request = generate(
        CHAT,
        json!({
            "model": "llm", "unknown_field": {"is": "ignored"}, "user": "u", "temperature": 0, "max_tokens": 9,
            "max_completion_tokens": 7, "stop": "\n", "seed": -1, "logit_bias": {"5": -100}, "n": 2,
            "logprobs": true, "top_logprobs": 3, "chat_template_kwargs": {"thinking": false}, "response_format": {"type": "text"},
            "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto",
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": null,
                 "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "2"},
            ],
        }),
    );
    let Some(Prompt::Chat(chat)) = request.prompt else { panic!("a chat") };
    let roles: Vec<_> = chat.messages.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect();
    assert_eq!(roles, [("system", "Be kind."), ("user", "a\nb"), ("assistant", ""), ("tool", "2")]);
    let calls: Value = serde_json::from_str(&chat.messages[2].tool_calls_json).expect("JSON");
    assert_eq!(calls[0]["function"]["arguments"], json!({"x": 1}));
    assert_eq!(chat.messages[3].tool_call_id, "c1");
    assert_eq!(chat.tools_json, r#"[{"type":"function","function":{"name":"f"}}]"#);
    assert_eq!(chat.template_args_json, r#"{"thinking":false}"#);
    let stopping = request.stopping.expect("always set");
    assert_eq!((stopping.max_tokens, stopping.stop), (Some(7), vec!["\n".to_owned()]));
    let sampling = request.sampling.expect("always set");
    assert_eq!((sampling.temperature, sampling.seed, sampling.logit_bias[&5]), (Some(0.0), Some(u64::MAX), -100.0));
    assert_eq!((request.n, request.logprobs, request.request_id.as_str()), (2, Some(3), "1"));
}

#[test]
fn which_requests_are_refused_and_with_what_words() {
    let chat = |extra: Value| {
        let mut body = json!({"model": "llm", "messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        body
    };
    let table = [
        (CHAT, json!({"messages": []}), "model", "`model` is required"),
        (CHAT, chat(json!({"model": "nope"})), "model", "does not exist; this server has: `llm`, `emb`, `new`"),
        (CHAT, chat(json!({"model": "emb"})), "model", "cannot generate text"),
        (CHAT, chat(json!({"model": 5})), "model", "must be a string, got the number 5"),
        (CHAT, json!({"model": "llm"}), "messages", "is required"),
        (CHAT, chat(json!({"messages": []})), "messages", "at least one message"),
        (CHAT, chat(json!({"messages": "x"})), "messages", "must be an array, got a string"),
        (CHAT, chat(json!({"messages": [{"content": "x"}]})), "messages[0].role", "is required"),
        (
            CHAT,
            chat(json!({"messages": [{"role": "elf", "content": "x"}]})),
            "messages[0].role",
            "must be one of `assistant`",
        ),
        (CHAT, chat(json!({"messages": [{"role": "user"}]})), "messages[0].content", "is required"),
        (
            CHAT,
            chat(json!({"messages": [{"role": "user", "content": 1}]})),
            "messages[0].content",
            "a string or an array",
        ),
        (
            CHAT,
            chat(
                json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            ),
            "messages[0].content[0]",
            "takes text only",
        ),
        (CHAT, chat(json!({"max_tokens": -1})), "max_tokens", "whole number from 1"),
        (CHAT, chat(json!({"max_tokens": 0})), "max_tokens", "whole number from 1"),
        (CHAT, chat(json!({"n": 0})), "n", "from 1 to 128"),
        (CHAT, chat(json!({"temperature": "hot"})), "temperature", "a number from 0 to 2, got a string"),
        (CHAT, chat(json!({"top_logprobs": 2})), "top_logprobs", "only allowed when `logprobs` is true"),
        (CHAT, chat(json!({"logprobs": true, "top_logprobs": 21})), "top_logprobs", "from 0 to 20"),
        (
            CHAT,
            chat(json!({"stream_options": {"include_usage": true}})),
            "stream_options",
            "only allowed when `stream`",
        ),
        (CHAT, chat(json!({"tool_choice": "required"})), "", "`tool_choice` \"required\""),
        (CHAT, chat(json!({"tools": [{"type": "x"}]})), "tools[0].type", "must be \"function\""),
        (CHAT, chat(json!({"functions": [{}]})), "", "`functions` (use `tools`) is not supported"),
        (CHAT, chat(json!({"response_format": {"type": "json_object"}})), "", "`json_object` is not supported"),
        (CHAT, chat(json!({"response_format": {"type": "xml"}})), "response_format.type", "must be \"text\""),
        (TEXT, json!({"model": "llm"}), "prompt", "is required"),
        (TEXT, json!({"model": "llm", "prompt": []}), "prompt", "must not be empty"),
        (TEXT, json!({"model": "llm", "prompt": ["a", 1]}), "prompt[1]", "must be a string like the first item"),
        (TEXT, json!({"model": "llm", "prompt": [1, -1]}), "prompt[1]", "must be a token id, got -1"),
        (TEXT, json!({"model": "llm", "prompt": [[1], []]}), "prompt[1]", "must not be empty"),
        (TEXT, json!({"model": "llm", "prompt": "a", "suffix": "b"}), "", "`suffix` is not supported"),
        (TEXT, json!({"model": "llm", "prompt": "a", "best_of": 3}), "", "`best_of` other than `n`"),
        (TEXT, json!({"model": "llm", "prompt": vec!["a"; 1000], "n": 3}), "n", "at most 2048"),
        (EMBED, json!({"model": "llm", "input": "a"}), "model", "cannot embed text"),
        (EMBED, json!({"model": "emb", "input": ""}), "input", "must not be an empty string"),
        (EMBED, json!({"model": "emb", "input": ["a", ""]}), "input[1]", "must not be an empty string"),
        (EMBED, json!({"model": "emb", "input": []}), "input", "must not be empty"),
        (EMBED, json!({"model": "emb", "input": {"a": 1}}), "input", "must be a string, an array of strings"),
        (EMBED, json!({"model": "emb", "input": "a", "dimensions": 4}), "dimensions", "must be 3"),
        (EMBED, json!({"model": "emb", "input": "a", "encoding_format": "hex"}), "encoding_format", "\"base64\""),
    ];
    for (path, body, param, words) in table {
        let (ask, seen) = post(path, &body, vec![]);
        let error = json_of(&seen)["error"].clone();
        assert!(ask.is_none() && matches!(seen.status, Some(400 | 404)), "{body} gave {:?}", seen.status);
        assert!(error["message"].as_str().expect("words").contains(words), "{body} gave {error}");
        assert_eq!(error["param"].as_str().unwrap_or_default(), param, "{body} gave {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[test]
fn are_broken_bodies_refused_with_the_place() {
    let head = drive::head(Method::POST, CHAT, &[("content-type", "application/json")]);
    let table: [(&[u8], &str); 6] = [
        (b"", "is empty"),
        (b"{\"model\": \n }", "at line 2 column 2"),
        (b"[]", "must be a JSON object, got an empty array"),
        (b"{\"model\": \"\xff\"}", "invalid unicode code point"),
        (b"{\"a\": 1e999}", "number out of range"),
        (&[b'['; 100_000], "recursion limit exceeded"),
    ];
    for (body, words) in table {
        let seen = drive::run(&OpenAi, &head, body, []).1;
        assert_eq!(seen.status, Some(400));
        assert!(seen.text().contains(words), "{}", seen.text());
    }
    let head = drive::head(Method::POST, CHAT, &[("content-type", "text/plain")]);
    assert_eq!(drive::run(&OpenAi, &head, b"{}", []).1.status, Some(415));
    let head = drive::head(Method::POST, CHAT, &[("content-encoding", "gzip")]);
    assert_eq!(drive::run(&OpenAi, &head, b"{}", []).1.status, Some(400));
}

#[test]
fn is_every_path_below_the_root_claimed() {
    let route =
        |method: Method, path: &str| OpenAi.route(&drive::head(method, path, &[])).map(|operation| operation.name);
    assert_eq!(route(Method::POST, CHAT), Some("chat_completions"));
    assert_eq!(route(Method::POST, "/openai/v1/completions"), Some("completions"));
    assert_eq!(route(Method::GET, "/v1/models/org/name"), Some("model"));
    assert_eq!(route(Method::GET, CHAT), Some("method_not_allowed"));
    assert_eq!(route(Method::POST, "/v1/audio/speech"), Some("unknown_path"));
    for foreign in ["/v2/health/live", "/v11/models", "/openaiv1/models", "/", "/openai"] {
        assert_eq!(route(Method::GET, foreign), None, "{foreign}");
    }
    let seen = get(CHAT);
    assert_eq!((seen.status, &seen.headers["allow"]), (Some(405), &http::HeaderValue::from_static("POST")));
    let seen = get("/v1/nothing");
    assert_eq!((seen.status, json_of(&seen)["error"]["code"].clone()), (Some(404), json!("unknown_url")));
}

#[test]
fn what_does_a_whole_chat_answer_look_like() {
    let body = json!({"model": "llm", "messages": [{"role": "user", "content": "x"}]});
    let (_, seen) = post(CHAT, &body, hello());
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(
        json_of(&seen),
        json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "llm",
            "system_fingerprint": super::response::SYSTEM_FINGERPRINT,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": null},
                         "logprobs": null, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}},
        })
    );
}

fn events_of(seen: &Automaton) -> Vec<Value> {
    let text = seen.text();
    let events = text.strip_suffix("\n\n").expect("events end with an empty line").split("\n\n");
    let data = events.map(|event| event.strip_prefix("data: ").expect("each is one data line"));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
}

#[test]
fn what_does_a_streamed_chat_look_like() {
    let body = json!({"model": "llm", "messages": [{"role": "user", "content": "x"}], "stream": true,
                      "stream_options": {"include_usage": true}});
    let (_, seen) = post(CHAT, &body, hello());
    assert_eq!(seen.headers["content-type"], "text/event-stream; charset=utf-8");
    let events = events_of(&seen);
    let deltas: Vec<_> = events[..4].iter().map(|event| event["choices"][0]["delta"].clone()).collect();
    assert_eq!(
        deltas,
        [json!({"role": "assistant", "content": ""}), json!({"content": "Hel"}), json!({"content": "lo"}), json!({})]
    );
    assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
    assert!(events[..4].iter().all(|event| event.get("usage") == Some(&Value::Null) && event["id"] == "chatcmpl-1"));
    assert_eq!((&events[4]["choices"], &events[4]["usage"]["total_tokens"]), (&json!([]), &json!(7)));
    assert_eq!(events[5..], [json!("[DONE]")]);
}

#[test]
fn does_a_stream_without_usage_lack_the_field_and_with_continuous_usage_count() {
    let mut body = json!({"model": "llm", "prompt": "x", "stream": true});
    let (_, seen) = post(TEXT, &body, hello());
    let events = events_of(&seen);
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    let texts: Vec<_> = events[..3].iter().map(|event| event["choices"][0]["text"].clone()).collect();
    assert_eq!(texts, ["Hel", "lo", ""]);
    body["stream_options"] = json!({"continuous_usage_stats": true});
    let events = events_of(&post(TEXT, &body, hello()).1);
    let counts: Vec<_> = events[..3].iter().map(|event| event["usage"]["completion_tokens"].clone()).collect();
    assert_eq!(counts, [1, 2, 2]);
}

#[test]
fn can_an_answer_cut_short_be_mistaken_for_a_complete_one() {
    let body = json!({"model": "llm", "messages": [{"role": "user", "content": "x"}], "stream": true});
    let cuts: [Vec<Event>; 3] = [
        vec![accepted(0, 5), chunk(0, 0, "Hel")],
        vec![accepted(0, 5), chunk(0, 0, "Hel"), Event::Done],
        vec![accepted(0, 5), chunk(0, 0, "Hel"), finished(0, 0, worker::FinishReason::Aborted), Event::Done],
    ];
    for events in cuts {
        let (_, seen) = post(CHAT, &body, events);
        let events = events_of(&seen);
        assert!(!seen.text().contains("[DONE]"));
        assert_eq!(events.last().expect("the error")["error"]["type"], "server_error");
    }
    // Nothing was sent yet: the refusal has its own status.
    let (_, seen) = post(CHAT, &body, vec![]);
    assert_eq!(seen.status, Some(502));
}

#[test]
fn is_each_choice_of_each_prompt_in_its_place() {
    use worker::FinishReason::{Length, Stop};
    let body = json!({"model": "llm", "prompt": [[1, 2], [3]], "n": 2, "max_tokens": 4});
    let events = vec![
        accepted(1, 1),
        accepted(0, 2),
        chunk(1, 1, "d"),
        chunk(0, 0, "a"),
        chunk(1, 0, "c"),
        chunk(0, 1, "b"),
        finished(0, 0, Stop),
        finished(1, 1, Length),
        finished(1, 0, Stop),
        finished(0, 1, Stop),
        Event::Done,
    ];
    let (ask, seen) = post(TEXT, &body, events);
    let Some(Ask::GenerateMany(requests)) = ask else { panic!("many") };
    assert_eq!(requests[1].prompt, Some(Prompt::TokenIds(worker::TokenIds { ids: vec![3] })));
    let choices: Vec<_> = json_of(&seen)["choices"].as_array().expect("choices").clone();
    let texts: Vec<_> = choices.iter().map(|choice| (choice["index"].clone(), choice["text"].clone())).collect();
    assert_eq!(texts, [(json!(0), json!("a")), (json!(1), json!("b")), (json!(2), json!("c")), (json!(3), json!("d"))]);
    assert_eq!(choices[3]["finish_reason"], "length");
    assert_eq!(json_of(&seen)["usage"]["prompt_tokens"], 3);
}

#[test]
fn do_logprobs_and_echo_have_the_shapes_clients_parse() {
    let token = |text: &'static str, logprob| worker::Token {
        id: 1,
        bytes: text.as_bytes().into(),
        logprob,
        top: vec![worker::TopToken { id: 2, bytes: "zz".as_bytes().into(), logprob: -0.25 }],
    };
    let events = |prompt: Vec<worker::Token>| {
        vec![
            said(0, Said::Accepted(worker::Accepted { prompt_tokens: 2, prompt, ..Default::default() })),
            said(
                0,
                Said::Chunk(worker::Chunk {
                    text: "ab!".into(),
                    tokens: vec![token("!", Some(-1.5))],
                    ..Default::default()
                }),
            ),
            finished(0, 0, worker::FinishReason::Length),
            Event::Done,
        ]
    };
    let body = json!({"model": "llm", "prompt": "ab", "echo": true, "logprobs": 1, "max_tokens": 1});
    let seen = post(TEXT, &body, events(vec![token("a", None), token("b", Some(-2.0))])).1;
    assert_eq!(
        json_of(&seen)["choices"][0],
        json!({"index": 0, "text": "ab!", "finish_reason": "length", "logprobs": {
            "tokens": ["a", "b", "!"], "token_logprobs": [null, -2.0, -1.5], "text_offset": [0, 1, 2],
            "top_logprobs": [null, {"b": -2.0, "zz": -0.25}, {"!": -1.5, "zz": -0.25}]}})
    );
    let body =
        json!({"model": "llm", "messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": 1});
    let seen = post(CHAT, &body, events(vec![])).1;
    assert_eq!(
        json_of(&seen)["choices"][0]["logprobs"],
        json!({"refusal": null, "content": [{"token": "!", "logprob": -1.5, "bytes": [33],
            "top_logprobs": [{"token": "zz", "logprob": -0.25, "bytes": [122, 122]}]}]})
    );
}

#[test]
fn do_embeddings_come_as_numbers_and_as_base64() {
    let response = worker::EmbedResponse {
        embeddings: vec![
            worker::Embedding { values: vec![1.0, -2.0, 0.5] },
            worker::Embedding { values: vec![0.0, 0.0, 1.0] },
        ],
        prompt_tokens: 9,
    };
    let mut body = json!({"model": "emb", "input": ["a", "b"], "dimensions": 3});
    let (ask, seen) = post(EMBED, &body, vec![Event::Embedded(response.clone()), Event::Done]);
    assert!(matches!(ask, Some(Ask::Embed(request)) if request.inputs.len() == 2 && !request.truncate));
    let answer = json_of(&seen);
    assert_eq!(answer["data"][0], json!({"object": "embedding", "index": 0, "embedding": [1.0, -2.0, 0.5]}));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 9, "total_tokens": 9}));
    body["encoding_format"] = json!("base64");
    let seen = post(EMBED, &body, vec![Event::Embedded(response.clone())]).1;
    assert_eq!(json_of(&seen)["data"][0]["embedding"], "AACAPwAAAMAAAAA/");
    body["input"] = json!("one");
    let seen = post(EMBED, &body, vec![Event::Embedded(response)]).1;
    assert_eq!(seen.status, Some(502), "two vectors for one text");
}

#[test]
fn are_models_listed_and_found() {
    let list = json_of(&get("/v1/models"));
    let first = json!({"id": "llm", "object": "model", "created": 1_600_000_000, "owned_by": "outrider", "max_model_len": 2048});
    assert_eq!((&list["object"], &list["data"][0]), (&json!("list"), &first));
    assert_eq!(list["data"][2].get("max_model_len"), None);
    assert_eq!(json_of(&get("/v1/models/llm")), first);
    assert_eq!(json_of(&get("/v1/models/a%2Fb"))["error"]["code"], "model_not_found");
    assert_eq!(get("/v1/models/%ff").status, Some(400));
}

#[test]
fn does_a_full_queue_say_when_to_come_again() {
    let error = crate::error::Error::QueueFull { waiting: 9, retry_after: std::time::Duration::from_millis(1500) };
    let mut seen = Automaton::default();
    seen.take(OpenAi.refusal(&drive::head(Method::POST, CHAT, &[]), &error.verdict()));
    assert_eq!((seen.status, &seen.headers["retry-after"]), (Some(429), &http::HeaderValue::from_static("2")));
    assert_eq!(json_of(&seen)["error"]["type"], "rate_limit_error");
}

proptest! {
    #[test]
    fn does_anything_break_the_automaton(script in proptest::collection::vec(any::<u8>(), 0..40), stream in any::<bool>(), n in 1..3u32) {
        let body = json!({"model": "llm", "prompt": ["a", "b"], "n": n, "stream": stream, "logprobs": 2});
        post(TEXT, &body, script.iter().map(|byte| drive::event(*byte)).collect());
        let body = json!({"model": "llm", "messages": [{"role": "user", "content": "x"}], "stream": stream});
        post(CHAT, &body, script.iter().map(|byte| drive::event(*byte)).collect());
        post(EMBED, &json!({"model": "emb", "input": "a"}), script.iter().map(|byte| drive::event(*byte)).collect());
    }

    #[test]
    fn do_any_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        super::fuzz(&data);
    }

    #[test]
    fn does_a_mangled_request_panic(at in 0usize..200, byte in any::<u8>(), cut in 0usize..220) {
        let mut body = json!({"model": "llm", "stop": ["a"], "n": 1, "logit_bias": {"1": 2}, "tools": [], "messages": [
            {"role": "user", "content": [{"type": "text", "text": "é"}]}, {"role": "assistant", "tool_calls": []}]}).to_string().into_bytes();
        body.truncate(cut);
        if let Some(place) = body.get_mut(at) { *place = byte; }
        drive::run(&OpenAi, &drive::head(Method::POST, CHAT, &[]), &body, []);
    }

    #[test]
    fn is_streamed_text_the_whole_text(pieces in proptest::collection::vec("\\PC{0,8}", 0..12)) {
        let events: Vec<_> = std::iter::once(accepted(0, 1))
            .chain(pieces.iter().map(|piece| chunk(0, 0, piece)))
            .chain([finished(0, 0, worker::FinishReason::Stop), Event::Done]).collect();
        let whole = post(TEXT, &json!({"model": "llm", "prompt": "x"}), events.clone()).1;
        let streamed = post(TEXT, &json!({"model": "llm", "prompt": "x", "stream": true}), events).1;
        let joined: String = events_of(&streamed).iter().filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned)).collect();
        let answer = json_of(&whole);
        prop_assert_eq!(answer["choices"][0]["text"].as_str().expect("text"), &joined);
        prop_assert_eq!(joined, pieces.concat());
    }
}
