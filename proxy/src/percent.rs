//! Percent-encoding (RFC 3986, section 2.1): of one path segment or query value, of a form, and of what is a URL
//! already; and a path less its encoding. What is decoded is for judging by, never for sending on.

use std::borrow::Cow;

/// What needs no encoding anywhere (RFC 3986, section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn push_hex(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// As one path segment or one value of a query: nothing in `text` can end either.
pub fn part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_part(text, &mut out);
    out
}

/// The same, behind what is there.
pub fn push_part(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if is_unreserved(byte) { out.push(char::from(byte)) } else { push_hex(byte, out) }
    }
}

/// As a name or value of `application/x-www-form-urlencoded`.
pub fn push_form(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            byte if is_unreserved(byte) => out.push(char::from(byte)),
            byte => push_hex(byte, out),
        }
    }
}

pub fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        push_form(name, &mut out);
        out.push('=');
        push_form(value, &mut out);
    }
    out
}

/// A URL whose author wrote spaces or letters that no URL has: those are encoded, the rest is as it was.
///
/// A control character is nobody's mistake, and what follows a `#` would be lost: both are errors.
pub fn url(text: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0..=0x1f | 0x7f => return Err("has a control character"),
            b'#' => return Err("has a fragment, which is never sent"),
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => push_hex(byte, &mut out),
            byte => out.push(char::from(byte)),
        }
    }
    Ok(out)
}

/// A path as its encoding means it: what is no encoding stays, what is no UTF-8 becomes U+FFFD.
pub fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let (mut out, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |at: usize| char::from(*tail.get(at).filter(|_| byte == b'%')?).to_digit(16);
        match digit(0).zip(digit(1)) {
            Some((high, low)) => {
                out.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_an_encoded_path_mean() {
        for (path, meant) in [
            ("/a/b", "/a/b"),
            ("/a%20b%2Bc+d", "/a b+c+d"),
            ("/%C3%A9%ff", "/\u{e9}\u{fffd}"),
            ("/%", "/%"),
            ("/%2", "/%2"),
            ("/%zz%+1", "/%zz%+1"),
            ("/%2541", "/%41"),
        ] {
            assert_eq!(decoded(path), meant, "{path}");
        }
    }

    #[test]
    fn what_does_each_place_encode() {
        let part = |text: &str| {
            let mut out = String::new();
            push_part(text, &mut out);
            out
        };
        assert_eq!(part("a/b?c=d&e#f g%2F\r\n\u{e9}@:;+"), "a%2Fb%3Fc%3Dd%26e%23f%20g%252F%0D%0A%C3%A9%40%3A%3B%2B");
        assert_eq!(form([("a b", "c&d=e"), ("\u{fc}", "")]), "a+b=c%26d%3De&%C3%BC=");
        assert_eq!(url("http://h/a b?\u{e9}={x}%20"), Ok("http://h/a%20b?%C3%A9=%7Bx%7D%20".into()));
        assert!(url("http://h/a\r\nx: y").is_err() && url("http://h/#x").is_err());
    }
}
