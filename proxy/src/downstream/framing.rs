//! Where an http/1 request ends, in the one way every reader agrees on. What could be read in two ways is refused, however
//! well the parser below us can guess: what we forward must mean to the server behind us what it meant to policy.
//!
//! Pure: bytes in, verdict out. Never repairs.

/// Checks a head as it came, from its request line to its empty line. The error is for the caller's eyes.
pub fn check(raw: &[u8]) -> Result<(), &'static str> {
    // RFC 9112 §2.2 lets a recipient take a bare LF for a line's end, and so some do and some do not.
    let bare = |at: usize| raw[at] == b'\n' && (at == 0 || raw[at - 1] != b'\r');
    if (0..raw.len()).any(bare) {
        return Err("a line of the head does not end in CR LF");
    }
    let mut lines = raw.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    // RFC 9112 §2.2: empty lines before the request line are ignored.
    let request = lines.by_ref().find(|line| !line.is_empty()).unwrap_or_default();
    if request.iter().filter(|byte| **byte == b' ').count() != 2 {
        return Err("the request line is not method, target and version with one space between");
    }
    let (mut lengths, mut codings, mut hosts) = (0, 0, 0);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            // RFC 9112 §6.3 allows to read `2, 2` as 2; nobody who means well sends it.
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err("content-length is not a number");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("transfer-encoding is not `chunked`");
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if lengths + codings > 1 {
        return Err("the body's length is given more than once");
    }
    // RFC 9112 §3.2.
    if hosts > 1 || (hosts == 0 && !request.ends_with(b"HTTP/1.0")) {
        return Err("there must be one host");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn which_heads_are_read_in_one_way() {
        for good in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:2\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: \tChunked \r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nx-content-length: 2, 2\r\n\r\n",
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good:?}");
        }
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2,2\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +2\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \u{b}chunked\r\n\r\n",
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn does_no_head_make_it_panic(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&head);
        }
    }
}
