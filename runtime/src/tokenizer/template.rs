//! Chat templates: a conversation becomes the text of a prompt, as the model's own Jinja template says.
//!
//! The environment is the one that Hugging Face's `apply_chat_template` gives to templates: Python's methods and way
//! of printing, its `tojson`, `raise_exception`, `strftime_now`, `{% generation %}`. A template comes with a model
//! file, so it is bounded: instructions, depth and output. Never reads a clock, a file or the environment.

mod python;
mod time_format;

use super::TokenizerError;
use crate::weights::Checkpoint;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::Map;
use std::borrow::Cow;
use std::io::Write;
use time::OffsetDateTime;

/// Instructions one rendering may cost; a conversation of 1,000 messages takes about 50,000.
const FUEL: u64 = 20_000_000;
/// Depth of nested calls and blocks.
const RECURSION_MAX: usize = 200;
/// Bytes of a prompt at most.
const PROMPT_BYTES_MAX: usize = 64 << 20;
/// Bytes of a template at most; the longest published ones have about 20 KB.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Under which name the environment keeps the template.
const NAME: &str = "chat_template";

/// What a template turns into a prompt.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// JSON array of messages: `role`, `content`, and what else the template reads (`tool_calls`, `name` …).
    pub messages: serde_json::Value,
    /// JSON array of tool definitions; `Null` for none.
    pub tools: serde_json::Value,
    /// JSON array of documents to cite; `Null` for none.
    pub documents: serde_json::Value,
    /// End with the header of the answer, so that the model speaks next.
    pub add_generation_prompt: bool,
    /// Further variables for the template (`enable_thinking` …); the ones above win.
    pub extra: Map<String, serde_json::Value>,
    /// What `strftime_now` tells the template.
    pub now: OffsetDateTime,
}

impl Conversation {
    /// Messages that the model is to answer, without tools or documents.
    pub fn new(messages: serde_json::Value, now: OffsetDateTime) -> Self {
        let null = serde_json::Value::Null;
        let (tools, documents, extra) = (null.clone(), null, Map::new());
        Self { messages, tools, documents, add_generation_prompt: true, extra, now }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template that belongs to a checkpoint.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TokenizerError> {
        let source = checkpoint.chat_template().ok_or(TokenizerError::NoTemplate)?;
        let special = checkpoint.special_tokens();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self::parse(source, &text(&special.bos_text), &text(&special.eos_text))
    }

    /// Compiles a template; the tokens are what it sees as `bos_token` and `eos_token`.
    pub fn parse(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, TokenizerError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            let reason = format!("it has {} bytes; at most {TEMPLATE_BYTES_MAX} are accepted", source.len());
            return Err(TokenizerError::Template { reason });
        }
        let mut environment = environment();
        environment
            .add_template_owned(NAME, without_generation_blocks(source).into_owned())
            .map_err(|error| TokenizerError::Template { reason: reason(&error) })?;
        Ok(Self { environment, bos_token: bos_token.to_owned(), eos_token: eos_token.to_owned() })
    }

    /// The prompt for a conversation. What the template refuses comes back in its own words.
    pub fn render(&self, conversation: &Conversation) -> Result<String, TokenizerError> {
        let mut variables = conversation.extra.clone();
        let mut set = |name: &str, value: serde_json::Value| variables.insert(name.to_owned(), value);
        set("messages", conversation.messages.clone());
        set("tools", conversation.tools.clone());
        set("documents", conversation.documents.clone());
        set("add_generation_prompt", conversation.add_generation_prompt.into());
        set("bos_token", self.bos_token.clone().into());
        set("eos_token", self.eos_token.clone().into());
        let now = conversation.now;
        let strftime = move |format: String| time_format::strftime(&format, now);
        let functions = [("strftime_now", Value::from_function(strftime))];
        let variables = variables.into_iter().map(|(name, value)| (name, Value::from(Serde(value))));
        let functions = functions.into_iter().map(|(name, value)| (name.to_owned(), value));
        let context: Value = variables.chain(functions).collect();
        let refused = |reason: String| TokenizerError::Refused { reason };
        let template = self.environment.get_template(NAME).map_err(|error| refused(reason(&error)))?;
        let mut prompt = Bounded::default();
        let rendered = template.render_captured_to(context, &mut prompt);
        if prompt.overflowed {
            return Err(refused(format!("the prompt has more than {PROMPT_BYTES_MAX} bytes")));
        }
        rendered.map(drop).map_err(|error| refused(reason(&error)))?;
        String::from_utf8(prompt.bytes).map_err(|_| refused("it made text that is no UTF-8".into()))
    }
}

/// The environment templates expect.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are distinct"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_unknown_method_callback(python::call_method);
    environment.set_formatter(|out, _, value| {
        let printed = if value.is_undefined() { Ok(()) } else { out.write_str(&python::print(value)) };
        printed.map_err(|error| Error::new(ErrorKind::WriteFailure, error.to_string()))
    });
    environment.add_filter("tojson", tojson);
    environment.add_test("sequence", |value: &Value| value.len().is_some());
    environment.add_test("boolean", |value: &Value| matches!(value.kind(), minijinja::value::ValueKind::Bool));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
}

/// `json.dumps` with `ensure_ascii=False`: no escapes for HTML, a space after each comma and colon.
fn tojson(_: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get::<Option<usize>>("indent")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    // Characters stay as they are in any case: prompts are UTF-8.
    let _ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let separators: Option<Value> = options.get("separators")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, format!("tojson: {error}")))?;
    let separator = |at: usize| separators.as_ref().and_then(|pair| pair.get_item_by_index(at).ok());
    let separator = |at: usize| separator(at).and_then(|text| text.as_str().map(str::to_owned));
    let comma = separator(0).unwrap_or_else(|| if indent.is_some() { ",".into() } else { ", ".into() });
    let colon = separator(1).unwrap_or_else(|| ": ".into());
    let indent = indent.map(|width| width.min(16));
    Ok(Value::from(python::Json { indent, sort_keys, comma, colon }.dump(&json)))
}

/// Replaces `{% generation %}`, which only marks the answer for training, by a block that does nothing.
fn without_generation_blocks(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let tag = regex::Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a constant");
    tag.replace_all(source, |found: &regex::Captures<'_>| {
        let word = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &found[1], &found[3])
    })
}

/// An error in a line a caller can use: the message, and where it comes from if it is not the template's own.
fn reason(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match (error.kind(), error.line()) {
        (ErrorKind::OutOfFuel, _) => "it takes too many steps".to_owned(),
        // What `raise_exception` says is for the caller and complete.
        (ErrorKind::InvalidOperation, _) => detail,
        (_, Some(line)) => format!("{} (line {line} of the template): {detail}", error.kind()),
        (_, None) => detail,
    }
}

/// Collects output up to a limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > PROMPT_BYTES_MAX {
            self.overflowed = true;
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
