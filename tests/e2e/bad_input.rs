//! Bad input gets a clear error in the caller's dialect, and the server lives on.

use crate::{CHAT, shared};
use outrider_tests::client::{Connection, Protocol, Security, ask, request};

#[tokio::test]
async fn does_every_mistake_in_a_chat_request_get_a_clear_400() {
    let up = shared();
    let long = "word ".repeat(9000);
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("malformed JSON", b"{\"model\": ".to_vec(), 400, "JSON"),
        ("bad UTF-8", b"{\"model\": \"\xff\xfe\"}".to_vec(), 400, ""),
        ("an array", b"[]".to_vec(), 400, ""),
        ("empty body", b"".to_vec(), 400, ""),
        ("no model", br#"{"messages":[{"role":"user","content":"hi"}]}"#.to_vec(), 400, "model"),
        ("model a number", br#"{"model":1,"messages":[{"role":"user","content":"hi"}]}"#.to_vec(), 400, "model"),
        ("unknown model", br#"{"model":"gpt-9","messages":[{"role":"user","content":"hi"}]}"#.to_vec(), 404, "gpt-9"),
        ("no messages", br#"{"model":"smollm2","messages":[]}"#.to_vec(), 400, "messages"),
        ("messages a string", br#"{"model":"smollm2","messages":"hi"}"#.to_vec(), 400, "messages"),
        ("negative max_tokens", crate::chat("hi", 1, false).replace(":1,", ":-1,").into(), 400, "max_tokens"),
        (
            "huge temperature",
            br#"{"model":"smollm2","temperature":99,"messages":[{"role":"user","content":"hi"}]}"#.to_vec(),
            400,
            "temperature",
        ),
        ("a prompt longer than the context", crate::chat(&long, 1, false).into(), 400, "8192"),
        ("nested to death", [b"[".repeat(200_000)].concat(), 400, ""),
    ];
    for protocol in [Protocol::Http1, Protocol::H2] {
        let mut connection = Connection::open(&up, protocol, Security::Mtls).await.unwrap();
        for (what, body, status, words) in &cases {
            let answer = connection.ask(request(&up, "POST", CHAT, body.clone())).await;
            assert_eq!(answer.status, *status, "{what}: {}", answer.text());
            let message = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
            assert!(!message.is_empty() && answer.text().contains(words), "{what}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn is_an_oversized_body_refused_before_it_is_read() {
    let up = shared();
    let answer = ask(&up, "POST", CHAT, vec![b' '; 17 << 20]).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("16777216"), "{}", answer.text());
}

#[tokio::test]
async fn do_wrong_paths_and_methods_answer_in_the_dialect() {
    let up = shared();
    for (method, path, status) in [
        ("GET", CHAT, 405),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/models/absent", 404),
        ("GET", "/v2/models/absent", 404),
        ("POST", "/v2/models/smollm2", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/../v1/models", 400),
    ] {
        let answer = ask(&up, method, path, "").await;
        let normalised = path.contains("..") && answer.status == 200;
        assert!(answer.status == status || normalised, "{method} {path}: {} {}", answer.status, answer.text());
        if !normalised {
            assert!(answer.json()["error"].is_object() || answer.json()["error"].is_string(), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn do_wrong_tensors_get_v2s_own_error() {
    let up = shared();
    for (what, body) in [
        ("unknown tensor", r#"{"inputs":[{"name":"nope","datatype":"BYTES","shape":[1],"data":["a"]}]}"#),
        ("wrong datatype", r#"{"inputs":[{"name":"text","datatype":"FP32","shape":[1],"data":[1.0]}]}"#),
        ("wrong shape", r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[3],"data":["a"]}]}"#),
        ("negative shape", r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[-1],"data":["a"]}]}"#),
        ("no inputs", r#"{"inputs":[]}"#),
        ("no JSON", "{"),
        ("unknown datatype", r#"{"inputs":[{"name":"text","datatype":"TEXT","shape":[1],"data":["a"]}]}"#),
    ] {
        let answer = ask(&up, "POST", "/v2/models/minilm/infer", body).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert!(!answer.json()["error"].as_str().expect("V2's error is a string").is_empty(), "{what}");
    }
}

#[tokio::test]
async fn does_garbage_on_the_wire_hurt_nobody_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let up = shared();
    for garbage in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage",
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
    ] {
        let mut socket = tokio::net::TcpStream::connect(up.address()).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("no hang");
    }
    assert_eq!(ask(&up, "GET", "/v1/models", "").await.status, 200);
    assert!(!up.log().contains("panicked"), "{}", up.log());
}
