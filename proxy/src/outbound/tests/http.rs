//! What is carried, and how: both versions of HTTP, streams both ways, trailers, upgrades.

use super::harness::*;
use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Tells what it was asked.
async fn mirror(request: Request<hyper::body::Incoming>) -> Response<Piped> {
    let (parts, body) = request.into_parts();
    let (text, _) = read(body).await.unwrap();
    let mut headers: Vec<String> = parts.headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
    headers.retain(|header| !header.starts_with("x-request-id=") && !header.starts_with("content-length="));
    headers.sort();
    let words = format!("{:?} {} {} [{}] {text}", parts.version, parts.method, parts.uri, headers.join(" "));
    Response::builder().header("x-own", "1").body(full(words)).unwrap()
}

#[tokio::test]
async fn does_a_request_arrive_as_it_was_sent() {
    let server = Server::start(mirror).await;
    let way = Way::to(&[server.address], "", "").await;
    let request = Request::post("/a/b?c=d%20e").header("host", "Models:81").header("connection", "x-mine, close");
    let request = request.header("x-mine", "1").header("x-theirs", "2").body(full("body")).unwrap();
    let response = way.h1().await.send_request(request).await.unwrap();
    assert_eq!((response.status(), response.headers()["x-own"].as_bytes()), (StatusCode::OK, &b"1"[..]));
    let (text, _) = read(response.into_body()).await.unwrap();
    assert_eq!(text, "HTTP/1.1 POST /a/b?c=d%20e [host=Models:81 transfer-encoding=chunked x-theirs=2] body");

    let request = Request::post("http://models/x").header("x-theirs", "2").body(full("body")).unwrap();
    let (text, _) = read(way.h2().await.send_request(request).await.unwrap().into_body()).await.unwrap();
    assert_eq!(text, "HTTP/2.0 POST http://models/x [x-theirs=2] body");
    let lines = way.await_lines(2).await;
    assert_eq!(
        (&lines[0]["kind"], &lines[0]["status"], &lines[0]["label"]),
        (&"outbound".into(), &200.into(), &"ok".into())
    );
    assert_eq!((&lines[0]["request_bytes"], &lines[1]["protocol"]), (&4.into(), &"h2".into()));
    assert!(lines[0]["request_id"].as_str().is_some_and(|id| id.len() == 32), "{}", lines[0]);
}

#[tokio::test]
async fn are_versions_translated_where_the_cluster_says_so() {
    let server = Server::start(mirror).await;
    let down = Way::to(&[server.address], "", "protocol: http1").await;
    let request =
        Request::get("http://models/x").header("cookie", "a=1").header("cookie", "b=2").body(full("")).unwrap();
    let (text, _) = read(down.h2().await.send_request(request).await.unwrap().into_body()).await.unwrap();
    assert_eq!(text, "HTTP/1.1 GET /x [cookie=a=1; b=2 host=models] ");
    let up = Way::to(&[server.address], "", "protocol: h2").await;
    assert_eq!(up.get().await.2, "HTTP/2.0 GET http://models/ [] ");
}

#[tokio::test]
async fn are_connections_used_again() {
    let server = Server::start(mirror).await;
    let way = Way::to(&[server.address], "", "").await;
    let mut sender = way.h1().await;
    for _ in 0..5 {
        sender.ready().await.unwrap();
        let request = Request::get("/").header("host", "m").body(full("")).unwrap();
        read(sender.send_request(request).await.unwrap().into_body()).await.unwrap();
    }
    assert_eq!(server.count(), (1, 5));
    let sender = way.h2().await;
    let requests = (0..20).map(|_| {
        let mut sender = sender.clone();
        async move {
            let request = Request::get("http://m/").body(full("")).unwrap();
            read(sender.send_request(request).await.unwrap().into_body()).await.unwrap();
        }
    });
    futures_util::future::join_all(requests).await;
    assert_eq!(server.count(), (2, 25));
}

/// Echoes each frame at once, and ends with a gRPC status.
async fn echo(request: Request<hyper::body::Incoming>) -> Response<Piped> {
    let (pipe, body) = piped();
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        while let Some(Ok(frame)) = next(&mut incoming).await {
            if let Ok(data) = frame.into_data() {
                pipe.send(Ok(Frame::data(data))).await.unwrap();
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "7".parse().unwrap());
        pipe.send(Ok(Frame::trailers(trailers))).await.unwrap();
    });
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[tokio::test]
async fn do_both_sides_of_a_stream_speak_at_once() {
    let server = Server::start(echo).await;
    let way = Way::to(&[server.address], "", "").await;
    let (pipe, body) = piped();
    let request = Request::post("http://m/s/M").header("content-type", "application/grpc").header("te", "trailers");
    let response = way.h2().await.send_request(request.body(body).unwrap()).await.unwrap();
    let mut answer = response.into_body();
    for word in ["one", "two", "three"] {
        pipe.send(Ok(Frame::data(Bytes::from(word)))).await.unwrap();
        assert_eq!(next(&mut answer).await.unwrap().unwrap().into_data().unwrap(), word);
    }
    drop(pipe);
    let trailers = next(&mut answer).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "7");
    let lines = way.await_lines(1).await;
    assert_eq!((&lines[0]["grpc_status"], &lines[0]["response_bytes"]), (&7.into(), &11.into()));
}

#[tokio::test]
async fn does_a_caller_that_leaves_take_the_request_with_it() {
    let (gone, mut heard) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |request: Request<hyper::body::Incoming>| {
        let gone = gone.clone();
        async move {
            let (pipe, body) = piped();
            pipe.send(Ok(Frame::data(Bytes::from("first")))).await.unwrap();
            tokio::spawn(async move {
                let _request = request;
                pipe.closed().await;
                gone.send(()).await.unwrap();
            });
            Response::new(body)
        }
    })
    .await;
    let way = Way::to(&[server.address], "", "").await;
    for h2 in [false, true] {
        let request = Request::get("http://m/").header("host", "m").body(full("")).unwrap();
        let response = match h2 {
            true => way.h2().await.send_request(request).await.unwrap(),
            false => way.h1().await.send_request(request).await.unwrap(),
        };
        let mut body = response.into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap().into_data().unwrap(), "first");
        drop(body);
        tokio::time::timeout(std::time::Duration::from_secs(10), heard.recv()).await.unwrap();
    }
    let lines = way.await_lines(2).await;
    assert!(lines.iter().all(|line| line["label"] == "cut"), "{lines:?}");
}

#[tokio::test]
async fn is_a_web_socket_carried() {
    let server = Server::start(|mut request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            while io.read_exact(&mut word).await.is_ok() {
                word.reverse();
                io.write_all(&word).await.unwrap();
            }
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        response.header("sec-websocket-accept", "yes").body(full("")).unwrap()
    })
    .await;
    // Even where everything else is HTTP/2.
    let way = Way::to(&[server.address], "", "protocol: h2").await;
    let request =
        Request::get("/ws").header("host", "m").header("connection", "Upgrade").header("upgrade", "websocket");
    let mut response = way.h1().await.send_request(request.body(full("")).unwrap()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["sec-websocket-accept"]),
        (101, &"yes".parse().unwrap())
    );
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    for word in [b"abcd", b"wxyz"] {
        io.write_all(word).await.unwrap();
        let mut back = [0; 4];
        io.read_exact(&mut back).await.unwrap();
        back.reverse();
        assert_eq!(&back, word);
    }
    drop(io);
    let lines = way.await_lines(1).await;
    assert_eq!(
        (&lines[0]["status"], &lines[0]["request_bytes"], &lines[0]["label"]),
        (&101.into(), &8.into(), &"ok".into())
    );
}

#[tokio::test]
async fn what_is_refused_and_in_which_words() {
    let yaml = "  routes: [{hosts: [known], cluster: none}]\n  clusters: [{name: none, endpoints: []}]\n";
    let way = Way::open(yaml).await;
    let get = |host: &str| Request::get("/").header("host", host);
    let (status, ours, text) = way.ask(get("strange").body(full("")).unwrap()).await;
    assert_eq!((status, ours, text.contains("strange:80")), (502, true, true), "{text}");
    let (status, ours, text) = way.ask(get("known").body(full("")).unwrap()).await;
    assert_eq!((status, ours, text.contains("no_endpoint")), (503, true, true), "{text}");
    let (status, ours, _) = way.ask(get("a@known").body(full("")).unwrap()).await;
    assert_eq!((status, ours), (400, true));
    let two = get("known").header("host", "other").body(full("")).unwrap();
    assert_eq!(way.ask(two).await.0, 400);
    let request =
        Request::post("http://strange/s/M").header("content-type", "application/grpc").body(full("x")).unwrap();
    let response = way.h2().await.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
}
