//! Sizes and openings: what keeps a file readable.

use crate::source::{Source, all};

const LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 60;

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
