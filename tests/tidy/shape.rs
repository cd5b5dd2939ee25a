//! Sizes and openings: what keeps a file readable.

use crate::source::{Source, all};

const LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 60;
const ARGUMENTS_MAX: usize = 5;

#[track_caller]
fn none(found: Vec<String>, why: &str) {
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn does_every_file_say_what_it_is() {
    let silent = all().into_iter().filter(|file| !file.text.starts_with("//!")).map(|file| file.path);
    none(silent.collect(), "a file opens with what it is and what it never does");
}

#[test]
fn does_every_file_stop_in_time() {
    let long = all().into_iter().filter_map(|file| {
        let lines = file.story().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
    });
    none(long.collect(), "a file stops at 400 lines, its unit tests aside");
}

/// Functions with the number of their lines, by indentation: rustfmt closes a function where it began.
fn functions(file: &Source) -> Vec<(usize, String, usize)> {
    let lines: Vec<(usize, &str)> = file.story().collect();
    let mut found = Vec::new();
    for (i, (number, line)) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let head = line.trim_start();
        let words: Vec<&str> = head.split([' ', '(', '<']).collect();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        let modifiers = ["pub", "pub(crate)", "pub(super)", "async", "unsafe", "const", "extern", "\"C\""];
        if !words[..at].iter().all(|word| modifiers.contains(word)) {
            continue;
        }
        let head_end = lines[i..].iter().find(|(_, line)| line.ends_with('{') || line.ends_with(';'));
        if head_end.is_none_or(|(_, line)| line.ends_with(';')) {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let body = lines[i..].iter().position(|(_, line)| *line == close);
        if let Some(length) = body {
            found.push((*number, words.get(at + 1).unwrap_or(&"?").to_string(), length + 1));
        }
    }
    found
}

#[test]
fn does_every_function_stop_in_time() {
    let mut long = Vec::new();
    for file in all() {
        for (number, name, lines) in functions(&file) {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}:{number}: {name} has {lines} lines", file.path));
            }
        }
    }
    none(long, "a function stops at 60 lines");
}

/// Where the arguments begin, behind the generics.
fn parentheses(text: &str) -> Option<usize> {
    let (mut depth, mut before) = (0, ' ');
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            '(' if depth == 0 => return Some(at),
            _ if depth == 0 => return None,
            _ => {}
        }
        before = c;
    }
    None
}

/// Arguments of each function in the text, `self` aside: commas at the top of its parentheses.
fn arguments(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("fn ") {
        let rest = &text[at + 3..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let begins = at == 0 || text[..at].ends_with([' ', '\n', '(']);
        let Some(open) = parentheses(&rest[name.len()..]).filter(|_| begins && !name.is_empty()) else { continue };
        let open = at + 3 + name.len() + open;
        let (mut depth, mut count, mut any, mut before) = (0, 1, false, ' ');
        let mut own = text[open + 1..].split([',', ')']).next().unwrap_or("").split([' ', '&', '\n']);
        for c in text[open..].chars() {
            match c {
                '(' | '[' | '<' | '{' => depth += 1,
                '>' if before == '-' => {}
                ')' | ']' | '>' | '}' => depth -= 1,
                ',' if depth == 1 => count += 1,
                c => any |= !c.is_whitespace(),
            }
            // A comma at the very end, as rustfmt leaves it in long lists, separates nothing.
            if !c.is_whitespace() && depth == 0 {
                count -= usize::from(before == ',');
                break;
            }
            before = if c.is_whitespace() { before } else { c };
        }
        let receiver = own.any(|word| word == "self");
        found.push((name, if any { count - usize::from(receiver) } else { 0 }));
    }
    found
}

#[test]
fn does_no_function_lack_a_noun() {
    assert_eq!(arguments("fn a(&self, b: &[(u8, u8)], c: Map<A, B>) {"), [("a".to_owned(), 2)]);
    assert_eq!(arguments("\nfn a<F: Fn(u8, u8) -> u8>(\n    f: F,\n    g: u8,\n) {"), [("a".to_owned(), 2)]);
    let mut found = Vec::new();
    for file in all().iter().filter(|file| !file.is_test()) {
        let code: Vec<&str> = file.code().map(|(_, line)| line).collect();
        let crowded = arguments(&code.join("\n")).into_iter().filter(|(_, count)| *count > ARGUMENTS_MAX);
        found.extend(crowded.map(|(name, count)| format!("{}: {name} takes {count} arguments", file.path)));
    }
    none(found, "a sixth argument means a noun is missing");
}

/// Whether `mark` stands in `line` with neither letter nor digit on either side: base64 may hold anything.
fn stands_alone(line: &str, mark: &str) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(mark).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + mark.len()..]);
        !word(before.chars().next_back()) && (mark.ends_with('(') || !word(after.chars().next()))
    })
}

#[test]
fn is_nothing_left_to_do_in_the_code() {
    let marks =
        ["to".to_owned() + "do!(", "unimpl".to_owned() + "emented!(", "FIX".to_owned() + "ME", "XX".to_owned() + "X"];
    let mut found = Vec::new();
    for file in all() {
        for (i, line) in file.text.lines().enumerate() {
            if marks.iter().any(|mark| stands_alone(line, mark)) || line.trim_start().starts_with("#[ignore") {
                found.push(format!("{}:{}: {}", file.path, i + 1, line.trim()));
            }
        }
    }
    none(found, "what is not done is not in the code");
}
