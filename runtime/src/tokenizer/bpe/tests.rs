//! Do merges apply in the published order, and do damaged vocabularies get refused?

use super::*;
use crate::tokenizer::{Tokenizer, Vocabulary};
use crate::weights::gguf::testing::{Builder, Pair};
use proptest::prelude::*;

/// The character of each byte.
fn alphabet() -> Vec<String> {
    let mut characters = vec![String::new(); 256];
    for character in (0..0x200).filter_map(char::from_u32) {
        if let Some(byte) = byte_of(character) {
            characters[byte as usize] = character.to_string();
        }
    }
    characters
}

const MERGES: &[&str] = &["a b", "b c", "ab c", "Ġ ab", "a a", "aa aa", "c a", "Ġab c"];

fn builder(merges: &[&str]) -> Builder {
    let mut tokens = alphabet();
    tokens.extend(merges.iter().map(|merge| merge.replacen(' ', "", 1)));
    let mut types = vec![1; tokens.len()];
    tokens.push("<|end|>".into());
    types.push(3);
    Builder::new("llama")
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "smollm")
        .pair("tokenizer.ggml.tokens", Pair::Strs(tokens))
        .pair("tokenizer.ggml.token_type", Pair::I32s(types))
        .pair("tokenizer.ggml.merges", Pair::Strs(merges.iter().map(|merge| (*merge).to_owned()).collect()))
        .pair("tokenizer.ggml.eos_token_id", Pair::U32(256 + merges.len() as u32))
}

fn open(builder: &Builder) -> Result<Tokenizer, TokenizerError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("t.gguf");
    std::fs::write(&path, builder.bytes()).expect("written");
    Tokenizer::from_gguf(&Gguf::open(&path).expect("a sound file"))
}

fn replaced(key: &str, value: Pair) -> Builder {
    let mut builder = builder(MERGES);
    builder.pairs.retain(|pair| pair.0 != key);
    builder.pair(key, value)
}

#[test]
fn are_merges_applied_in_order_of_rank_and_then_from_the_left() {
    let tokenizer = open(&builder(MERGES)).expect("sound");
    let text = |text: &str| {
        let ids = tokenizer.encode(text, false).expect("any text");
        ids.iter().map(|id| String::from_utf8_lossy(tokenizer.token_bytes(*id)).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(text("abc"), ["abc"]);
    assert_eq!(text(" abc"), [" abc"]);
    assert_eq!(text("aaaaa"), ["aaaa", "a"]);
    assert_eq!(text("aab"), ["a", "ab"]);
    assert_eq!(text("a1b"), ["a", "1", "b"]);
}

#[test]
fn are_control_tokens_ids_but_no_bytes() {
    let tokenizer = open(&builder(MERGES)).expect("sound");
    let end = 256 + MERGES.len() as u32;
    assert_eq!(tokenizer.encode("abc<|end|>", false).expect("any text"), [258, end]);
    let plain = EncodeOptions { add_special: false, parse_special: false };
    assert!(!tokenizer.encode_with("<|end|>", plain).expect("any text").contains(&end));
    assert_eq!(tokenizer.token_bytes(end), b"");
    assert_eq!(tokenizer.decode(&[258, end], false).expect("known ids"), "abc<|end|>");
    assert_eq!(tokenizer.decode(&[258, end], true).expect("known ids"), "abc");
    assert!(matches!(tokenizer.decode(&[end + 1], true), Err(TokenizerError::UnknownId { .. })));
}

#[test]
fn are_tokens_put_around_where_the_file_says_so() {
    let around = builder(MERGES)
        .pair("tokenizer.ggml.add_bos_token", Pair::Bool(true))
        .pair("tokenizer.ggml.add_eos_token", Pair::Bool(true))
        .pair("tokenizer.ggml.bos_token_id", Pair::U32(0));
    let tokenizer = open(&around).expect("sound");
    let end = 256 + MERGES.len() as u32;
    assert_eq!(tokenizer.encode("abc", true).expect("any text"), [0, 258, end]);
    assert_eq!(tokenizer.encode("abc", false).expect("any text"), [258]);
    assert_eq!(tokenizer.encode_within("1234567", 4).expect("any text"), [0, 49, 50, end]);
}

#[test]
fn does_each_kind_of_damage_get_its_own_words() {
    let ids = "tokenizer.ggml.eos_token_id";
    let cases = [
        (replaced("tokenizer.ggml.tokens", Pair::Strs(vec![])), "it has 0 tokens"),
        (replaced("tokenizer.ggml.tokens", Pair::U32(1)), "tokenizer.ggml.tokens: is of type u32"),
        (replaced("tokenizer.ggml.token_type", Pair::I32s(vec![1])), "265 tokens have 1 types"),
        (replaced("tokenizer.ggml.merges", Pair::Strs(vec!["ab".into()])), "merge 0 is not two tokens"),
        (replaced("tokenizer.ggml.pre", Pair::Str("x".into())), "pre-tokenizer \"x\" is not supported; supported are"),
        (replaced("tokenizer.ggml.model", Pair::Str("bert".into())), "\"bert\" is not supported; supported are gpt2"),
        (replaced(ids, Pair::U32(999)), "the eos id 999 is not in it"),
    ];
    for (builder, words) in cases {
        let error = open(&builder).expect_err(words).to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

proptest! {
    #[test]
    fn do_scan_and_heap_agree(word in "[abc ]{1,60}") {
        let tokenizer = open(&builder(MERGES)).expect("sound");
        let super::super::Kind::Bpe(bpe) = &tokenizer.kind else { unreachable!("made from gpt2") };
        let bytes: Vec<u32> = word.bytes().map(u32::from).collect();
        let mut scanned = bytes.clone();
        bpe.merge_by_scan(&mut scanned, 0);
        prop_assert_eq!(bpe.merge_by_heap(&bytes), scanned);
    }

    #[test]
    fn is_every_text_told_back(text in any::<String>()) {
        let tokenizer = open(&builder(MERGES)).expect("sound");
        let ids = tokenizer.encode(&text, false).expect("any text");
        prop_assert_eq!(tokenizer.decode(&ids, false).expect("known ids"), text);
    }
}
