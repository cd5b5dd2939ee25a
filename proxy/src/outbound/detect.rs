//! What the first bytes of a connection are. Pure.
//!
//! Never guesses: what is not surely HTTP is bytes, and bytes pass untouched.

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    H1,
    H2,
    /// TLS of the application's own, or any other protocol.
    Opaque,
}

/// How many bytes are enough for a decision.
pub const BYTES: usize = 32;

/// RFC 9113 §3.4; no method of http/1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest registered method is UPDATEREDIRECTREF, with 17 letters.
const METHOD_BYTES_MAX: usize = 20;

/// `None`: more bytes are needed.
pub fn classify(bytes: &[u8]) -> Option<Opening> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return (common >= 16).then_some(Opening::H2);
    }
    // A method is letters in capitals, and a target is a path, a star, an absolute URI or, for CONNECT, an authority.
    let method = bytes.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    if method > METHOD_BYTES_MAX {
        return Some(Opening::Opaque);
    }
    match (bytes.get(method), bytes.get(method + 1)) {
        (None, _) => None,
        (Some(b' '), None) if method > 0 => None,
        (Some(b' '), Some(b'/' | b'*' | b'h' | b'H')) if method > 0 => Some(Opening::H1),
        (Some(b' '), Some(_)) if &bytes[..method] == b"CONNECT" => Some(Opening::H1),
        _ => Some(Opening::Opaque),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_spoken() {
        let cases: [(&[u8], Option<Opening>); 14] = [
            (b"", None),
            (b"GE", None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET /", Some(Opening::H1)),
            (b"OPTIONS *", Some(Opening::H1)),
            (b"POST http://x/ HTTP/1.1", Some(Opening::H1)),
            (b"CONNECT a:443", Some(Opening::H1)),
            (b"PRI * HTTP/2.0", None),
            (b"PRI * HTTP/2.0\r\n", Some(Opening::H2)),
            (b"\x16\x03\x01", Some(Opening::Opaque)),
            (b"PING\r\n", Some(Opening::Opaque)),
            (b"get key\r\n", Some(Opening::Opaque)),
            (b"USER me", Some(Opening::Opaque)),
        ];
        for (bytes, want) in cases {
            assert_eq!(classify(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn is_a_decision_final_and_made_in_time(bytes in proptest::collection::vec(any::<u8>(), BYTES..40), at in 0usize..BYTES) {
            let whole = classify(&bytes);
            prop_assert!(whole.is_some());
            prop_assert!(classify(&bytes[..at]).is_none_or(|early| Some(early) == whole));
        }
    }
}
