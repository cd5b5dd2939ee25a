//! Asks pods that nobody has seen ready whether they answer, so that requests go there before kubelet, API server and
//! EndpointSlice have told each other.
//!
//! A question is bounded in time and bytes; a pod has one at a time, and a connection that is kept while it is asked.
//! Never asks a pod that the kubelet sees ready: that was asked.

use super::service::Service;
use crate::config::activator::Probe;
use crate::outbound::dial::connect;
use crate::outbound::origin::{Origin, Speech};
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Of an answer: a word, or a short JSON.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Pods asked at once: of a service that starts by the thousand, the first to answer are enough.
const AT_ONCE_MAX: usize = 100;

type Kept = Option<SendRequest<Empty<Bytes>>>;

/// Asks, for ever, as long as there is somebody to ask.
pub async fn follow(service: Arc<Service>) {
    let mut kept: HashMap<SocketAddr, SendRequest<Empty<Bytes>>> = HashMap::new();
    loop {
        let pods = service.doubtful().await;
        kept.retain(|address, _| pods.contains(address));
        let pause = tokio::time::sleep(service.config.probe.period);
        let mut asking = JoinSet::new();
        for address in pods.into_iter().take(AT_ONCE_MAX) {
            let (service, connection) = (service.clone(), kept.remove(&address));
            asking.spawn(async move {
                let (probe, origin) = (&service.config.probe, service.origin());
                let asked = ask(probe, &origin, address, connection);
                let told = tokio::time::timeout(probe.timeout, asked).await.ok().flatten();
                service.probed(address, told.is_some());
                (address, told.flatten())
            });
        }
        while let Some(told) = asking.join_next().await {
            if let Ok((address, Some(connection))) = told {
                kept.insert(address, connection);
            }
        }
        pause.await;
    }
}

/// `None` if it does not answer as it should; else the connection, if it may be used again.
async fn ask(probe: &Probe, origin: &Origin, address: SocketAddr, kept: Kept) -> Option<Kept> {
    let mut connection = match kept.filter(|kept| kept.is_ready()) {
        Some(kept) => kept,
        None => {
            let stream = connect(origin, address, Speech::H1).await.ok()?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(async move { drop(connection.await) });
            sender
        }
    };
    let mut request = Request::get(&probe.path).header(HOST, address.to_string());
    request = request.header(USER_AGENT, "Knative-Activator-Probe");
    if let Some((name, value)) = &probe.header {
        request = request.header(name, value);
    }
    let answer = connection.send_request(request.body(Empty::new()).ok()?).await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await.ok()?.to_bytes();
    if probe.body.as_ref().is_some_and(|wanted| body != wanted.as_bytes()) {
        return None;
    }
    Some(connection.ready().await.is_ok().then_some(connection))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A pod that gives each question the next of these answers, on as many connections as it likes.
    async fn pod(answers: Vec<&'static str>) -> (SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let told = heard.clone();
        tokio::spawn(async move {
            let mut answers = answers.into_iter();
            loop {
                let (mut tcp, peer) = listener.accept().await.unwrap();
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = tcp.read(&mut bytes).await {
                    told.lock().unwrap().push(format!("{peer} {}", String::from_utf8_lossy(&bytes[..count])));
                    let Some(answer) = answers.next() else { return };
                    let _ = tcp.write_all(answer.as_bytes()).await;
                    if answer.contains("close") {
                        break;
                    }
                }
            }
        });
        (address, heard)
    }

    fn probe() -> Probe {
        Probe {
            path: "/healthz".into(),
            header: Some(("k-network-probe".parse().unwrap(), "queue".parse().unwrap())),
            body: Some("queue".into()),
            period: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
        }
    }

    const YES: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nqueue";

    #[tokio::test]
    async fn which_answers_mean_that_a_pod_is_there() {
        for (answer, want) in [
            (YES, true),
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nqueue", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", false),
            ("SSH-2.0-x\r\n", false),
        ] {
            let (address, heard) = pod(vec![answer]).await;
            assert_eq!(ask(&probe(), &Origin::Plain, address, None).await.is_some(), want, "{answer}");
            let asked = heard.lock().unwrap()[0].to_ascii_lowercase();
            assert!(asked.contains("get /healthz http/1.1") && asked.contains("k-network-probe: queue"), "{asked}");
        }
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(ask(&probe(), &Origin::Plain, closed, None).await.is_none());
    }

    #[tokio::test]
    async fn is_a_connection_used_again_while_it_lasts() {
        let (address, heard) = pod(vec![YES, YES, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nqueue", YES]).await;
        let mut kept = None;
        for _ in 0..4 {
            kept = ask(&probe(), &Origin::Plain, address, kept).await.expect("it answers");
        }
        let heard = heard.lock().unwrap();
        let peers: Vec<&str> = heard.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert!(peers[0] == peers[1] && peers[1] == peers[2] && peers[2] != peers[3], "{peers:?}");
    }
}
