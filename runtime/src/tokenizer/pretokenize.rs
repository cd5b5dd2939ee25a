//! Cuts a text into the words that byte-pair merging works on, by the rules a vocabulary was trained with.
//!
//! The published rules end in `\s+(?!\S)|\s+`, which needs a look ahead. Here the pattern ends in `\s+` and the look
//! ahead is done by hand ([`Blanks`]), so that a plain automaton suffices: linear time on any text, no backtracking.

use super::TokenizerError;
use regex::Regex;

/// What to do with a run of whitespace that a word follows: leave its last character to the word.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blanks {
    /// The pattern has no whitespace rule.
    Keep,
    /// Every run.
    Shrink,
    /// Runs that do not end in a line break; those are matched by `\s*[\r\n]+` before.
    ShrinkUnlessBreak,
}

/// One pass over the pieces left by the pass before. What a pattern does not match stays a piece of its own.
#[derive(Clone, Copy, Debug)]
enum Pass {
    /// Each numeric character alone.
    Digits,
    Pattern(&'static str, Blanks),
}

/// Rules for the vocabularies of one family.
pub(super) struct Rules {
    /// Values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    passes: &'static [Pass],
    /// A word that is itself a token is taken as it is, without merging.
    pub whole_words: bool,
    /// Whether BOS is added where the file does not say.
    pub add_bos: bool,
}

const GPT2: Pass = Pass::Pattern(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Blanks::Shrink);

const LLAMA3: Pass = Pass::Pattern(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Blanks::ShrinkUnlessBreak,
);

const QWEN2: Pass = Pass::Pattern(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Blanks::ShrinkUnlessBreak,
);

const O200K: Pass = Pass::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
    ),
    Blanks::ShrinkUnlessBreak,
);

const TEKKEN: Pass = Pass::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
        r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
    ),
    Blanks::ShrinkUnlessBreak,
);

const DEEPSEEK3: Pass = Pass::Pattern(
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"
    ),
    Blanks::ShrinkUnlessBreak,
);

const fn plain(pattern: &'static str) -> Pass {
    Pass::Pattern(pattern, Blanks::Keep)
}

/// Every family, sorted by its first name. Names are those llama.cpp's converter writes.
static RULES: &[Rules] = &[
    Rules {
        names: &["deepseek-v3"],
        passes: &[plain(r"\p{N}{1,3}"), plain("[一-龥\u{3040}-ゟ゠-ヿ]+"), DEEPSEEK3],
        whole_words: false,
        add_bos: false,
    },
    Rules {
        names: &["default"],
        passes: &[plain(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, plain(r"\p{N}+"), plain("[0-9][0-9][0-9]")],
        whole_words: false,
        add_bos: false,
    },
    Rules { names: &["gpt-2", "gpt2", "mpt", "olmo", "phi-2"], passes: &[GPT2], whole_words: false, add_bos: false },
    Rules { names: &["gpt-4o", "llama4"], passes: &[O200K], whole_words: false, add_bos: false },
    Rules { names: &["llama-bpe", "llama-v3", "llama3"], passes: &[LLAMA3], whole_words: true, add_bos: true },
    Rules { names: &["deepseek-r1-qwen", "qwen2"], passes: &[QWEN2], whole_words: false, add_bos: false },
    Rules {
        names: &["smollm", "codeshell", "command-r", "refact", "starcoder"],
        passes: &[Pass::Digits, GPT2],
        whole_words: false,
        add_bos: false,
    },
    Rules { names: &["tekken"], passes: &[TEKKEN], whole_words: true, add_bos: true },
];

/// The rules of this name, as `tokenizer.ggml.pre` has it.
pub(super) fn rules(name: &str) -> Result<&'static Rules, TokenizerError> {
    RULES.iter().find(|rules| rules.names.contains(&name)).ok_or_else(|| {
        let mut names: Vec<&str> = RULES.iter().flat_map(|rules| rules.names).copied().collect();
        names.sort_unstable();
        TokenizerError::UnsupportedPreTokenizer { found: name.to_owned(), supported: names.join(", ") }
    })
}

/// Compiled rules.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    passes: Vec<Compiled>,
}

#[derive(Debug)]
enum Compiled {
    Digits,
    Pattern(Regex, Blanks),
}

impl PreTokenizer {
    pub fn new(rules: &Rules) -> Self {
        let compile = |pass: &Pass| match pass {
            Pass::Digits => Compiled::Digits,
            Pass::Pattern(pattern, blanks) => Compiled::Pattern(
                Regex::new(pattern).expect("every pattern of the table compiles: a test says so"),
                *blanks,
            ),
        };
        Self { passes: rules.passes.iter().map(compile).collect() }
    }

    /// Hands each word of `text` to `word`, in order; together they are the text.
    pub fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        pass(&self.passes, text, word);
    }
}

fn pass<'t>(passes: &[Compiled], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    match passes.split_first() {
        _ if text.is_empty() => {}
        None => word(text),
        Some((Compiled::Digits, rest)) => digits(text, &mut |piece| pass(rest, piece, word)),
        Some((Compiled::Pattern(regex, blanks), rest)) => {
            matches(regex, *blanks, text, &mut |piece| pass(rest, piece, word))
        }
    }
}

fn digits<'t>(text: &'t str, piece: &mut dyn FnMut(&'t str)) {
    let mut start = 0;
    for (at, digit) in text.char_indices().filter(|(_, character)| character.is_numeric()) {
        let end = at + digit.len_utf8();
        if start < at {
            piece(&text[start..at]);
        }
        piece(&text[at..end]);
        start = end;
    }
    piece(&text[start..]);
}

fn matches<'t>(regex: &Regex, blanks: Blanks, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
    let mut at = 0;
    while let Some(found) = regex.find_at(text, at) {
        if found.start() > at {
            piece(&text[at..found.start()]);
        }
        let end = found.start() + shrunk(blanks, found.as_str(), found.end() == text.len());
        piece(&text[found.start()..end]);
        at = end;
    }
    if at < text.len() {
        piece(&text[at..]);
    }
}

/// Length of a match after the look ahead.
fn shrunk(blanks: Blanks, found: &str, last: bool) -> usize {
    let Some(tail) = found.chars().next_back() else { return 0 };
    let keep = match blanks {
        Blanks::Keep => true,
        Blanks::Shrink => false,
        Blanks::ShrinkUnlessBreak => matches!(tail, '\r' | '\n'),
    };
    // Only the rule `\s+` matches whitespace alone, and it matches all there is: what follows is a word or nothing.
    let short = found.len() == tail.len_utf8();
    if keep || last || short || !found.starts_with(char::is_whitespace) || !tail.is_whitespace() {
        return found.len();
    }
    if found.chars().all(char::is_whitespace) { found.len() - tail.len_utf8() } else { found.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        PreTokenizer::new(rules(name).expect("a known name")).split(text, &mut |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn are_texts_cut_as_the_published_rules_say() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("gpt-2", "I'll  go 123\n\n now", &["I", "'ll", " ", " go", " 123", "\n\n", " now"]),
            ("gpt-2", "a \t b  ", &["a", " \t", " b", "  "]),
            ("smollm", "x  12 y", &["x", "  ", "1", "2", " y"]),
            ("llama-bpe", "DON'T 12345\n\n  x", &["DON", "'T", " ", "123", "45", "\n\n", " ", " x"]),
            ("llama-bpe", "a!!\nb", &["a", "!!\n", "b"]),
            ("qwen2", "12 é\u{301}", &["1", "2", " é", "\u{301}"]),
            ("default", "a1234, b", &["a", "123", "4", ",", " b"]),
        ];
        for (name, text, expected) in cases {
            assert_eq!(words(name, text), *expected, "{name}: {text:?}");
        }
    }

    #[test]
    fn does_every_pattern_compile() {
        RULES.iter().for_each(|rules| drop(PreTokenizer::new(rules)));
    }

    #[test]
    fn does_an_unknown_name_list_the_known_ones() {
        let error = rules("cleverbot").err().expect("unknown").to_string();
        assert!(error.contains("\"cleverbot\"") && error.contains("llama-bpe") && error.contains("smollm"), "{error}");
    }

    proptest! {
        // Each case compiles every pattern.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn do_the_words_make_up_the_text(text in "[ \\ta-c0-9é\n\r'!語]{0,40}") {
            for rules in RULES {
                prop_assert_eq!(words(rules.names[0], &text).concat(), text.clone(), "{}", rules.names[0]);
            }
        }
    }
}
