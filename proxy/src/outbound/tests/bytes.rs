//! What is not HTTP, and what nobody routed.

use super::harness::*;
use crate::outbound::Original;
use crate::outbound::origin::Ourselves;
use http::{Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn meant(address: SocketAddr) -> Original {
    Arc::new(move |_| Ok(Some(address)))
}

async fn intercepted(yaml: &str, to: SocketAddr) -> Way {
    Way::with(&format!("  interception: true\n{yaml}"), Ourselves::default(), meant(to)).await
}

/// Says `ready`, reads a word to its end, says it back, hangs up.
async fn speaks_first() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.write_all(b"ready ").await.unwrap();
                let mut word = Vec::new();
                tcp.read_to_end(&mut word).await.unwrap();
                tcp.write_all(&word).await.unwrap();
            });
        }
    });
    address
}

async fn talk(way: &Way, word: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(way.address).await.unwrap();
    let mut first = [0; 6];
    if word.is_empty() || word[0] != 0x16 {
        tcp.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"ready ");
    }
    tcp.write_all(word).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut back = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut back)).await.unwrap().unwrap();
    back
}

#[tokio::test]
async fn may_the_server_speak_first() {
    let server = speaks_first().await;
    let routed = format!("  detect_timeout: 50ms\n{}", Way::yaml(&[nobody().await], "", ""));
    let opaque = format!("  opaque_ports: [{}]\n  detect_timeout: 1h\n{routed}", server.port());
    let opaque = opaque.replacen("  detect_timeout: 50ms\n", "", 1);
    // Without routes nobody looks at all.
    for yaml in [routed.as_str(), opaque.as_str(), "  detect_timeout: 1h\n"] {
        let way = intercepted(yaml, server).await;
        assert_eq!(talk(&way, b"hello").await, b"hello", "{yaml}");
        let lines = way.await_lines(1).await;
        assert_eq!((&lines[0]["protocol"], &lines[0]["cluster"]), (&"tcp".into(), &"passthrough".into()));
        assert_eq!((&lines[0]["request_bytes"], &lines[0]["response_bytes"]), (&5.into(), &11.into()));
    }
}

#[tokio::test]
async fn does_tls_of_the_application_pass_untouched() {
    let server = speaks_first().await;
    let way = intercepted(&format!("  detect_timeout: 1h\n{}", Way::yaml(&[nobody().await], "", "")), server).await;
    let hello = b"\x16\x03\x01\x00\x05never parsed";
    let back = talk(&way, hello).await;
    assert_eq!(back, [b"ready ".as_slice(), hello].concat());
}

#[tokio::test]
async fn does_an_unknown_host_get_where_it_was_going() {
    let server = Server::start(|request: Request<_>| async move {
        let host = request.headers().get("host").map_or("none".to_owned(), |host| host.to_str().unwrap().to_owned());
        Response::new(full(host))
    })
    .await;
    let clusters = format!("  clusters: [{{name: c, endpoints: ['{}']}}]\n", nobody().await);
    let routes = format!("  routes: [{{hosts: [known], cluster: c}}]\n{clusters}");
    let way = intercepted(&routes, server.address).await;
    assert_eq!(way.get().await, (200, false, "models".into()));
    let way = intercepted(&format!("  unknown: refuse\n{routes}"), server.address).await;
    assert_eq!(way.get().await.0, 502);
}

#[tokio::test]
async fn does_nothing_come_back_to_us() {
    let yaml =
        |port: u16| format!("  routes: [{{cluster: c}}]\n  clusters: [{{name: c, endpoints: ['127.0.0.1:{port}']}}]\n");
    let way = Way::open(&yaml(1)).await;
    let ours = crate::outbound::endpoint::Endpoint::new(way.address);
    way.outbound.clusters[0].replace(vec![ours]);
    let (status, ours, text) = way.get().await;
    assert_eq!((status, ours, text.contains("loop")), (508, true, true));
}

#[tokio::test]
async fn is_a_port_routed_to_a_cluster() {
    let server = speaks_first().await;
    let yaml = format!(
        "  detect_timeout: 50ms\n  routes: [{{ports: [5432], cluster: db}}]\n  clusters: [{{name: db, endpoints: ['{server}']}}]\n"
    );
    let way = intercepted(&yaml, "192.0.2.1:5432".parse().unwrap()).await;
    assert_eq!(talk(&way, b"select").await, b"select");
    assert_eq!(way.await_lines(1).await[0]["cluster"], "db");
}

#[tokio::test]
async fn is_a_stranger_who_speaks_no_http_let_go() {
    let way = Way::to(&[nobody().await], "", "").await;
    let mut tcp = TcpStream::connect(way.address).await.unwrap();
    tcp.write_all(b"\x00\x01\x02").await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(10), tcp.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    assert_eq!(way.await_lines(1).await[0]["label"], "no_host");
}
