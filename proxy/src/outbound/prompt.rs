//! The beginning of a prompt, found in the beginning of a JSON body: what requests share that share a KV cache. Pure.
//!
//! Never parses the body: it follows strings and brackets up to the first `messages`, `prompt` or `input` of the outer
//! object and takes raw bytes from there. Equal prompts from one client are equal bytes; more is not needed.

/// Keys of the outer object that hold a prompt, in JSON's own quotes.
const KEYS: [&[u8]; 3] = [b"\"messages\"", b"\"prompt\"", b"\"input\""];

/// What is known from the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Enough of it.
    Prefix(&'a [u8]),
    /// More bytes may tell.
    Unknown,
    /// No prompt here.
    Absent,
}

/// The first `count` bytes of the prompt in `body`; fewer if the prompt, or the finished body, is shorter.
pub fn prefix(body: &[u8], count: usize, finished: bool) -> Found<'_> {
    let blank = |b: &u8| b.is_ascii_whitespace();
    match body.iter().find(|b| !blank(b)) {
        Some(b'{') => {}
        None if !finished => return Found::Unknown,
        _ => return Found::Absent,
    }
    let unknown = if finished { Found::Absent } else { Found::Unknown };
    let Some(value) = value_of_prompt(body) else { return unknown };
    // A value's end is found as its beginning was; what is cut off at `count` need not be whole.
    let value = &body[value..];
    let end = match end_of(value) {
        Some(end) => end,
        None if value.len() >= count || finished => value.len(),
        None => return Found::Unknown,
    };
    if end == 0 { unknown } else { Found::Prefix(&value[..end.min(count)]) }
}

/// Where the prompt's value begins, if its key has been read.
fn value_of_prompt(body: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    while at < body.len() {
        match body[at] {
            b'"' => {
                let end = string_end(&body[at..])? + at;
                let after = end + body[end..].iter().take_while(|b| b.is_ascii_whitespace()).count();
                if depth == 1 && body.get(after) == Some(&b':') && KEYS.contains(&&body[at..end]) {
                    return Some(after + 1 + body[after + 1..].iter().take_while(|b| b.is_ascii_whitespace()).count());
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Length of the string that begins here, with its quotes.
fn string_end(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            b'"' => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Length of the value that begins here, if all of it is here.
fn end_of(value: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    while at < value.len() {
        match value[at] {
            b'"' => at += string_end(&value[at..])? - 1,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
        if depth == 0 && matches!(value[at - 1], b'"' | b'}' | b']') {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn where_does_a_prompt_begin() {
        let cases: [(&str, &str); 8] = [
            (r#"{"model":"m","prompt":"hello world"}"#, r#""hello wo"#),
            (r#" { "prompt" : "hi" , "n": 1}"#, r#""hi""#),
            (r#"{"stop":["\"prompt\":"],"a":{"prompt":"no"},"prompt":"yes"}"#, r#""yes""#),
            (r#"{"messages":[{"role":"user"}]}"#, r#"[{"role":"#),
            (r#"{"input":["a","b"],"x":1}"#, r#"["a","b"]"#),
            (r#"{"prompt":[1,2,3]}"#, "[1,2,3]"),
            (r#"{"prompt":17}"#, "17"),
            (r#"{"model":"prompt","prompt":"q\"z"}"#, r#""q\"z""#),
        ];
        for (body, want) in cases {
            assert_eq!(prefix(body.as_bytes(), 9, true), Found::Prefix(want.as_bytes()), "{body}");
        }
        for body in ["", "[1]", "prompt", "{}", r#"{"model":"x"}"#, r#"{"prompt":"#] {
            assert_eq!(prefix(body.as_bytes(), 9, true), Found::Absent, "{body}");
        }
        for body in ["", " ", "{", r#"{"model":"x","pro"#, r#"{"prompt":"#, r#"{"prompt":"abc"#] {
            assert_eq!(prefix(body.as_bytes(), 9, false), Found::Unknown, "{body}");
        }
        assert_eq!(prefix(br#"{"prompt":"abcdefghij"#, 4, false), Found::Prefix(br#""abc"#));
    }

    proptest! {
        #[test]
        fn do_more_bytes_never_change_an_answer(body in proptest::collection::vec(any::<u8>(), 0..60), at in 0usize..60) {
            let mut text = br#"{"a":[{}],"prompt":"#.to_vec();
            text.extend(body);
            for text in [&text[..], &text[19..]] {
                if let Found::Prefix(early) = prefix(&text[..at.min(text.len())], 5, false) {
                    prop_assert_eq!(prefix(text, 5, true), Found::Prefix(early));
                }
                let _ = prefix(text, 5, true);
            }
        }
    }
}
