//! A policy's text before the engine reads it: what OPA refuses and the engine would take for something else, and what
//! OPA takes and the engine fails on. Pure; knows words and brackets, not the grammar.

use regex::Regex;
use std::sync::LazyLock;

/// Words that no rule is named by.
const KEYWORDS: [&str; 8] = ["as", "default", "else", "import", "not", "package", "some", "with"];
/// Those of Rego v1, which a policy of v0 has to import.
const IMPORTED: [&str; 4] = ["contains", "every", "if", "in"];
/// A variable of ours in rules that are written anew.
const VALUE: &str = "value__";

static IMPORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^[ \t]*import[ \t]+(?:(rego\.v1)|future\.keywords(?:\.(\w+))?)\b")
        .expect("a constant that a test compiles")
});

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Word,
    Keyword,
    /// A number or a string.
    Literal,
    /// Something in brackets, whole.
    Brackets,
    Operator,
}

/// A token outside all brackets, or brackets with what is in them.
#[derive(Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

/// In v0 a name alone, without a body or a value, is refused by OPA; the engine would take it for a rule that always
/// holds. So `allow if …` without its import would let everybody in.
pub fn bare_name(source: &str) -> Option<&str> {
    let tokens = tokens(source, &keywords(source));
    starts(&tokens).find_map(|at| {
        let name = &source[tokens[at].start..tokens[at].end];
        match tokens.get(at + 1).map(|next| (next.kind, &source[next.start..next.end])) {
            Some((Kind::Brackets, _)) => None,
            Some((Kind::Operator, sign)) => (!matches!(sign, "." | ":=" | "=")).then_some(name),
            // `allow contains x`, `allow if …`: with their imports, and so judged by the engine.
            Some((Kind::Keyword, word)) if IMPORTED.contains(&word) || word == "else" => None,
            _ => Some(name),
        }
    })
}

/// `x := input.list[_].y` is undefined in OPA where there is no list; the engine fails. It does not with
/// `x := value if { value := input.list[_].y }`, which is the same.
pub fn with_loops_in_bodies(source: &str, v1: bool) -> Option<String> {
    let keywords = if v1 { IMPORTED.to_vec() } else { keywords(source) };
    let tokens = tokens(source, &keywords);
    let starts: Vec<usize> = starts(&tokens).collect();
    let mut out = String::with_capacity(source.len() + 64);
    let mut written = 0;
    for (index, &at) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(tokens.len());
        let [name, sign, value @ ..] = &tokens[at..end] else { continue };
        let (Some(first), Some(last)) = (value.first(), value.last()) else { continue };
        let text = &source[first.start..last.end];
        let assigns = sign.kind == Kind::Operator && matches!(&source[sign.start..sign.end], ":=" | "=");
        let has_keyword = value.iter().any(|token| token.kind == Kind::Keyword);
        let loops = value.iter().any(|token| source[token.start..token.end].split_whitespace().eq(["[_]"]));
        if !assigns || has_keyword || !loops || text.contains(['{', '#']) {
            continue;
        }
        let (equals, if_) = if v1 { (":=", " if") } else { ("=", "") };
        out.push_str(&source[written..name.end]);
        out.push_str(&format!(" {equals} {VALUE}{if_} {{ {VALUE} := {text} }}"));
        written = last.end;
    }
    out.push_str(&source[written..]);
    (written > 0).then_some(out)
}

/// Those of [`IMPORTED`] that a policy of v0 imports.
fn keywords(source: &str) -> Vec<&'static str> {
    let mut imported = Vec::new();
    for import in IMPORT.captures_iter(source) {
        match import.get(2) {
            // `every` brings `in` with it.
            Some(name) => imported.extend(
                IMPORTED.iter().filter(|word| **word == name.as_str() || (**word == "in" && name.as_str() == "every")),
            ),
            None => imported.extend(IMPORTED),
        }
    }
    imported
}

/// Where rules begin: at a word that continues nothing.
fn starts(tokens: &[Token]) -> impl Iterator<Item = usize> + '_ {
    tokens.iter().enumerate().filter_map(|(at, token)| {
        let before = at.checked_sub(1).map(|before| tokens[before].kind);
        let continues = matches!(before, Some(Kind::Operator | Kind::Keyword));
        (token.kind == Kind::Word && !continues).then_some(at)
    })
}

fn tokens(source: &str, imported: &[&str]) -> Vec<Token> {
    let bytes = source.as_bytes();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let kind = match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b';' => {
                at += 1;
                continue;
            }
            b'#' => {
                at = line_end(bytes, at);
                continue;
            }
            b'"' | b'`' => {
                at = string_end(bytes, at);
                Kind::Literal
            }
            b'{' | b'[' | b'(' => {
                at = brackets_end(bytes, at);
                Kind::Brackets
            }
            _ if is_word(byte) => {
                while bytes.get(at).is_some_and(|byte| is_word(*byte)) {
                    at += 1;
                }
                // `future.keywords.in` names a keyword and is none.
                let is_field = tokens.last().is_some_and(|last: &Token| &source[last.start..last.end] == ".");
                if is_field { Kind::Word } else { word(&source[start..at], imported) }
            }
            _ => {
                at += if source[start..].starts_with(":=") { 2 } else { 1 };
                while !source.is_char_boundary(at) {
                    at += 1;
                }
                Kind::Operator
            }
        };
        tokens.push(Token { kind, start, end: at });
    }
    tokens
}

fn word(word: &str, imported: &[&str]) -> Kind {
    match word {
        "true" | "false" | "null" => Kind::Literal,
        _ if word.starts_with(|first: char| first.is_ascii_digit()) => Kind::Literal,
        _ if KEYWORDS.contains(&word) || imported.contains(&word) => Kind::Keyword,
        _ => Kind::Word,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Behind a string that begins here.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let (quote, mut at) = (bytes[start], start + 1);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quote == b'"' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Behind brackets that begin here, whatever is in them.
fn brackets_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0usize, start);
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'`' => {
                at = string_end(bytes, at);
                continue;
            }
            b'#' => {
                at = line_end(bytes, at);
                continue;
            }
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn which_names_stand_alone() {
        for (source, name) in [
            ("allow if input.x", Some("allow")),
            ("allow foo { input.x }", Some("allow")),
            ("allow", Some("allow")),
            ("x := 1\nallow # alone\n", Some("allow")),
            ("allow = true if input.x", Some("if")),
            ("p contains \"a\"\nallow { input.x }", Some("p")),
            ("allow { true }\ndeny if input.x", Some("deny")),
            ("import future.keywords.in\nallow if input.x", Some("allow")),
            ("f(x) if x\nallow { f(1) }", Some("if")),
            ("import rego.v1\nallow if input.x", None),
            ("import future.keywords\nallow if { input.x }\ndeny contains m if { m := 1 }", None),
            ("import future.keywords.if\nallow if input.x", None),
            ("import future.keywords.contains\np contains 1\nallow { p[1] }", None),
            ("import data.a as b\ndefault allow = false\nallow { b.c; input.x }", None),
            ("allow\n{ input.x }", None),
            ("allow { input.x } allow { input.y }", None),
            ("p[1]\nf(x) = y { y := x }\na.b { true }\nallow { p[1] }", None),
            ("allow = x { x := input.y } else = true { input.z } else { false }", None),
            ("x := input.a[_].b != 300\ny = `raw {\n` { \"a # }\" }\n# allow\nallow { not x }", None),
            ("msg := concat(\" \", [\"a\", \"b\"])\nn := -1 + 2 * input.z\nallow { n }", None),
        ] {
            assert_eq!(bare_name(source), name, "{source}");
        }
    }

    #[test]
    fn which_loops_are_moved() {
        for (source, v1, moved) in [
            (
                "x := input.a[_].b != 300\nallow if not x",
                true,
                "x := value__ if { value__ := input.a[_].b != 300 }\nallow if not x",
            ),
            ("x = input.a[_]\nallow { x }", false, "x = value__ { value__ := input.a[_] }\nallow { x }"),
        ] {
            assert_eq!(with_loops_in_bodies(source, v1).as_deref(), Some(moved), "{source}");
        }
        for source in [
            "allow if input.a[_] == 1",
            "x := input.a[0]\nallow if x",
            "x := {y | y := input.a[_]}\nallow if x",
            "x := input.a[_] if { input.b }\nallow if x",
            "allow if {\n x := input.a[_]\n x > 1\n}",
            "default x := 1\nallow if x == 1",
        ] {
            assert_eq!(with_loops_in_bodies(source, true), None, "{source}");
        }
    }

    proptest! {
        #[test]
        fn is_any_text_read_without_harm(source in "[ -~\\n\u{e9}\u{1F600}]{0,80}") {
            bare_name(&source);
            with_loops_in_bodies(&source, true);
            with_loops_in_bodies(&source, false);
        }
    }
}
