//! How an answer ends, and what of a head goes on.

use super::*;
use proptest::prelude::*;

/// The answer and its whole body, if `bytes` come in pieces of `step`; `None` in place of an end.
fn read(bytes: &[u8], step: usize, head_only: bool) -> Result<(Answer, Vec<u8>, Option<usize>), Nonsense> {
    let (mut input, mut answer, mut body) = (BytesMut::new(), None::<Answer>, Vec::new());
    for piece in bytes.chunks(step) {
        input.extend_from_slice(piece);
        if answer.is_none() {
            answer = read_answer(&mut input, head_only)?;
        }
        if let Some(answer) = &mut answer {
            while let Some(piece) = answer.body.take(&mut input)? {
                body.extend_from_slice(&piece);
            }
        }
    }
    let answer = answer.ok_or("no head")?;
    let left = answer.body.is_done().then_some(input.len());
    Ok((answer, body, left))
}

#[test]
fn where_does_an_answer_end() {
    let cases: [(&str, &str, Option<usize>, bool); 11] = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi", Some(0), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi!", "hi", Some(1), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", "hi", None, true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi", Some(0), false),
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\ncontent-length: 2\r\n\r\nhi", "hi", Some(0), false),
        ("HTTP/1.1 200 OK\r\n\r\nhi", "hi", None, false),
        ("HTTP/1.1 204 No Content\r\n\r\n", "", Some(0), true),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", "", Some(0), true),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nhi\r\n1\r\n!\r\n0\r\nt: u\r\n\r\n",
            "hi!",
            Some(0),
            true,
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n", "hi", None, true),
        // The length is not to be believed, nor whoever sent both.
        ("HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "", Some(0), false),
    ];
    for (bytes, body, left, keep) in cases {
        for step in [1, 3, 1000] {
            let (answer, got, rest) = read(bytes.as_bytes(), step, false).expect(bytes);
            assert_eq!((got.as_slice(), rest, answer.keep), (body.as_bytes(), left, keep), "{bytes}");
        }
    }
    let (answer, body, left) = read(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", 9, true).unwrap();
    assert_eq!((answer.headers[CONTENT_LENGTH].as_bytes(), body.len(), left), (&b"7"[..], 0, Some(0)));
}

#[test]
fn what_is_no_answer() {
    for bytes in [
        "HTTP/2 200 OK\r\n\r\n",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 2,2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nhi\r\n",
        "HTTP/1.1 200 OK\r\nconnection: content-length\r\ncontent-length: 2\r\n\r\nhi",
    ] {
        assert!(read(bytes.as_bytes(), 1000, false).is_err(), "{bytes}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_BYTES_MAX));
    assert!(read(long.as_bytes(), 1000, false).is_err());
}

#[test]
fn which_headers_end_with_their_connection() {
    let headers = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    };
    let mut head = headers(&[
        ("connection", "X-Mine, keep-alive"),
        ("x-mine", "1"),
        ("keep-alive", "5"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "secret"),
        ("transfer-encoding", "chunked"),
        ("accept", "*/*"),
    ]);
    assert!(cleanse_request(&mut head));
    assert_eq!(head, headers(&[("accept", "*/*")]));
    for named in ["x-forwarded-client-cert", "Host", "a, content-length", "b@d", "\"authorization\""] {
        let mut head = headers(&[("connection", named)]);
        assert!(!cleanse_request(&mut head), "{named}");
    }
}

#[test]
fn are_cookies_one_line() {
    let mut head = HeaderMap::new();
    for cookie in ["a=1", "b=2", "c=3"] {
        head.append(COOKIE, HeaderValue::from_static(cookie));
        join_cookies(&mut head);
    }
    assert_eq!(head.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
}

proptest! {
    #[test]
    fn does_nothing_a_server_sends_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), step in 1_usize..50) {
        let _ = read(&bytes, step, false);
        let mut framed = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        framed.extend(bytes);
        let _ = read(&framed, step, false);
    }

    #[test]
    fn is_a_chunked_body_the_same_however_it_is_cut(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
        step in 1_usize..60,
    ) {
        let mut bytes = BytesMut::from(&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..]);
        pieces.iter().for_each(|piece| write_chunk(&mut bytes, piece));
        bytes.extend_from_slice(LAST_CHUNK);
        let (_, body, left) = read(&bytes, step, false).unwrap();
        prop_assert_eq!((body, left), (pieces.concat(), Some(0)));
    }
}
