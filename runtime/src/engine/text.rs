//! Token bytes to text: whole characters only, and never the start of a stop string.
//!
//! The text of an answer is its tokens' bytes put together and read as UTF-8, with U+FFFD for what is none, up to the
//! first place where a stop string is complete. What comes out, piece by piece, is exactly that, however the bytes are
//! cut into tokens. Never knows an id.

use super::stops::{StopMatcher, Stops};

/// Assembles the text of one choice.
#[derive(Clone, Debug)]
pub struct Text {
    /// The start of a character whose other bytes have not come; at most three.
    partial: Vec<u8>,
    /// Text that may be the start of a stop string.
    held: String,
    matcher: StopMatcher,
    /// The answer keeps the stop string.
    include_stop: bool,
}

/// What a piece of the answer led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Text that can be handed out.
    pub text: String,
    /// The stop string that ends the answer here.
    pub stop: Option<String>,
}

impl Text {
    pub fn new(stops: Stops, include_stop: bool) -> Text {
        Text { partial: Vec::new(), held: String::new(), matcher: StopMatcher::new(stops), include_stop }
    }

    /// Takes a token's bytes. With `may_stop` false a complete stop string is text like any other.
    pub fn push(&mut self, bytes: &[u8], may_stop: bool) -> Piece {
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let mut chunks = joined.utf8_chunks().peekable();
        let mut stop = None;
        while let Some(chunk) = chunks.next() {
            let invalid = chunk.invalid();
            stop = self.feed(chunk.valid(), may_stop);
            if stop.is_none() && !invalid.is_empty() {
                // At the very end these may be the first bytes of a character, unless no byte could complete it.
                if chunks.peek().is_none() && may_continue(invalid) {
                    self.partial = invalid.to_vec();
                } else {
                    stop = self.feed("\u{FFFD}", may_stop);
                }
            }
            if stop.is_some() {
                break;
            }
        }
        self.give(stop)
    }

    /// The answer ends here: what was held back comes out, and a character that was cut short as U+FFFD.
    pub fn finish(&mut self, may_stop: bool) -> Piece {
        let stop = match std::mem::take(&mut self.partial).is_empty() {
            true => None,
            false => self.feed("\u{FFFD}", may_stop),
        };
        let mut piece = self.give(stop);
        piece.text.push_str(&std::mem::take(&mut self.held));
        piece
    }

    /// Adds characters to `held`. On a match `held` is cut, and the index of the stop string returned.
    fn feed(&mut self, text: &str, may_stop: bool) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            let Some(index) = self.matcher.push(byte).filter(|_| may_stop) else { continue };
            self.held.push_str(&text[..=at]);
            if !self.include_stop {
                self.held.truncate(self.held.len() - self.matcher.length(index));
            }
            return Some(index);
        }
        self.held.push_str(text);
        None
    }

    fn give(&mut self, stop: Option<usize>) -> Piece {
        if let Some(index) = stop {
            self.partial.clear();
            return Piece { text: std::mem::take(&mut self.held), stop: Some(self.matcher.string(index)) };
        }
        let kept = self.held.split_off(self.held.len() - self.matcher.held());
        Piece { text: std::mem::replace(&mut self.held, kept), stop: None }
    }
}

/// Whether bytes that are no whole character may become one: so says the decoder, by not naming an error length.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Bytes as text, all at once.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same on the whole string: the stop string that is complete first, of several the longest.
    fn oracle(bytes: &[u8], stops: &[String], include: bool) -> (String, Option<String>) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        for end in 1..=text.len() {
            let ending = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                let cut = if include { end } else { end - stop.len() };
                return (text[..cut].to_string(), Some(stop.clone()));
            }
        }
        (text, None)
    }

    fn run(tokens: &[&[u8]], stops: &[String], include: bool) -> (Vec<String>, Option<String>) {
        let mut text = Text::new(Stops::new(stops), include);
        let mut pieces = Vec::new();
        for token in tokens {
            let piece = text.push(token, true);
            pieces.push(piece.text);
            if piece.stop.is_some() {
                return (pieces, piece.stop);
            }
        }
        let piece = text.finish(true);
        pieces.push(piece.text);
        (pieces, piece.stop)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn when_does_text_come_out() {
        let smile = "😀".as_bytes();
        let (pieces, _) = run(&[b"a", &smile[..2], &smile[2..], b"b"], &[], false);
        assert_eq!(pieces, ["a", "", "😀", "b", ""]);
        // A byte that can begin nothing is replaced at once; a cut character only when that is proven.
        let (pieces, _) = run(&[b"\xff", b"\xe2\x82", b"x", b"\xe2"], &[], false);
        assert_eq!(pieces, ["\u{FFFD}", "", "\u{FFFD}x", "", "\u{FFFD}"]);
        let (pieces, stop) = run(&[b"one ", b"EN", b"E", b"ND", b"x"], &strings(&["END"]), false);
        assert_eq!((pieces, stop), (strings(&["one ", "", "EN", ""]), Some("END".into())));
    }

    #[test]
    fn is_a_stop_string_kept_when_asked_for() {
        let (pieces, stop) = run(&[b"say sto", b"p now"], &strings(&["stop"]), true);
        assert_eq!((pieces.concat(), stop), ("say stop".into(), Some("stop".into())));
    }

    #[test]
    fn is_a_stop_string_passed_over_before_its_time() {
        let mut text = Text::new(Stops::new(&strings(&["aa"])), false);
        assert_eq!(text.push(b"aa", false), Piece { text: "a".into(), stop: None });
        assert_eq!(text.push(b"a", true), Piece { text: "".into(), stop: Some("aa".into()) });
    }

    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            8 => prop::sample::select(b"ab".to_vec()),
            4 => prop::sample::select("é€😀\u{FFFD}".as_bytes().to_vec()),
            1 => any::<u8>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn is_the_text_the_same_however_it_is_cut(
            bytes in proptest::collection::vec(byte(), 0..60),
            cuts in proptest::collection::vec(0usize..60, 0..30),
            stops in proptest::collection::vec("[abé€😀\u{FFFD}]{1,4}", 0..4),
            include in any::<bool>(),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let tokens: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (pieces, stop) = run(&tokens, &stops, include);
            let (expected, expected_stop) = oracle(&bytes, &stops, include);
            prop_assert_eq!(pieces.concat(), expected);
            prop_assert_eq!(stop, expected_stop);
        }

        /// Nothing that came out can be the start of a stop string that a later byte completes.
        #[test]
        fn is_text_given_as_soon_as_it_may_be(bytes in proptest::collection::vec(byte(), 0..40)) {
            let stops = strings(&["aba", "bb"]);
            let mut text = Text::new(Stops::new(&stops), false);
            let mut out = String::new();
            for end in 1..=bytes.len() {
                let piece = text.push(&bytes[end - 1..end], true);
                out.push_str(&piece.text);
                if piece.stop.is_some() {
                    break;
                }
                let whole = format!("{out}{}", text.held);
                let longest = (0..=2).rev().find(|n| stops.iter().any(|s| {
                    *n < s.len() && whole.ends_with(&s[..*n])
                }));
                prop_assert_eq!(text.held.len(), longest.unwrap_or(0));
            }
        }
    }
}
