//! Percent-encoding, both ways: path segments (RFC 3986 §2.1) and `grpc-message` (gRPC over HTTP/2, "Status").

/// Decodes a path segment. `None` when it is malformed or no UTF-8.
pub fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Encodes words for `grpc-message`: printable ASCII but `%` stays.
pub fn encode_message(words: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(words.len());
    for byte in words.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_decode_undo_encode() {
        for words in ["plain", "100 % of äöü\n", "a/b", ""] {
            assert_eq!(decode(&encode_message(words)).as_deref(), Some(words));
        }
        for broken in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}
