//! Limits as the clients people have meet them, before a foreign server that speaks OpenAI's API.

use outrider_tests::proxy::{Proxy, Sidecar};
use outrider_tests::python;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const WHOLE: &str = r#"{"id":"a","object":"chat.completion","created":1,"model":"any","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":8,"completion_tokens":4,"total_tokens":12}}"#;
const EVENT: &str = r#"{"id":"a","object":"chat.completion.chunk","created":1,"model":"any","choices":[{"index":0,"delta":{"content":"word "}}]}"#;

/// One request for each connection: a whole answer of twelve tokens, or a thousand words and nothing of their usage.
async fn answer(mut tcp: TcpStream) -> std::io::Result<()> {
    let (mut seen, mut piece) = (String::new(), [0; 4096]);
    while !seen.ends_with('}') {
        match tcp.read(&mut piece).await? {
            0 => return Ok(()),
            count => seen.push_str(&String::from_utf8_lossy(&piece[..count])),
        }
    }
    let seen: String = seen.split_whitespace().collect();
    if !seen.contains(r#""stream":true"#) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        return tcp.write_all(format!("{head}content-length: {}\r\n\r\n{WHOLE}", WHOLE.len()).as_bytes()).await;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    tcp.write_all(head.as_bytes()).await?;
    let event = format!("data: {EVENT}\n\n");
    for _ in 0..1000 {
        tcp.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tcp.write_all(b"0\r\n\r\n").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_the_openai_package_hear_of_its_limits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(answer(tcp));
        }
    });
    let config = format!(
        "tls: {{mode: disable}}\nauth: {{methods: [{{anonymous: {{}}}}]}}\nforward: {{to: '{address}'}}\n\
         rate_limits:\n  headers: true\n  limits:\n\
         \x20   - {{name: calls, limit: 3, window: 1h, key: {{header: x-user}}, overrides: {{writer: 100}}}}\n\
         \x20   - {{name: words, unit: total_tokens, limit: 36, window: 1h, key: {{header: x-user}}, cut: true,\n\
         \x20      overrides: {{writer: 30}}}}\n"
    );
    let proxy = Proxy::start(&config, &[]);
    let url = format!("http://{}", proxy.address());
    let script = move || python::run("limited_client.py", [("OUTRIDER_URL".to_owned(), url)]);
    tokio::task::spawn_blocking(script).await.expect("the client is content");
    assert!(proxy.log().contains("\"rate_limited\""), "the log says who was refused");
}
