//! One call of `grpc.health.v1.Health/Check`, by hand: a five-byte frame each way is all of gRPC it takes.
//!
//! Never keeps a connection, and never speaks TLS: the kubelet's gRPC probes do not either.

use super::{Answer, plain};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Request, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckResponse {
    /// 0 unknown, 1 serving, 2 not serving, 3 service unknown.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

const SERVING: i32 = 1;
/// A response is a handful of bytes.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// 200 if the service is serving, 503 if it says anything else.
pub(super) async fn check(tcp: TcpStream, authority: &str, service: &str, agent: &str) -> Result<Answer, String> {
    let handshake = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(tcp));
    let (mut sender, connection) = handshake.await.map_err(plain)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, agent)
        .body(Full::new(frame(&HealthCheckRequest { service: service.into() })))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(plain)?;
    let (head, body) = response.into_parts();
    if head.status != 200 {
        return Err(format!("it answers gRPC with HTTP status {}", head.status.as_u16()));
    }
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    succeeded(&head.headers, &trailers)?;
    let status = unframe(&body.to_bytes())?.status;
    let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(status as usize).unwrap_or(&"?");
    Ok(Answer { status: if status == SERVING { 200 } else { 503 }, body: format!("{name}\n") })
}

/// `grpc-status` stands in the trailers, or in the head of an answer without a body.
fn succeeded(head: &HeaderMap, trailers: &HeaderMap) -> Result<(), String> {
    let text = |name| trailers.get(name).or_else(|| head.get(name)).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        // As the kubelet puts it.
        Some("12") => Err("it does not implement the gRPC health protocol (grpc.health.v1.Health)".into()),
        Some(code) => Err(format!("gRPC status {code}: {}", text("grpc-message").unwrap_or(""))),
        None => Err("it speaks no gRPC: an answer without grpc-status".into()),
    }
}

/// Uncompressed, and how long it is (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(super) fn frame(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("a service's name is short"));
    message.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

fn unframe(bytes: &[u8]) -> Result<HealthCheckResponse, String> {
    let nonsense = || "its answer is no gRPC message".to_owned();
    let (head, message) = bytes.split_at_checked(5).ok_or_else(nonsense)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || message.len() != length {
        return Err(nonsense());
    }
    HealthCheckResponse::decode(message).map_err(|_| nonsense())
}
