//! YAML as `kubectl` reads it: what we write means the same to a YAML 1.1 parser (`on`, `0644`, `1_000`) and to a 1.2 one.
//!
//! Reads with the ordinary parser and mends what 1.1 would have read otherwise; writes blocks in one fixed style.

use serde_yaml_ng::{Mapping, Value};
use std::fmt::Write;

/// Fields of pods that hold a file mode: YAML 1.1 reads `0644` as octal, 1.2 as text, and the API wants a number.
const MODES: [&str; 2] = ["defaultMode", "mode"];

/// Fields of pods that hold a truth: `yes` is one in YAML 1.1 only.
const TRUTHS: &[&str] = &[
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "optional",
    "paused",
    "privileged",
    "readOnly",
    "readOnlyRootFilesystem",
    "runAsNonRoot",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "stdin",
    "stdinOnce",
    "suspend",
    "tty",
];

/// A document, and why it could not be written again, if it could not: nobody minds in one that is not to change.
pub fn read(text: &str) -> Result<(Value, Result<(), String>), String> {
    let mut value: Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    value.apply_merge().map_err(|error| error.to_string())?;
    let writable = mend(&mut value);
    Ok((value, writable))
}

/// Reads the few values that YAML 1.1 and 1.2 read differently as the API server's clients do.
fn mend(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map.iter_mut() {
                let key = key.as_str().ok_or("a key is no text, which no manifest has")?;
                match value {
                    Value::String(text) if MODES.contains(&key) => {
                        if let Some(mode) = octal(text) {
                            *value = mode.into();
                        }
                    }
                    Value::String(text) if TRUTHS.contains(&key) => match text.to_ascii_lowercase().as_str() {
                        "yes" | "on" | "y" => *value = true.into(),
                        "no" | "off" | "n" => *value = false.into(),
                        _ => {}
                    },
                    other => mend(other)?,
                }
            }
            Ok(())
        }
        Value::Sequence(items) => items.iter_mut().try_for_each(mend),
        Value::Tagged(tagged) => Err(format!("the tag {} is not understood here", tagged.tag)),
        _ => Ok(()),
    }
}

fn octal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('0').filter(|digits| !digits.is_empty())?;
    u64::from_str_radix(digits, 8).ok()
}

/// One document, ending in a line break.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Mapping(map) if !map.is_empty() => mapping(&mut out, map, 0),
        Value::Sequence(items) if !items.is_empty() => sequence(&mut out, items, 0),
        other => scalar(&mut out, other, 2),
    }
    out
}

fn mapping(out: &mut String, map: &Mapping, indent: usize) {
    for (at, (key, value)) in map.iter().enumerate() {
        // The first key stands behind the dash of its item, or where a document begins.
        if at > 0 {
            pad(out, indent);
        }
        scalar_text(out, key);
        out.push(':');
        match value {
            Value::Mapping(inner) if !inner.is_empty() => {
                out.push('\n');
                pad(out, indent + 2);
                mapping(out, inner, indent + 2);
            }
            Value::Sequence(items) if !items.is_empty() => {
                out.push('\n');
                pad(out, indent);
                sequence(out, items, indent);
            }
            other => {
                out.push(' ');
                scalar(out, other, indent + 2);
            }
        }
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            pad(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Mapping(inner) if !inner.is_empty() => mapping(out, inner, indent + 2),
            Value::Sequence(inner) if !inner.is_empty() => sequence(out, inner, indent + 2),
            other => scalar(out, other, indent + 2),
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A scalar or an empty collection, and the line's end.
fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(text) if block(text) => {
            let kept = text.trim_end_matches('\n');
            let chomp = match text.len() - kept.len() {
                0 => "-",
                1 => "",
                _ => "+",
            };
            let _ = writeln!(out, "|{chomp}");
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                if !line.is_empty() {
                    pad(out, indent);
                }
                out.push_str(line);
                out.push('\n');
            }
        }
        other => {
            scalar_text(out, other);
            out.push('\n');
        }
    }
}

fn scalar_text(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(truth) => drop(write!(out, "{truth}")),
        Value::Number(number) => drop(write!(out, "{number}")),
        Value::String(text) if plain(text) => out.push_str(text),
        // Every JSON string is a double-quoted scalar of YAML.
        Value::String(text) => out.push_str(&serde_json::Value::from(text.as_str()).to_string()),
        Value::Sequence(_) => out.push_str("[]"),
        Value::Mapping(_) => out.push_str("{}"),
        Value::Tagged(tagged) => scalar_text(out, &tagged.value),
    }
}

/// Whether a text of several lines can stand as a literal block.
fn block(text: &str) -> bool {
    let printable = text
        .chars()
        .all(|c| c == '\n' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')));
    let first = text.split('\n').next().unwrap_or("");
    text.trim_end_matches('\n').contains('\n') && printable && !first.is_empty() && !first.starts_with(' ')
}

/// Whether no parser takes the bare text for anything but this text: letters first, no word of either YAML, no
/// punctuation that means something.
fn plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'/' | b'_'));
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'.' | b'=' | b'@' | b'+');
    // A colon or a space is harmless between two of the characters above.
    let middle = |(at, b): (usize, u8)| {
        let bytes = text.as_bytes();
        inner(b) || (matches!(b, b':' | b' ' | b',') && bytes.get(at + 1).is_some_and(|next| inner(*next)))
    };
    first && text.bytes().enumerate().all(middle) && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn is_what_older_parsers_misread_quoted() {
        for text in [
            "y",
            "On",
            "no",
            "NULL",
            "~",
            "0644",
            "1_000",
            "12:30",
            "2001-01-01",
            "=",
            "<<",
            "1e3",
            ".5",
            "",
            "-",
            "a: b",
            "a #b",
            "*x",
        ] {
            assert!(write(&text.into()).starts_with('"'), "{text}");
        }
        for text in ["app", "/bin/sh", "outrider:0.1.0", "spiffe://x/ns/a", "a b"] {
            assert_eq!(write(&text.into()), format!("{text}\n"));
        }
    }

    #[test]
    fn are_modes_and_truths_read_as_kubectl_reads_them() {
        let (value, _) = read("defaultMode: 0644\nreadOnly: yes\nvalue: '0644'\nother: 'yes'\n").unwrap();
        assert_eq!(write(&value), "defaultMode: 420\nreadOnly: true\nvalue: \"0644\"\nother: \"yes\"\n");
        assert!(read("1: x").unwrap().1.is_err() && read("a: !secret x").unwrap().1.is_err());
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["[ -~\n\t]{0,12}", "\\PC{0,6}", "[a-z]{1,3}\n[ a-z\n]{0,9}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Sequence),
                proptest::collection::vec(("[ -~]{0,6}", inner), 0..4).prop_map(|pairs| {
                    Value::Mapping(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn is_what_was_written_what_is_read(value in values()) {
            let text = write(&value);
            let again: Value = serde_yaml_ng::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(again, value, "{}", text);
        }
    }
}
