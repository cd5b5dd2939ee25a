//! Tokens of an OpenAI-shaped answer, read as it streams by. Pure.
//!
//! Follows JSON byte by byte and keeps none of it: whether an answer comes whole or as server-sent events, in one piece or
//! in thousands, what is held is a few numbers. Where an answer says nothing of its usage, pieces with text are counted,
//! and whoever asks is told that they were. Never changes a byte.

use crate::admission::rate::Flow;

/// Of text that came whole, to each token, where nothing else is known: about what English has.
pub const BYTES_PER_TOKEN: u64 = 4;
/// The longest key that means anything here, and one more.
const KEY_BYTES: usize = 24;

/// How the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Whole,
    Events,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    shape: Shape,
    line: Line,
    scan: Scan,
    /// Events with text.
    pieces: u64,
}

/// Where in a stream of events the next byte is (WHATWG HTML §9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data:` were there; with 0, a line begins.
    Start(usize),
    Data,
    Other,
}

const DATA: &[u8] = b"data:";

impl Reader {
    /// For an answer of this media type, if it may say how many tokens it has.
    pub fn of(media_type: &str) -> Option<Reader> {
        let essence = media_type.split(';').next().unwrap_or("").trim();
        let shape = match essence {
            _ if essence.eq_ignore_ascii_case("application/json") => Shape::Whole,
            _ if essence.eq_ignore_ascii_case("text/event-stream") => Shape::Events,
            _ => return None,
        };
        Some(Reader { shape, line: Line::Start(0), scan: Scan::default(), pieces: 0 })
    }

    /// The next bytes of the answer, cut anywhere.
    pub fn read(&mut self, bytes: &[u8]) {
        match self.shape {
            Shape::Whole => bytes.iter().for_each(|byte| self.scan.byte(*byte)),
            Shape::Events => bytes.iter().for_each(|byte| self.event_byte(*byte)),
        }
    }

    fn event_byte(&mut self, byte: u8) {
        let end = matches!(byte, b'\n' | b'\r');
        self.line = match self.line {
            Line::Data if end => {
                self.pieces += u64::from(self.scan.text_bytes > 0);
                self.scan = Scan { usage: self.scan.usage, ..Scan::default() };
                Line::Start(0)
            }
            _ if end => Line::Start(0),
            Line::Data => {
                self.scan.byte(byte);
                Line::Data
            }
            Line::Start(at) if byte == DATA[at] && at + 1 == DATA.len() => Line::Data,
            Line::Start(at) if byte == DATA[at] => Line::Start(at + 1),
            _ => Line::Other,
        };
    }

    /// Whether events come, and something said now would stand between two lines of them.
    pub fn is_between_events(&self) -> bool {
        self.shape == Shape::Events && self.line == Line::Start(0)
    }

    /// Whether the answer itself said how many tokens it has.
    pub fn is_counted(&self) -> bool {
        self.scan.usage.is_told()
    }

    /// Tokens so far.
    pub fn flow(&self) -> Flow {
        let Usage { prompt, completion, total } = self.scan.usage;
        if self.is_counted() {
            let rest = total.map(|total| total.saturating_sub(prompt.unwrap_or(0)));
            let prompt = prompt.or_else(|| Some(total?.saturating_sub(completion?)));
            return Flow { prompt, completion: completion.or(rest).unwrap_or(0) };
        }
        let completion = match self.shape {
            Shape::Events => self.pieces,
            Shape::Whole => self.scan.text_bytes.div_ceil(BYTES_PER_TOKEN),
        };
        Flow { prompt: None, completion }
    }
}

/// As the answer tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
}

impl Usage {
    fn is_told(&self) -> bool {
        self.prompt.is_some() || self.completion.is_some() || self.total.is_some()
    }
}

/// A key, as far as it means anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    Usage,
    /// What the events of `/v1/responses` wrap their usage in.
    Response,
    Prompt,
    Completion,
    Total,
    /// What it holds was generated.
    Text,
    #[default]
    Other,
}

static KEYS: &[(&[u8], Key)] = &[
    (b"arguments", Key::Text),
    (b"completion_tokens", Key::Completion),
    (b"content", Key::Text),
    (b"delta", Key::Text),
    (b"input_tokens", Key::Prompt),
    (b"output_tokens", Key::Completion),
    (b"prompt_tokens", Key::Prompt),
    (b"reasoning", Key::Text),
    (b"reasoning_content", Key::Text),
    (b"response", Key::Response),
    (b"text", Key::Text),
    (b"total_tokens", Key::Total),
    (b"usage", Key::Usage),
];

/// What a string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Key,
    Text,
    Other,
}

/// Within one JSON value. Of what is no JSON it makes something or nothing, in as many steps as there are bytes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Scan {
    depth: u32,
    /// One bit for each of the first 64 depths: whether it is an object.
    objects: u64,
    /// Under which keys the containers of depths 2 and 3 stand.
    names: [Key; 2],
    expects_key: bool,
    key: Key,
    string: Option<Role>,
    escaped: bool,
    word: [u8; KEY_BYTES],
    word_bytes: usize,
    number: Option<u64>,
    /// It is no whole number.
    fraction: bool,
    usage: Usage,
    /// Of generated strings.
    text_bytes: u64,
}

impl Scan {
    fn byte(&mut self, byte: u8) {
        if let Some(role) = self.string {
            return self.string_byte(role, byte);
        }
        match byte {
            b'"' => {
                let role = match self.key {
                    _ if self.expects_key => Role::Key,
                    Key::Text => Role::Text,
                    _ => Role::Other,
                };
                (self.string, self.word_bytes) = (Some(role), 0);
            }
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => {
                self.value_ends();
                self.depth = self.depth.saturating_sub(1);
                (self.expects_key, self.key) = (false, Key::Other);
            }
            b',' => {
                self.value_ends();
                self.expects_key = self.is_object();
            }
            b':' => self.expects_key = false,
            b'0'..=b'9' => {
                let number = self.number.unwrap_or(0).saturating_mul(10);
                self.number = Some(number.saturating_add(u64::from(byte - b'0')));
            }
            b'.' | b'-' | b'+' | b'e' | b'E' => self.fraction = true,
            _ => {}
        }
    }

    fn string_byte(&mut self, role: Role, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => {
                self.escaped = true;
                // No key of ours has one.
                self.word_bytes = KEY_BYTES;
            }
            b'"' => {
                self.string = None;
                if role == Role::Key {
                    let word = self.word.get(..self.word_bytes).unwrap_or_default();
                    self.key = KEYS.iter().find(|(name, _)| *name == word).map_or(Key::Other, |(_, key)| *key);
                }
                return;
            }
            _ => {}
        }
        match role {
            Role::Text => self.text_bytes += 1,
            Role::Key => {
                if let Some(place) = self.word.get_mut(self.word_bytes) {
                    *place = byte;
                }
                self.word_bytes = (self.word_bytes + 1).min(KEY_BYTES + 1);
            }
            Role::Other => {}
        }
    }

    fn is_object(&self) -> bool {
        (1..=64).contains(&self.depth) && self.objects >> (self.depth - 1) & 1 == 1
    }

    fn open(&mut self, object: bool) {
        self.depth = self.depth.saturating_add(1);
        if let 1..=64 = self.depth {
            let bit = 1 << (self.depth - 1);
            self.objects = if object { self.objects | bit } else { self.objects & !bit };
        }
        match self.depth {
            2 => self.names = [self.key, Key::Other],
            3 => self.names[1] = self.key,
            _ => {}
        }
        self.expects_key = self.is_object();
        self.key = Key::Other;
    }

    /// A number that counts tokens counts only right within `usage`, of the answer or of its `response`.
    fn value_ends(&mut self) {
        let number = self.number.take().filter(|_| !self.fraction);
        self.fraction = false;
        let within = match self.depth {
            2 => self.names[0] == Key::Usage,
            3 => self.names == [Key::Response, Key::Usage],
            _ => false,
        };
        let Some(number) = number.filter(|_| within) else { return };
        match self.key {
            Key::Prompt => self.usage.prompt = Some(number),
            Key::Completion => self.usage.completion = Some(number),
            Key::Total => self.usage.total = Some(number),
            _ => {}
        }
    }
}

/// For the fuzzer: any bytes as an answer, whole and cut in pieces, which must read the same.
pub fn fuzz(data: &[u8]) {
    let (cut, data) = data.split_first().map_or((1, data), |(cut, rest)| (usize::from(*cut).max(1), rest));
    for media_type in ["application/json", "text/event-stream"] {
        let mut whole = Reader::of(media_type).expect("both are read");
        let mut pieces = whole.clone();
        whole.read(data);
        data.chunks(cut).for_each(|piece| pieces.read(piece));
        assert_eq!(whole, pieces);
        let _ = whole.flow();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(media_type: &str, text: &str) -> Reader {
        let mut reader = Reader::of(media_type).unwrap();
        reader.read(text.as_bytes());
        reader
    }

    #[test]
    fn which_answers_are_read() {
        for (media_type, read) in [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("text/event-stream;charset=utf-8", true),
            ("TEXT/Event-Stream", true),
            ("text/html", false),
            ("application/jsonl", false),
            ("application/grpc", false),
        ] {
            assert_eq!(Reader::of(media_type).is_some(), read, "{media_type}");
        }
    }

    #[test]
    fn how_many_tokens_has_a_whole_answer() {
        let usage =
            |usage: &str| format!(r#"{{"id":"a","choices":[{{"message":{{"content":"hi \" there"}}}}],{usage}}}"#);
        for (text, prompt, completion) in [
            (usage(r#""usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}"#), Some(12), 34),
            (usage(r#""usage": { "prompt_tokens" : 12 , "total_tokens" : 46 }"#), Some(12), 34),
            (usage(r#""usage":{"completion_tokens":34,"total_tokens":46}"#), Some(12), 34),
            (usage(r#""usage":{"prompt_tokens":8,"total_tokens":8}"#), Some(8), 0),
            (
                usage(
                    r#""usage":{"prompt_tokens":1,"completion_tokens_details":{"prompt_tokens":9},"completion_tokens":2}"#,
                ),
                Some(1),
                2,
            ),
            (usage(r#""usage":{"input_tokens":3,"output_tokens":4}"#), Some(3), 4),
            // Ten bytes of text, and no count that means anything.
            (usage(r#""usage":null"#), None, 3),
            (usage(r#""usage":{"prompt_tokens":1.5,"completion_tokens":-3}"#), None, 3),
            (usage(r#""details":{"usage":{"prompt_tokens":12}}"#), None, 3),
            (r#"{"prompt_tokens":1,"x":"\"usage\":{\"prompt_tokens\":5}"}"#.into(), None, 0),
            (r#"[{"usage":{"prompt_tokens":1}}]"#.into(), None, 0),
        ] {
            let reader = read("application/json", &text);
            assert_eq!(reader.flow(), Flow { prompt, completion }, "{text}");
            assert_eq!(reader.is_counted(), prompt.is_some(), "{text}");
        }
    }

    #[test]
    fn how_many_tokens_has_a_stream_by_now() {
        let delta =
            |text: &str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
        let last = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n";
        let usage =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"total_tokens\":29,\"completion_tokens\":20}}\n\n";
        let mut reader = Reader::of("text/event-stream").unwrap();
        for (event, prompt, completion) in [
            (role, None, 0),
            (delta("Hel").as_str(), None, 1),
            (delta("lo").replace('\n', "\r\n").as_str(), None, 2),
            (": keep alive\n\n", None, 2),
            ("event: x\ndatum: {\"text\":\"no\"}\n\n", None, 2),
            ("data:{\"choices\":[{\"text\":\"a completion's\"}]}\n\n", None, 3),
            (last, None, 3),
            (usage, Some(9), 20),
            ("data: [DONE]\n\n", Some(9), 20),
        ] {
            reader.read(event.as_bytes());
            assert!(reader.is_between_events());
            assert_eq!(reader.flow(), Flow { prompt, completion }, "{event}");
        }
        reader.read(b"data: {\"ch");
        assert!(!reader.is_between_events());
        let wrapped = "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n";
        let spoken = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n";
        assert_eq!(read("text/event-stream", spoken).flow().completion, 1);
        assert_eq!(read("text/event-stream", wrapped).flow(), Flow { prompt: Some(3), completion: 4 });
    }

    proptest! {
        #[test]
        fn is_it_the_same_however_it_is_cut(text in r#"(data: |\{|\}|\[|\]|"usage":|"prompt_tokens":|"content":|"a"|[0-9]{1,25}|,|:|\\|"|\n|\r| ){0,60}"#,
                                            cut in 1u8..20) {
            let mut bytes = vec![cut];
            bytes.extend(text.as_bytes());
            fuzz(&bytes);
        }

        #[test]
        fn is_what_serde_writes_understood(prompt in 0u64..1 << 50, completion in 0u64..1 << 50, text in ".{0,40}") {
            let answer = serde_json::json!({
                "object": text, "choices": [{"message": {"content": text}, "logprobs": {"usage": {"prompt_tokens": 1}}}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
            });
            let flow = Flow { prompt: Some(prompt), completion };
            prop_assert_eq!(read("application/json", &answer.to_string()).flow(), flow);
            prop_assert_eq!(read("application/json", &serde_json::to_string_pretty(&answer).unwrap()).flow(), flow);
            prop_assert_eq!(read("text/event-stream", &format!("data: {answer}\n\n")).flow(), flow);
        }
    }
}
