//! Over HTTP/2 without TLS, as gRPC clients in a pod come.

use super::*;
use bytes::Bytes;
use h2::client::SendRequest;

pub(super) async fn client(sidecar: &Sidecar) -> SendRequest<Bytes> {
    let tcp = tokio::net::TcpStream::connect(sidecar.running.listen).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(super) fn request(path: &str, media_type: &str) -> http::Request<()> {
    let uri = format!("http://x{path}");
    http::Request::post(uri).header("content-type", media_type).body(()).unwrap()
}

async fn whole(mut body: h2::RecvStream) -> String {
    let mut text = Vec::new();
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
        text.extend_from_slice(&bytes);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn are_streams_of_one_connection_answered_side_by_side() {
    let sidecar = plain(vec![generated(&["Hello", " world"])]);
    let mut client = client(&sidecar).await;
    for _ in 0..5 {
        client = client.ready().await.unwrap();
        let (answer, mut body) = client.send_request(request("/toy", "text/plain"), false).unwrap();
        body.send_data("hi".into(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["server"]), (200, &"outrider".parse().unwrap()));
        assert_eq!(whole(answer.into_body()).await, "Hello world");
    }
    assert_eq!(sidecar.labelled("ok")["protocol"], "h2");
}

#[tokio::test]
async fn is_an_unknown_grpc_method_unimplemented() {
    let sidecar = plain(vec![]);
    let mut client = client(&sidecar).await;
    let (answer, _) = client.send_request(request("/no.Such/Method", "application/grpc"), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"12".parse().unwrap()));
    assert!(answer.body().is_end_stream(), "trailers only");
}

#[tokio::test]
async fn is_a_deadline_kept_and_a_reset_noticed() {
    let mut script = generated(&["one"]);
    script.truncate(2);
    script.push(Line::Hang);
    let sidecar = plain(vec![script]);
    let mut client = client(&sidecar).await;
    let mut hurried = request("/toy", "application/grpc");
    hurried.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let (answer, _) = client.send_request(hurried, true).unwrap();
    assert_eq!(whole(answer.await.unwrap().into_body()).await, "onebroken: deadline_exceeded");

    let (answer, mut body) = client.send_request(request("/toy", "text/plain"), false).unwrap();
    body.send_data("hi".into(), true).unwrap();
    let answer = answer.await.unwrap();
    body.send_reset(h2::Reason::CANCEL);
    drop(answer);
    let sidecar = tokio::task::spawn_blocking(move || {
        sidecar.labelled("caller_left");
        wait_for(|| sidecar.fake.open.load(SeqCst) == 0);
        sidecar
    });
    drop(sidecar.await.unwrap());
}
