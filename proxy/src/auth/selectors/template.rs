//! `"Hello {auth.identity.name}"`: text with selectors in braces.
//!
//! Which texts are templates, and where braces and backslashes end, is decided as Authorino decides it. What is made is
//! bounded, whatever the document holds.

use super::{Fault, Found, Problem, Selector};
use regex::Regex;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::LazyLock;

/// More than any header or body that a policy makes.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
const PIECES_MAX: usize = 256;

/// A brace that only opens a modifier's argument.
static ARGUMENT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[^@]+@[0-9A-Za-z_]+:\{").expect("a constant that a test compiles"));

/// A selector by itself, or text with selectors in it.
#[derive(Debug)]
pub enum Template {
    Path(Selector),
    Text(Vec<Piece>),
}

#[derive(Debug)]
pub enum Piece {
    Words(String),
    Path(Selector),
}

impl Template {
    /// As Authorino reads the `selector` of a value: a path, unless a brace opens more than a modifier's argument.
    pub fn parse(source: &str) -> Result<Template, Problem> {
        if ARGUMENT.find_iter(source).count() == source.matches('{').count() {
            return Selector::parse(source).map(Template::Path);
        }
        Template::parse_text(source)
    }

    /// Always text, as in the URL of an endpoint.
    pub fn parse_text(source: &str) -> Result<Template, Problem> {
        let mut reader = Reader::default();
        for char in source.chars() {
            reader.read(char)?;
        }
        if reader.inside {
            return Err(Problem::new(format!("template `{source}` opens a brace that nothing closes")));
        }
        reader.flush();
        if reader.pieces.len() > PIECES_MAX {
            return Err(Problem::new(format!("template with more than {PIECES_MAX} parts")));
        }
        Ok(Template::Text(reader.pieces))
    }

    /// A path's value as it is; a text as a string.
    pub fn resolve(&self, root: &Value) -> Result<Value, Fault> {
        match self {
            Template::Path(selector) => Ok(checked(selector, root)?.value()),
            Template::Text(pieces) => render(pieces, root).map(Value::String),
        }
    }

    pub fn text(&self, root: &Value) -> Result<String, Fault> {
        match self {
            Template::Path(selector) => Ok(checked(selector, root)?.text().into_owned()),
            Template::Text(pieces) => render(pieces, root),
        }
    }
}

fn checked<'a>(selector: &'a Selector, root: &'a Value) -> Result<Found<'a>, Fault> {
    let found = selector.find(root);
    if found.exhausted() { Err(selector.fault()) } else { Ok(found) }
}

fn render(pieces: &[Piece], root: &Value) -> Result<String, Fault> {
    let mut made = String::new();
    for piece in pieces {
        let found;
        let words = match piece {
            Piece::Words(words) => Cow::Borrowed(words.as_str()),
            Piece::Path(selector) => {
                found = checked(selector, root)?;
                found.text()
            }
        };
        if made.len() + words.len() > OUTPUT_BYTES_MAX {
            return Err(Fault {
                words: format!("a template makes more than {OUTPUT_BYTES_MAX} bytes of this request"),
            });
        }
        made.push_str(&words);
    }
    Ok(made)
}

#[derive(Default)]
struct Reader {
    pieces: Vec<Piece>,
    words: String,
    path: String,
    inside: bool,
    escaping: bool,
    nested: usize,
}

impl Reader {
    fn read(&mut self, char: char) -> Result<(), Problem> {
        if self.inside {
            return self.read_inside(char);
        }
        match char {
            '{' if !self.escaping => self.inside = true,
            '\\' if !self.escaping => {
                self.escaping = true;
                return Ok(());
            }
            _ => self.words.push(char),
        }
        self.escaping = false;
        Ok(())
    }

    fn read_inside(&mut self, char: char) -> Result<(), Problem> {
        match char {
            '}' if self.nested == 0 => {
                self.inside = false;
                let path = std::mem::take(&mut self.path);
                // Empty braces are nothing at all.
                if !path.is_empty() {
                    self.flush();
                    self.pieces.push(Piece::Path(Selector::parse(&path)?));
                }
                return Ok(());
            }
            '}' => self.nested -= 1,
            '{' => self.nested += 1,
            _ => {}
        }
        self.path.push(char);
        Ok(())
    }

    fn flush(&mut self) {
        if !self.words.is_empty() {
            self.pieces.push(Piece::Words(std::mem::take(&mut self.words)));
        }
    }
}
