//! Is a sound file read as written, and every kind of damage refused with words and without a panic?

use super::testing::{Builder, Pair};
use super::*;
use crate::weights::ElementType;
use proptest::prelude::*;
use std::io::Write;

fn open(bytes: &[u8]) -> Result<Gguf, WeightsError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("written");
    Gguf::open(file.path())
}

fn sample() -> Builder {
    Builder::new("llama")
        .pair("llama.block_count", Pair::U32(2))
        .pair("llama.rope.freq_base", Pair::F32(1e4))
        .pair("flag", Pair::Bool(true))
        .pair("words", Pair::Strs(vec!["a".into(), "".into(), "é".into()]))
        .pair("numbers", Pair::I32s(vec![-1, 0, 7]))
        .pair("scores", Pair::F32s(vec![0.5]))
        .pair("nested", Pair::Nested(vec![vec![1, 2], vec![], vec![3]]))
        .zeros("token_embd.weight", ElementType::Q8_0, &[64, 5])
        .zeros("output_norm.weight", ElementType::F32, &[64])
        .zeros("conv", ElementType::F16, &[3, 4, 5])
}

/// Reads everything there is to read.
fn read_all(gguf: &Gguf) {
    let metadata = gguf.metadata();
    for key in metadata.keys() {
        let _ = (metadata.str(key), metadata.number(key), metadata.strings(key), metadata.numbers(key));
    }
    for tensor in gguf.tensors() {
        let blocks = tensor.bytes.len() / tensor.element.block_bytes();
        let mut out = vec![0.0; blocks * tensor.element.block_elements()];
        tensor.element.decode(tensor.bytes, &mut out);
    }
}

#[test]
fn is_a_sound_file_read_as_written() {
    let gguf = open(&sample().bytes()).expect("sound");
    let metadata = gguf.metadata();
    assert_eq!(gguf.version(), 3);
    assert_eq!(metadata.str("general.architecture"), Ok(Some("llama")));
    assert_eq!(metadata.u64("llama.block_count"), Ok(Some(2)));
    assert_eq!(metadata.f64("llama.rope.freq_base"), Ok(Some(1e4)));
    assert_eq!(metadata.bool("flag"), Ok(Some(true)));
    assert_eq!(metadata.strings("words"), Ok(Some(vec!["a", "", "é"])));
    let numbers = vec![Number::Signed(-1), Number::Signed(0), Number::Signed(7)];
    assert_eq!(metadata.numbers("numbers"), Ok(Some(numbers)));
    assert_eq!(metadata.str("absent"), Ok(None));
    let shape = |name: &str| gguf.tensor(name).map(|t| (t.element, t.rows, t.cols, t.bytes.len())).expect(name);
    assert_eq!(shape("token_embd.weight"), (ElementType::Q8_0, 5, 64, 340));
    assert_eq!(shape("output_norm.weight"), (ElementType::F32, 1, 64, 256));
    assert_eq!(shape("conv"), (ElementType::F16, 20, 3, 120));
    assert_eq!(gguf.tensors().count(), 3);
}

#[test]
fn does_an_ill_typed_key_say_what_it_is() {
    let gguf = open(&sample().bytes()).expect("sound");
    let reason = |result: Result<(), WrongType>| result.expect_err("ill-typed").reason;
    assert_eq!(reason(gguf.metadata().str("flag").map(drop)), "is of type bool, not a string");
    assert_eq!(reason(gguf.metadata().u64("words").map(drop)), "is of type array, not a number");
    assert_eq!(reason(gguf.metadata().strings("numbers").map(drop)), "is of type i32, not an array of strings");
    assert_eq!(reason(gguf.metadata().numbers("nested").map(drop)), "is of type array, not an array of numbers");
}

#[test]
fn is_a_cut_file_refused_at_every_byte() {
    let bytes = sample().bytes();
    for end in 0..bytes.len() {
        let error = open(&bytes[..end]).err().unwrap_or_else(|| panic!("cut at {end} of {} was read", bytes.len()));
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn does_each_kind_of_damage_get_its_own_words() {
    let spoil = |spoil: fn(&mut Builder)| {
        let mut builder = sample();
        spoil(&mut builder);
        open(&builder.bytes()).expect_err("spoilt").to_string()
    };
    let cases: [(String, &[&str]); 13] = [
        (spoil(|b| b.version = 1), &["GGUF version 1", "supported are 2 and 3"]),
        (spoil(|b| b.version = 3u32.swap_bytes()), &["big-endian"]),
        (spoil(|b| b.tensors[1].kind = 23), &["output_norm.weight", "IQ4_XS", "F32, F16, BF16, Q4_0", "Q6_K"]),
        (spoil(|b| b.tensors[1].kind = 999), &["output_norm.weight", "ggml type 999"]),
        (spoil(|b| b.tensors[1].offset = Some(33)), &["output_norm.weight", "at byte", "not aligned to 32"]),
        (spoil(|b| b.tensors[2].offset = Some(1 << 20)), &["conv", "at byte", "truncated"]),
        (spoil(|b| b.tensors[2].offset = Some(u64::MAX - 31)), &["conv", "overflows"]),
        (spoil(|b| b.tensors[2].dims = vec![1, 2, 3, 4, 5]), &["conv", "5 dimensions"]),
        (spoil(|b| b.tensors[2].dims = vec![1 << 40; 2]), &["conv", "overflows"]),
        (spoil(|b| b.tensors[2].dims = vec![3, 0]), &["conv", "extent 1 is zero"]),
        (spoil(|b| b.tensors[0].dims = vec![33, 5]), &["token_embd.weight", "33 elements are not whole blocks of 32"]),
        (spoil(|b| b.tensors[2].name = "token_embd.weight".into()), &["token_embd.weight", "appears twice"]),
        (spoil(|b| b.pairs.push(("flag".into(), Pair::U32(1)))), &["\"flag\" appears twice"]),
    ];
    for (error, words) in cases {
        for word in words {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
    }
}

#[test]
fn is_text_that_is_no_utf8_refused_where_it_lies() {
    let mut bytes = sample().bytes();
    let at = bytes.windows(5).position(|w| w == b"llama").expect("the architecture's name");
    bytes[at] = 0xff;
    let gguf = open(&bytes).expect("values are checked when they are asked for");
    let error = gguf.metadata().str("general.architecture").expect_err("no UTF-8");
    assert_eq!(error.reason, format!("byte {at}: general.architecture is not UTF-8"));
    let at = bytes.windows(5).position(|w| w == b"words").expect("a key");
    bytes[at] = 0xff;
    let error = open(&bytes).expect_err("a key that is no UTF-8").to_string();
    assert!(error.contains(&format!("byte {at}")) && error.contains("is not UTF-8"), "{error}");
}

#[test]
fn are_huge_counts_refused_before_anything_is_allocated() {
    let sound = sample().bytes();
    for (at, what) in [(8, "number of tensors"), (16, "number of metadata pairs")] {
        for count in [u64::MAX, u64::MAX / 24, 1 << 40, 1 << 20] {
            let mut bytes = sound.clone();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = open(&bytes).expect_err("a huge count").to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

#[test]
fn does_an_odd_alignment_get_refused() {
    for (alignment, sound) in [(32, true), (0, false), (48, false), (1 << 30, false)] {
        let builder = Builder::new("llama").pair("general.alignment", Pair::U32(alignment));
        assert_eq!(open(&builder.bytes()).is_ok(), sound, "{alignment}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn does_any_flipped_byte_pass_without_a_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sample().bytes();
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(gguf) = open(&bytes) {
            read_all(&gguf);
        }
    }

    #[test]
    fn do_random_bytes_pass_without_a_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tail);
        if let Ok(gguf) = open(&bytes) {
            read_all(&gguf);
        }
    }
}
