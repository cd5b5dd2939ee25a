//! Where a path's components begin and end: the grammar of GJSON, byte by byte, as its own author's code reads it.
//!
//! Knows neither documents nor programs. Every cut is made at an ASCII byte, so no character is ever torn.

use super::modifiers;

pub(super) const PATH_BYTES_MAX: usize = 4096;

/// What follows a component.
#[derive(Debug, PartialEq)]
pub(super) enum After<'p> {
    Nothing,
    /// A dot: goes on inside what was found.
    More(&'p str),
    /// A bar, or a dot before a modifier or brackets: begins anew with what was found, or with nothing.
    Pipe(&'p str),
}

#[derive(Debug, PartialEq)]
pub(super) enum ArrayPart<'p> {
    Name,
    At(usize),
    Count,
    Each(&'p str),
    Query { text: QueryText, all: bool },
}

#[derive(Debug, PartialEq)]
pub(super) struct QueryText {
    pub path: String,
    pub operator: String,
    pub value: String,
}

fn after_dot(rest: &str) -> After<'_> {
    if begins_anew(rest) { After::Pipe(rest) } else { After::More(rest) }
}

fn begins_anew(rest: &str) -> bool {
    match rest.as_bytes().first() {
        Some(b'[' | b'{') => true,
        Some(b'@') => modifiers::is_known(rest[1..].split(['.', '|', ':']).next().unwrap_or("")),
        _ => false,
    }
}

/// A component over an object: the key without its escapes, whether it is a pattern, and what follows.
pub(super) fn object_part(path: &str) -> (String, bool, After<'_>) {
    let mut part = String::new();
    let mut wild = false;
    let mut chars = path.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '|' => return (part, wild, After::Pipe(&path[at + 1..])),
            '.' => return (part, wild, after_dot(&path[at + 1..])),
            '\\' => part.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => {
                wild |= matches!(char, '*' | '?');
                part.push(char);
            }
        }
    }
    (part, wild, After::Nothing)
}

/// A component over an array.
pub(super) fn array_part(path: &str) -> (ArrayPart<'_>, After<'_>) {
    let bytes = path.as_bytes();
    let mut hashed = false;
    let mut query = None;
    let mut at = 0;
    let mut after = After::Nothing;
    while at < bytes.len() {
        match bytes[at] {
            b'|' => {
                after = After::Pipe(&path[at + 1..]);
                break;
            }
            b'.' => {
                let rest = &path[at + 1..];
                after = if hashed { After::More(rest) } else { after_dot(rest) };
                break;
            }
            b'#' => {
                hashed = true;
                match bytes.get(1) {
                    Some(b'.') if at == 0 => return (ArrayPart::Each(&path[2..]), After::Nothing),
                    Some(b'(' | b'[') if at == 0 => {
                        // A query that does not close is a name, and no item has one.
                        let Some((text, end)) = query_text(path) else { return (ArrayPart::Name, After::Nothing) };
                        query = Some((text, bytes.get(end) == Some(&b'#')));
                        at = end;
                        continue;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        at += 1;
    }
    let part = match query {
        Some((text, all)) => ArrayPart::Query { text, all },
        None if &path[..at] == "#" => ArrayPart::Count,
        None if hashed => ArrayPart::Name,
        None => index(&path[..at]).map_or(ArrayPart::Name, ArrayPart::At),
    };
    (part, after)
}

fn index(part: &str) -> Option<usize> {
    if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) { None } else { part.parse().ok() }
}

/// `#(path operator value)` and where it ends.
fn query_text(path: &str) -> Option<(QueryText, usize)> {
    let bytes = path.as_bytes();
    let (mut at, mut depth, mut operator_at, mut escaped) = (2, 1, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'!' | b'=' | b'<' | b'>' | b'%' if depth == 1 && operator_at == 0 => operator_at = at,
            b'\\' => at += 1,
            b'[' | b'(' => depth += 1,
            b']' | b')' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            b'"' => {
                let (end, has_escapes) = skip_string(bytes, at);
                escaped |= has_escapes;
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    if depth > 0 || at >= bytes.len() {
        return None;
    }
    let trim = |text: &str| text.trim_matches(|char: char| char <= ' ').to_owned();
    if operator_at == 0 {
        let text = QueryText { path: trim(&path[2..at]), operator: String::new(), value: String::new() };
        return Some((text, at + 1));
    }
    let comparison = trim(&path[operator_at..at]);
    let (operator, value) = split_operator(&comparison);
    let text = QueryText { path: trim(&path[2..operator_at]), operator, value: unquote(&trim(value), escaped) };
    Some((text, at + 1))
}

fn split_operator(comparison: &str) -> (String, &str) {
    for (written, operator) in [("!=", "!="), ("!%", "!%"), ("<=", "<="), (">=", ">="), ("==", "=")] {
        if let Some(value) = comparison.strip_prefix(written) {
            return (operator.to_owned(), value);
        }
    }
    let lone = comparison.len() == 1 || comparison.starts_with(['<', '>', '=', '%']);
    let (operator, value) = comparison.split_at(usize::from(lone));
    (operator.to_owned(), value)
}

fn unquote(value: &str, escaped: bool) -> String {
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(inner) if escaped => serde_json::from_str(value).unwrap_or_else(|_| inner.to_owned()),
        Some(inner) => inner.to_owned(),
        None => value.to_owned(),
    }
}

/// From a quotation mark: where the one that closes it stands (or the end), and whether a backslash is between.
fn skip_string(bytes: &[u8], open: usize) -> (usize, bool) {
    let (mut at, mut escaped) = (open + 1, false);
    while at < bytes.len() && bytes[at] != b'"' {
        if bytes[at] == b'\\' {
            escaped = true;
            at += 1;
        }
        at += 1;
    }
    (at, escaped)
}

/// From a bracket, brace or quotation mark: the text up to what closes it, or to the end.
fn balanced(text: &str) -> &str {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = skip_string(bytes, at).0,
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth <= 0 {
            break;
        }
    }
    &text[..at.min(text.len())]
}

/// `@name:argument` and what follows; `None` if there is no such modifier, so that the text is a key.
pub(super) fn modifier(path: &str) -> Option<(&str, &str, &str)> {
    let end = path.find([':', '|', '.']).unwrap_or(path.len());
    let name = &path[1..end];
    if !modifiers::is_known(name) {
        return None;
    }
    let Some(rest) = path[end..].strip_prefix(':') else { return Some((name, "", &path[end..])) };
    if rest.starts_with(['{', '[', '"']) {
        let argument = balanced(rest);
        return Some((name, argument, &rest[argument.len()..]));
    }
    let mut at = 0;
    while at < rest.len() && rest.as_bytes()[at] != b'|' {
        at += if matches!(rest.as_bytes()[at], b'{' | b'[' | b'"' | b'(') { balanced(&rest[at..]).len() } else { 1 };
    }
    Some((name, &rest[..at], &rest[at..]))
}

/// `!literal` and what follows; `None` if it is a key.
pub(super) fn literal(path: &str) -> Option<(String, &str)> {
    let text = &path[1..];
    match text.as_bytes().first()? {
        b'{' | b'[' | b'"' => {
            let literal = balanced(text);
            Some((literal.to_owned(), &text[literal.len()..]))
        }
        // A number takes what is left: a dot may be its own.
        b'+' | b'-' | b'0'..=b'9' => {
            let end = text.find('|').unwrap_or(text.len());
            Some((text[..end].trim_start_matches('+').to_owned(), &text[end..]))
        }
        _ => {
            let end = text.find(['|', '.']).unwrap_or(text.len());
            let word = text[..end].to_ascii_lowercase();
            matches!(word.as_str(), "true" | "false" | "null" | "nan" | "inf").then(|| (word, &text[end..]))
        }
    }
}

/// `[a,b]` or `{"x":a,b}`: names (empty where none is given) and paths, and what follows.
pub(super) fn many(path: &str) -> Option<(Vec<(&str, &str)>, &str)> {
    let bytes = path.as_bytes();
    let mut parts = Vec::new();
    let (mut at, mut depth, mut start, mut colon, mut in_modifier) = (1, 1, 1, None, false);
    while at < bytes.len() {
        let closes = matches!(bytes[at], b']' | b')' | b'}');
        match bytes[at] {
            b'\\' => at += 1,
            b'@' => in_modifier |= matches!(bytes[at - 1], b'.' | b'|'),
            b':' if !in_modifier && colon.is_none() && depth == 1 => colon = Some(at),
            b'"' => at = skip_string(bytes, at).0,
            b'[' | b'(' | b'{' => depth += 1,
            _ if closes => depth -= 1,
            _ => {}
        }
        if at < bytes.len() && ((bytes[at] == b',' && depth == 1) || (closes && depth == 0)) {
            let (name, from) = colon.map_or(("", start), |colon: usize| (&path[start..colon], colon + 1));
            parts.push((name, &path[from..at]));
            (start, colon, in_modifier) = (at + 1, None, false);
            if closes {
                return Some((parts, &path[at + 1..]));
            }
        }
        at += 1;
    }
    None
}

/// The key under which a part of `{…}` is put: as given, else the last word of its path.
pub(super) fn name_of(given: &str, path: &str) -> String {
    if !given.is_empty() {
        return serde_json::from_str(given).unwrap_or_else(|_| given.to_owned());
    }
    let bytes = path.as_bytes();
    let mark = |at: &usize| matches!(bytes[*at], b'|' | b'.') && (*at == 0 || bytes[*at - 1] != b'\\');
    let last = (0..bytes.len()).rev().find(mark).map_or(path, |at| &path[at + 1..]);
    let simple = !last.contains(|char: char| char < ' ' || "[]{}()#|!".contains(char));
    if simple { last.to_owned() } else { "_".to_owned() }
}

/// The first bar outside of queries: what is before it is for each item, what is after it for the list of them.
pub(super) fn split_pipe(path: &str) -> (&str, Option<&str>) {
    let bytes = path.as_bytes();
    if path.starts_with('{') {
        let squashed = balanced(path);
        // Without a bar right after the braces the path is not cut.
        let right = path[squashed.len()..].strip_prefix('|');
        return if right.is_some() { (squashed, right) } else { (path, None) };
    }
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'.' if matches!(bytes.get(at + 1..at + 3), Some([b'#', b'(' | b'['])) => {
                at += 1 + balanced(&path[at + 2..]).len();
            }
            b'|' => return (&path[..at], Some(&path[at + 1..])),
            _ => {}
        }
        at += 1;
    }
    (path, None)
}
