//! Bytes on a connection exactly as a test wants them, which no client library would send: HTTP/1.1 by hand, and HTTP/2
//! frame by frame.

use crate::authority::{Leaf, roots};
use crate::up::PATIENCE;
use rustls_pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Whatever carries bytes.
pub trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// One connection, bytes in and bytes out.
pub struct Wire(Box<dyn Bytes>);

/// Who calls: the roots it believes, and what it shows.
#[derive(Clone)]
pub struct Caller {
    config: Arc<rustls::ClientConfig>,
}

impl Caller {
    /// A caller that believes `root`, shows `leaf`, and offers these protocols in its handshake.
    pub fn new(root: &str, leaf: Option<&Leaf>, alpn: &[&str]) -> Caller {
        Self::with_versions(root, leaf, alpn, rustls::ALL_VERSIONS)
    }

    pub fn with_versions(
        root: &str,
        leaf: Option<&Leaf>,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Caller {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots(root));
        let mut config = match leaf {
            Some(leaf) => {
                let (chain, key) = leaf.parts();
                builder.with_client_auth_cert(chain, key).expect("a usable client identity")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        Caller { config: Arc::new(config) }
    }

    /// A TLS connection to `address`.
    pub async fn connect(&self, address: &str) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(self.config.clone()).connect(name, tcp).await
    }

    pub async fn wire(&self, address: &str) -> io::Result<Wire> {
        Ok(Wire(Box::new(self.connect(address).await?)))
    }
}

impl Wire {
    pub async fn plain(address: &str) -> io::Result<Wire> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Wire(Box::new(tcp)))
    }

    /// Writes; what the other side no longer takes is not an error here, for many tests go on until it does not.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let write = async { self.0.write_all(bytes.as_ref()).await.is_ok() && self.0.flush().await.is_ok() };
        tokio::time::timeout(PATIENCE, write).await.unwrap_or(false)
    }

    /// What comes until the end of the connection or until `quiet` passes without a byte; and whether it ended.
    pub async fn read(&mut self, quiet: Duration) -> (Vec<u8>, bool) {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        while all.len() < 16 << 20 {
            match tokio::time::timeout(quiet, self.0.read(&mut buffer)).await {
                Err(_) => return (all, false),
                Ok(Ok(0) | Err(_)) => return (all, true),
                Ok(Ok(count)) => all.extend_from_slice(&buffer[..count]),
            }
        }
        (all, false)
    }

    /// Until the end of the connection, however long it takes.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let (all, ended) = self.read(PATIENCE).await;
        assert!(ended, "the connection was not ended; it said {:?}", String::from_utf8_lossy(&all));
        all
    }

    /// Until the bytes so far satisfy `enough`, or the end.
    pub async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> (Vec<u8>, bool) {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        let reading = async {
            while !enough(&all) {
                match self.0.read(&mut buffer).await {
                    Ok(0) | Err(_) => return true,
                    Ok(count) => all.extend_from_slice(&buffer[..count]),
                }
            }
            false
        };
        let ended = tokio::time::timeout(PATIENCE, reading).await.expect("an answer or an end in time");
        (all, ended)
    }
}

/// The statuses of the HTTP/1.1 answers in `bytes`, in order, told by their status lines.
pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    lines.collect()
}

/// HTTP/2 frames (RFC 9113) and just enough HPACK (RFC 7541) to write a head without state.
pub mod h2 {
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// An empty SETTINGS after the preface.
    pub fn hello() -> Vec<u8> {
        [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
    }

    /// An integer with a prefix of 7 bits (RFC 7541 §5.1).
    fn integer(mut value: usize, into: &mut Vec<u8>) {
        if value < 127 {
            return into.push(value as u8);
        }
        into.push(127);
        value -= 127;
        while value >= 128 {
            into.push((value % 128 + 128) as u8);
            value /= 128;
        }
        into.push(value as u8);
    }

    /// A header block: every field a literal that is not indexed (RFC 7541 §6.2.2).
    pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in fields {
            bytes.push(0);
            integer(name.len(), &mut bytes);
            bytes.extend(name.as_bytes());
            integer(value.len(), &mut bytes);
            bytes.extend(value.as_bytes());
        }
        bytes
    }

    /// A head that ends its stream.
    pub fn get(stream: u32, path: &str) -> Vec<u8> {
        let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
        frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields))
    }

    /// A head whose body is to come.
    pub fn post(stream: u32, path: &str) -> Vec<u8> {
        let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
        frame(HEADERS, END_HEADERS, stream, &block(&fields))
    }

    /// Kind, flags, stream and payload.
    pub type Frame = (u8, u8, u32, Vec<u8>);

    /// The whole frames in `bytes`.
    pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
        let mut found = Vec::new();
        while bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let Some(payload) = bytes.get(9..9 + length) else { break };
            let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) & 0x7fff_ffff;
            found.push((bytes[3], bytes[4], stream, payload.to_vec()));
            bytes = &bytes[9 + length..];
        }
        found
    }

    /// The error code of the first GOAWAY, if one came (RFC 9113 §6.8).
    pub fn goaway(bytes: &[u8]) -> Option<u32> {
        let found = frames(bytes).into_iter().find(|(kind, ..)| *kind == GOAWAY)?;
        Some(u32::from_be_bytes(found.3.get(4..8)?.try_into().ok()?))
    }

    /// Whether HEADERS came on that stream.
    pub fn answered(bytes: &[u8], stream: u32) -> bool {
        frames(bytes).iter().any(|(kind, _, on, _)| *kind == HEADERS && *on == stream)
    }
}
