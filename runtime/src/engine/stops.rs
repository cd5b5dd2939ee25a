//! Finds stop strings in a text that comes in pieces, one byte at a time, in constant time per byte and string.
//!
//! Knuth, Morris and Pratt's automaton for each string: its state is how much of the string the text now ends with,
//! which is also how much of the text must be held back. Bytes, not characters: both are UTF-8, which cannot match
//! across a character's border.

use std::sync::Arc;

#[derive(Debug)]
struct Pattern {
    bytes: Box<[u8]>,
    /// `failure[n]`: length of the longest proper suffix of the first n + 1 bytes that is also a prefix.
    failure: Box<[u32]>,
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let bytes: Box<[u8]> = text.as_bytes().into();
        let mut failure = vec![0u32; bytes.len()];
        let mut length = 0usize;
        for at in 1..bytes.len() {
            while length > 0 && bytes[at] != bytes[length] {
                length = failure[length - 1] as usize;
            }
            length += usize::from(bytes[at] == bytes[length]);
            failure[at] = length as u32;
        }
        Pattern { bytes, failure: failure.into() }
    }

    /// The state after one more byte; the pattern's length is a match.
    fn next(&self, state: u32, byte: u8) -> u32 {
        let mut state = state as usize;
        if state == self.bytes.len() {
            state = self.failure[state - 1] as usize;
        }
        while state > 0 && self.bytes[state] != byte {
            state = self.failure[state - 1] as usize;
        }
        state as u32 + u32::from(self.bytes[state] == byte)
    }
}

/// The stop strings of a request; shared by its choices.
#[derive(Clone, Debug)]
pub struct Stops(Arc<[Pattern]>);

impl Stops {
    /// None of the strings is empty.
    pub fn new(strings: &[String]) -> Stops {
        Stops(strings.iter().map(|text| Pattern::new(text)).collect())
    }
}

/// Follows one text.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Stops,
    states: Box<[u32]>,
}

impl StopMatcher {
    pub fn new(stops: Stops) -> StopMatcher {
        let states = vec![0; stops.0.len()].into();
        StopMatcher { stops, states }
    }

    /// Takes one byte. The index of the stop string that ends here; of several the longest.
    pub fn push(&mut self, byte: u8) -> Option<usize> {
        let mut matched: Option<usize> = None;
        for (index, (pattern, state)) in self.stops.0.iter().zip(&mut self.states).enumerate() {
            *state = pattern.next(*state, byte);
            let longer = matched.is_none_or(|best| pattern.bytes.len() > self.stops.0[best].bytes.len());
            if *state as usize == pattern.bytes.len() && longer {
                matched = Some(index);
            }
        }
        matched
    }

    /// Bytes of a stop string.
    pub fn length(&self, index: usize) -> usize {
        self.stops.0[index].bytes.len()
    }

    /// The stop string itself.
    pub fn string(&self, index: usize) -> String {
        String::from_utf8_lossy(&self.stops.0[index].bytes).into_owned()
    }

    /// Bytes at the text's end that may be the start of a stop string.
    pub fn held(&self) -> usize {
        // A whole match that was passed over is held no more; what of it may begin another is.
        let partial = |(pattern, state): (&Pattern, &u32)| match *state as usize {
            whole if whole == pattern.bytes.len() => pattern.failure[whole - 1] as usize,
            state => state,
        };
        self.stops.0.iter().zip(&self.states).map(partial).max().unwrap_or(0)
    }
}
