//! Log-probabilities in the API's two shapes. Pure functions of the worker's tokens.

use crate::dialects::openai::wire::{ChatLogprobs, ChatToken, ChatTop, TextLogprobs};
use outrider_protos::worker::v1 as worker;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the API writes for "next to impossible"; JSON has no −∞.
const LEAST: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    // `max` also takes the other side of a NaN.
    logprob.max(LEAST)
}

/// For chat: the token's text as good as it gets, and its bytes for those who want them whole.
pub fn chat(tokens: &[worker::Token]) -> ChatLogprobs {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let top = |top: &worker::TopToken| ChatTop {
        token: lossy(&top.bytes),
        logprob: finite(top.logprob),
        bytes: top.bytes.to_vec(),
    };
    let token = |token: &worker::Token| ChatToken {
        token: lossy(&token.bytes),
        logprob: finite(token.logprob.unwrap_or(LEAST)),
        bytes: token.bytes.to_vec(),
        top_logprobs: token.top.iter().map(top).collect(),
    };
    ChatLogprobs { content: tokens.iter().map(token).collect(), refusal: None }
}

/// For completions: parallel lists; `offset` counts the characters of text so far, and is moved on.
pub fn text(tokens: &[worker::Token], offset: &mut usize) -> TextLogprobs {
    let mut lists = TextLogprobs { tokens: vec![], token_logprobs: vec![], top_logprobs: vec![], text_offset: vec![] };
    for token in tokens {
        lists.tokens.push(spell(&token.bytes));
        lists.token_logprobs.push(token.logprob.map(finite));
        lists.top_logprobs.push(token.logprob.map(|logprob| {
            let mut top: BTreeMap<_, _> =
                token.top.iter().map(|top| (spell(&top.bytes), finite(top.logprob))).collect();
            // The chosen token is always among them, even if it was none of the likeliest.
            top.entry(spell(&token.bytes)).or_insert(finite(logprob));
            top
        }));
        lists.text_offset.push(*offset);
        // A character cut into several tokens counts where it begins.
        *offset += token.bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
    }
    lists
}

/// A token that is no whole UTF-8 is spelled `bytes:\xe2\x80`, so that different tokens stay different keys.
fn spell(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold(String::from("bytes:"), |mut out, byte| {
            write!(out, "\\x{byte:02x}").expect("writing to a string cannot fail");
            out
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn do_offsets_count_characters_and_cut_tokens_stay_apart() {
        let token =
            |bytes: &'static [u8], logprob| worker::Token { bytes: bytes.into(), logprob, ..Default::default() };
        let tokens = [
            token("é".as_bytes(), None),
            token(b"\xf0\x9f", Some(-1.0)),
            token(b"\x98\x80", Some(f32::NEG_INFINITY)),
            token(b"a", Some(-0.5)),
        ];
        let mut offset = 0;
        let lists = text(&tokens, &mut offset);
        assert_eq!(lists.text_offset, [0, 1, 2, 2]);
        assert_eq!(offset, 3);
        assert_eq!(lists.tokens, ["é", "bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "a"]);
        assert_eq!(lists.token_logprobs, [None, Some(-1.0), Some(LEAST), Some(-0.5)]);
        assert!(lists.top_logprobs[0].is_none());
        assert_eq!(lists.top_logprobs[3].as_ref().expect("it has one")["a"], -0.5);
    }
}
