//! The knobs of generation that dialects share by name (those of OpenAI's API, and vLLM's additions to it).
//!
//! Never sets a default: an absent knob is left to the worker.

use crate::dialects::common::fields::{Fields, small, whole};
use crate::error::Error;
use outrider_protos::worker::v1 as worker;
use serde_json::Value;

/// As `worker.proto` bounds them.
const STOPS_MAX: usize = 64;
const STOP_BYTES_MAX: usize = 1024;
const STOP_IDS_MAX: usize = 1024;
const BIASES_MAX: usize = 65_536;
/// Widest range that keeps penalties finite in f32.
const REPETITION_MAX: f64 = 1e6;

/// How to choose each token.
///
/// # Errors
/// [`Error::Invalid`] naming the knob and its range.
pub fn sampling(fields: &Fields<'_>) -> Result<worker::Sampling, Error> {
    let unit = |name| fields.number(name, 0.0..=1.0);
    let penalty = |name| fields.number(name, -2.0..=2.0).map(|value| value.unwrap_or(0.0) as f32);
    let top_p = unit("top_p")?;
    if top_p == Some(0.0) {
        return Err(
            fields.refuse("top_p", "must be greater than 0; for the likeliest token only, set temperature to 0")
        );
    }
    let repetition = fields.number("repetition_penalty", 0.0..=REPETITION_MAX)?;
    if repetition.is_some_and(|value| (value as f32) < f32::MIN_POSITIVE) {
        return Err(fields.refuse("repetition_penalty", "must be greater than 0"));
    }
    Ok(worker::Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.map(|value| value as f32),
        // −1 is vLLM's older word for "all".
        top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?.map_or(0, |value| value.max(0) as u32),
        // The smallest f64 round to 0 in f32, which would mean no token at all.
        top_p: top_p.map(|value| (value as f32).max(f32::MIN_POSITIVE)),
        min_p: unit("min_p")?.unwrap_or(0.0) as f32,
        repetition_penalty: repetition.map(|value| value as f32),
        presence_penalty: penalty("presence_penalty")?,
        frequency_penalty: penalty("frequency_penalty")?,
        logit_bias: logit_bias(fields)?,
        seed: seed(fields)?,
    })
}

fn seed(fields: &Fields<'_>) -> Result<Option<u64>, Error> {
    // The whole range of 64 bits, signed or not: callers hash things into it.
    if let Some(seed) = fields.get("seed").and_then(Value::as_u64) {
        return Ok(Some(seed));
    }
    Ok(fields.integer("seed", i64::MIN..=i64::MAX - 1)?.map(|value| value as u64))
}

fn logit_bias(fields: &Fields<'_>) -> Result<std::collections::HashMap<u32, f32>, Error> {
    let Some(biases) = fields.fields("logit_bias")? else { return Ok(Default::default()) };
    let mut map = std::collections::HashMap::new();
    for (id, _) in biases.iter() {
        if map.len() == BIASES_MAX {
            return Err(fields.refuse("logit_bias", &format!("may hold at most {BIASES_MAX} tokens")));
        }
        let Ok(token) = id.parse::<u32>() else {
            return Err(fields.refuse("logit_bias", "must have token ids as keys, for example {\"50256\": -100}"));
        };
        if let Some(bias) = biases.number(id, -100.0..=100.0)? {
            map.insert(token, bias as f32);
        }
    }
    Ok(map)
}

/// When to stop; `max_tokens` is the dialect's own affair, for its name and default differ.
///
/// # Errors
/// [`Error::Invalid`] naming the knob and its limits.
pub fn stopping(fields: &Fields<'_>, max_tokens: Option<u32>) -> Result<worker::Stopping, Error> {
    let min_tokens = fields.integer("min_tokens", 0..=i64::from(u32::MAX))?.unwrap_or(0) as u32;
    if max_tokens.is_some_and(|max| min_tokens > max) {
        return Err(fields.refuse("min_tokens", "must not be greater than the maximum of tokens"));
    }
    Ok(worker::Stopping {
        max_tokens,
        min_tokens,
        stop: stop(fields)?,
        stop_token_ids: stop_token_ids(fields)?,
        ignore_eos: fields.flag("ignore_eos")?,
        include_stop_string: fields.flag("include_stop_str_in_output")?,
    })
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, Error> {
    const WANTED: &str = "a string or an array of strings";
    let parsed;
    let items: &[Value] = match fields.get("stop") {
        None => &[],
        Some(Value::Array(items)) => items,
        // A parameter that can only be a string carries a list as JSON text.
        Some(Value::String(text)) if fields.takes_texts() && text.trim_start().starts_with('[') => {
            parsed = serde_json::from_str::<Vec<Value>>(text).unwrap_or_else(|_| vec![Value::String(text.clone())]);
            &parsed
        }
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(_) => return Err(fields.wrong("stop", WANTED)),
    };
    if items.len() > STOPS_MAX {
        return Err(fields.refuse("stop", &format!("may hold at most {STOPS_MAX} strings")));
    }
    let check = |item: &Value| match item {
        Value::String(text) if text.is_empty() => Err(fields.refuse("stop", "must not contain an empty string")),
        Value::String(text) if text.len() > STOP_BYTES_MAX => {
            Err(fields.refuse("stop", &format!("may hold strings of at most {STOP_BYTES_MAX} bytes")))
        }
        Value::String(text) => Ok(text.clone()),
        _ => Err(fields.wrong("stop", WANTED)),
    };
    items.iter().map(check).collect()
}

fn stop_token_ids(fields: &Fields<'_>) -> Result<Vec<u32>, Error> {
    let items = fields.array("stop_token_ids")?.unwrap_or_default();
    if items.len() > STOP_IDS_MAX {
        return Err(fields.refuse("stop_token_ids", &format!("may hold at most {STOP_IDS_MAX} ids")));
    }
    let ids = items.iter().map(small).collect::<Option<Vec<u32>>>();
    ids.ok_or_else(|| fields.wrong("stop_token_ids", "an array of token ids"))
}

/// Token ids given instead of text.
///
/// # Errors
/// [`Error::Invalid`] at the path `at`.
pub fn token_ids(items: &[Value], at: &str) -> Result<worker::TokenIds, Error> {
    let id = |(place, item): (usize, &Value)| {
        small(item).ok_or_else(|| {
            let at = format!("{at}[{place}]");
            let got =
                whole(item).map_or_else(|| crate::dialects::common::fields::kind(item), |number| number.to_string());
            Error::invalid_param(at.clone(), format!("`{at}` must be a token id, got {got}"))
        })
    };
    Ok(worker::TokenIds { ids: items.iter().enumerate().map(id).collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value, lenient: bool) -> Result<(worker::Sampling, worker::Stopping), Error> {
        let fields = Fields::new(value.as_object().expect("tests give objects"));
        let fields = if lenient { fields.texts_count() } else { fields };
        Ok((sampling(&fields)?, stopping(&fields, Some(100))?))
    }

    #[test]
    fn which_knobs_are_refused() {
        let table = [
            (json!({"temperature": 2.1}), "temperature"),
            (json!({"temperature": -0.1}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"top_p": 1.01}), "top_p"),
            (json!({"top_k": -2}), "top_k"),
            (json!({"min_p": 2}), "min_p"),
            (json!({"repetition_penalty": 0}), "repetition_penalty"),
            (json!({"repetition_penalty": 1e-300}), "repetition_penalty"),
            (json!({"presence_penalty": 3}), "presence_penalty"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias"),
            (json!({"logit_bias": {"1": 101}}), "logit_bias.1"),
            (json!({"logit_bias": []}), "logit_bias"),
            (json!({"seed": "x"}), "seed"),
            (json!({"min_tokens": 101}), "min_tokens"),
            (json!({"stop": ""}), "stop"),
            (json!({"stop": ["a", 1]}), "stop"),
            (json!({"stop": vec!["a"; 65]}), "stop"),
            (json!({"stop": "a".repeat(1025)}), "stop"),
            (json!({"stop_token_ids": [-1]}), "stop_token_ids"),
        ];
        for (value, param) in table {
            let verdict = read(value.clone(), false).expect_err(&value.to_string()).verdict();
            assert_eq!((verdict.status, verdict.param.as_deref()), (400, Some(param)), "{value}");
        }
    }

    #[test]
    fn are_knobs_read_from_strings_as_from_numbers() {
        let plain = json!({"temperature": 0.5, "top_k": 3, "seed": 7, "stop": ["a", "b"], "ignore_eos": true});
        let texts =
            json!({"temperature": "0.5", "top_k": "3", "seed": "7", "stop": "[\"a\", \"b\"]", "ignore_eos": "true"});
        assert_eq!(read(plain, false).expect("valid"), read(texts, true).expect("valid"));
    }

    #[test]
    fn does_a_seed_keep_all_its_bits() {
        let seed =
            |value: Value| read(json!({"seed": value}), false).map(|(sampling, _)| sampling.seed).expect("valid");
        assert_eq!(seed(json!(u64::MAX)), Some(u64::MAX));
        assert_eq!(seed(json!(-1)), Some(u64::MAX));
        assert_eq!(seed(json!(42)), Some(42));
    }
}
