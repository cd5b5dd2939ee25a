//! Finds tokens that are written out in a text, such as `<|im_start|>`.
//!
//! Control tokens are recognised only where the caller allows it: in text that a user wrote they are plain characters.

use super::TokenizerError;
use aho_corasick::{AhoCorasick, MatchKind};

/// What a vocabulary says of one of its tokens (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    /// Always one token where it is written out.
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    pub fn from_ggml(number: i64) -> Kind {
        match number {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }

    /// Whether the token adds nothing to a text.
    pub fn is_silent(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown)
    }
}

/// A stretch of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment<'t> {
    Text(&'t str),
    Token(u32),
}

/// Searches for written-out tokens; of several at one place it takes the longest.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Control and user-defined tokens.
    all: Option<(AhoCorasick, Vec<u32>)>,
    /// User-defined ones only.
    user_defined: Option<(AhoCorasick, Vec<u32>)>,
}

impl SpecialTokens {
    /// `tokens` are the texts and ids of control and user-defined tokens.
    pub fn new(tokens: &[(&str, u32, Kind)]) -> Result<Self, TokenizerError> {
        let search = |wanted: &dyn Fn(Kind) -> bool| {
            let tokens = tokens.iter().filter(|(text, _, kind)| !text.is_empty() && wanted(*kind));
            let (texts, ids): (Vec<&str>, Vec<u32>) = tokens.map(|(text, id, _)| (*text, *id)).unzip();
            if ids.is_empty() {
                return Ok(None);
            }
            let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
            let damaged = |reason: String| TokenizerError::Damaged { part: "special tokens", reason };
            automaton.map(|automaton| Some((automaton, ids))).map_err(|error| damaged(error.to_string()))
        };
        let user_defined = |kind| kind == Kind::UserDefined;
        let either = |kind| kind == Kind::Control || user_defined(kind);
        Ok(Self { all: search(&either)?, user_defined: search(&user_defined)? })
    }

    /// Cuts a text at its written-out tokens; control tokens count only with `parse_special`.
    pub fn split<'t>(&self, text: &'t str, parse_special: bool, segment: &mut dyn FnMut(Segment<'t>)) {
        let search = if parse_special { &self.all } else { &self.user_defined };
        let mut at = 0;
        if let Some((automaton, ids)) = search {
            for found in automaton.find_iter(text) {
                if at < found.start() {
                    segment(Segment::Text(&text[at..found.start()]));
                }
                segment(Segment::Token(ids[found.pattern().as_usize()]));
                at = found.end();
            }
        }
        if at < text.len() {
            segment(Segment::Text(&text[at..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_control_tokens_found_only_where_allowed() {
        let tokens = [("<|a|>", 7, Kind::Control), ("<|a|>>", 8, Kind::Control), ("<tab>", 9, Kind::UserDefined)];
        let special = SpecialTokens::new(&tokens).expect("small");
        let split = |text, parse| {
            let mut segments = Vec::new();
            special.split(text, parse, &mut |segment| segments.push(segment));
            segments
        };
        use Segment::{Text, Token};
        assert_eq!(split("x<|a|>>y<tab>", true), [Text("x"), Token(8), Text("y"), Token(9)]);
        assert_eq!(split("x<|a|>y<tab>", false), [Text("x<|a|>y"), Token(9)]);
        assert_eq!(split("", true), []);
    }
}
