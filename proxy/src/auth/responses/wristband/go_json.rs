//! JSON byte for byte as Go's `encoding/json` writes what it read as `any`: a digest of it must be Authorino's.
//!
//! Keys sorted, numbers as `float64`, what HTML would mind escaped.

use serde_json::Value;

pub fn marshal(value: &Value) -> String {
    let mut out = String::new();
    push(value, &mut out);
    out
}

fn push(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => push_number(number.as_f64().unwrap_or_default(), out),
        Value::String(text) => push_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_text(name, out);
                out.push(':');
                push(value, out);
            }
            out.push('}');
        }
    }
}

/// As ECMAScript writes numbers.
fn push_number(number: f64, out: &mut String) {
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{number:e}");
        out.push_str(&if text.contains("e-") { text } else { text.replace('e', "e+") });
    } else {
        out.push_str(&number.to_string());
    }
}

fn push_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn is_it_written_as_go_writes_it() {
        // The right sides are what `json.Marshal` documents for each left side read into `any`.
        for (value, expected) in [
            (json!({"b": 1, "a": [true, null, "x"]}), r#"{"a":[true,null,"x"],"b":1}"#),
            (json!(1_700_000_000), "1700000000"),
            (json!(12_345_678_901_234_567_890_u64), "12345678901234567000"),
            (json!(1.5), "1.5"),
            (json!(1e21), "1e+21"),
            (json!(2.5e-7), "2.5e-7"),
            (json!(0.000_001), "0.000001"),
            (json!(-0.0), "-0"),
            (
                json!("<a href=\"x\">&\u{2028}\u{1}\u{8}\n\u{e9}"),
                "\"\\u003ca href=\\\"x\\\"\\u003e\\u0026\\u2028\\u0001\\b\\n\u{e9}\"",
            ),
        ] {
            assert_eq!(marshal(&value), expected);
        }
    }
}
