//! Regular expressions as Go reads them (RE2), by the `regex` crate, which reads some of the same text differently.
//!
//! Translated where they differ; refused when the policy is loaded where that cannot be, and never taken for something
//! else: in Go `\d`, `\w`, `\s` and `\b` are ASCII, `[` and `&` inside brackets are themselves, `\Q…\E` is a literal.

use super::selectors::Problem;
use regex::{Regex, RegexBuilder};

/// What a compiled pattern may take. Go's own limit is 1,000 repetitions.
const COMPILED_BYTES_MAX: usize = 1 << 20;
const PATTERN_BYTES_MAX: usize = 4096;

pub fn compile(pattern: &str) -> Result<Regex, Problem> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(Problem::new(format!("regular expression longer than {PATTERN_BYTES_MAX} bytes")));
    }
    let translated = translate(pattern)?;
    RegexBuilder::new(&translated).size_limit(COMPILED_BYTES_MAX).build().map_err(|error| {
        // The crate draws the pattern over several lines; its last line says what is wrong.
        let error = error.to_string();
        let why = error.lines().last().unwrap_or_default().trim();
        Problem::new(format!("`{pattern}` is no regular expression that we can honour: {why}"))
    })
}

fn translate(pattern: &str) -> Result<String, Problem> {
    let mut made = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(char) = rest.chars().next() {
        let mut taken = char.len_utf8();
        match char {
            '\\' => {
                let (text, bytes) = escape(rest, in_class)?;
                made.push_str(&text);
                taken = bytes;
            }
            '[' if in_class => match rest.strip_prefix("[:").and_then(|name| name.find(":]")) {
                Some(end) => {
                    taken = end + 4;
                    made.push_str(&rest[..taken]);
                }
                None => made.push_str("\\["),
            },
            '[' => {
                in_class = true;
                // A bracket that closes right after the opening is itself.
                let opening = if rest.starts_with("[^") { "[^" } else { "[" };
                taken = opening.len();
                made.push_str(opening);
                if rest[taken..].starts_with(']') {
                    made.push_str("\\]");
                    taken += 1;
                }
            }
            ']' => {
                in_class = false;
                made.push(']');
            }
            '&' | '~' if in_class => made.extend(['\\', char]),
            '-' if in_class && made.ends_with('-') => made.push_str("\\-"),
            other => made.push(other),
        }
        rest = &rest[taken..];
    }
    Ok(made)
}

/// From a backslash: what to write, and how much was read.
fn escape(rest: &str, in_class: bool) -> Result<(String, usize), Problem> {
    let Some(escaped) = rest[1..].chars().next() else {
        return Err(Problem::new("the regular expression ends in a backslash".to_owned()));
    };
    let bytes = 1 + escaped.len_utf8();
    let text = match escaped {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        'b' if !in_class => r"(?-u:\b)",
        'B' | '<' | '>' | 'C' => {
            return Err(Problem::new(format!(
                "`\\{escaped}` in a regular expression is not honoured; write it without"
            )));
        }
        'Q' if !in_class => {
            let literal = &rest[bytes..];
            let (literal, taken) = match literal.find("\\E") {
                Some(end) => (&literal[..end], end + 2),
                None => (literal, literal.len()),
            };
            return Ok((regex::escape(literal), bytes + taken));
        }
        _ => &rest[..bytes],
    };
    Ok((text.to_owned(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_it_read_patterns_as_go_does() {
        for (pattern, text, matched) in [
            ("^/v1/.*$", "/v1/chat", true),
            ("chat", "/v1/chat/completions", true),
            (r"^\d+$", "123", true),
            (r"^\d+$", "١٢٣", false),
            (r"^[\d]+$", "12", true),
            (r"^[^\d]+$", "12", false),
            (r"^[^\d]+$", "ab", true),
            (r"^\w$", "é", false),
            (r"^\W$", "é", true),
            (r"^\s$", "\u{a0}", false),
            (r"\bis\b", "this is it", true),
            (r"^[[]$", "[", true),
            (r"^[a&&b]$", "&", true),
            (r"^[]a]$", "]", true),
            (r"^[^]a]$", "]", false),
            (r"^[+--]$", ",", true),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"(?i)^BEARER$", "bearer", true),
            (r"^(?P<name>a)$", "a", true),
            (r"^a\.b$", "axb", false),
            ("^.$", "é", true),
            ("^a$", "a\n", false),
        ] {
            assert_eq!(compile(pattern).map(|regex| regex.is_match(text)), Ok(matched), "{pattern} over {text}");
        }
    }

    #[test]
    fn is_what_cannot_be_honoured_refused() {
        for pattern in ["(", "[a", r"a\", r"\Ba", r"\1", "(?=a)", "a{1000}{1000}{1000}", &"a".repeat(5000)] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
