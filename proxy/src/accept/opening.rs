//! What the first bytes of a connection are. Looks at them and consumes none.
//!
//! 0x16 is a TLS handshake record (RFC 8446 §5.1); `PRI ` begins the HTTP/2 preface (RFC 9113 §3.4), and no method of
//! http/1 does.

use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    Tls,
    H2c,
    H1,
    /// Something else, or nothing at all: the server is to speak first.
    Opaque,
}

/// The longest method that is taken for one (RFC 9110 names none beyond `OPTIONS`; WebDAV's `UNSUBSCRIBE` has eleven).
const METHOD_BYTES_MAX: usize = 16;
/// Between two looks at a beginning in pieces. Readiness cannot be awaited: the bytes already there are readable for ever.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Where only HTTP and TLS are served: whatever is neither will be told so by the HTTP server.
pub async fn of_http(tcp: &TcpStream) -> io::Result<Opening> {
    match look(tcp).await? {
        Opening::Opaque => Ok(Opening::H1),
        opening => Ok(opening),
    }
}

/// Where anything may come: silence for longer than `patience` is an answer too.
pub async fn of_anything(tcp: &TcpStream, patience: Duration) -> io::Result<Opening> {
    tokio::time::timeout(patience, look(tcp)).await.unwrap_or(Ok(Opening::Opaque))
}

async fn look(tcp: &TcpStream) -> io::Result<Opening> {
    let mut bytes = [0; METHOD_BYTES_MAX + 1];
    loop {
        let count = tcp.peek(&mut bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(opening) = guess(&bytes[..count]) {
            return Ok(opening);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// `None`: more bytes are needed.
pub fn guess(bytes: &[u8]) -> Option<Opening> {
    if bytes.first() == Some(&0x16) {
        return Some(Opening::Tls);
    }
    if bytes.starts_with(b"PRI ") {
        return Some(Opening::H2c);
    }
    let method = bytes.iter().take_while(|b| b.is_ascii_alphabetic() || matches!(b, b'-' | b'_')).count();
    match bytes.get(method) {
        Some(b' ') if method > 0 => Some(Opening::H1),
        Some(_) => Some(Opening::Opaque),
        None if method > METHOD_BYTES_MAX => Some(Opening::Opaque),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[test]
    fn which_bytes_are_what() {
        let cases: [(&[u8], Option<Opening>); 12] = [
            (b"", None),
            (b"\x16", Some(Opening::Tls)),
            (b"PRI * HTTP/2.0\r\n", Some(Opening::H2c)),
            (b"PR", None),
            (b"PRI", None),
            (b"GET / HTTP/1.0\r\n\r\n", Some(Opening::H1)),
            (b"M-SEARCH * HTTP/1.1", Some(Opening::H1)),
            (b"\0", Some(Opening::Opaque)),
            (b" GET", Some(Opening::Opaque)),
            (b"EHLO\r\n", Some(Opening::Opaque)),
            (b"SSH-2.0-x", Some(Opening::Opaque)),
            (b"ABCDEFGHIJKLMNOPQ", Some(Opening::Opaque)),
        ];
        for (bytes, want) in cases {
            assert_eq!(guess(bytes), want, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn what_is_made_of_bytes_in_pieces_and_of_silence() {
        let cases: [(&[&[u8]], Opening, Opening); 4] = [
            (&[b"\x16\x03\x01"], Opening::Tls, Opening::Tls),
            (&[b"PR", b"I "], Opening::H2c, Opening::H2c),
            (&[b"P", b"OST "], Opening::H1, Opening::H1),
            (&[b"\0"], Opening::H1, Opening::Opaque),
        ];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (pieces, http, anything) in cases {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let write = async {
                for piece in pieces {
                    client.write_all(piece).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let (opening, ()) = tokio::join!(of_http(&server), write);
            assert_eq!(opening.unwrap(), http, "{pieces:?}");
            assert_eq!(of_anything(&server, Duration::from_secs(9)).await.unwrap(), anything, "{pieces:?}");
        }
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert_eq!(of_anything(&server, Duration::from_millis(1)).await.unwrap(), Opening::Opaque);
    }
}
