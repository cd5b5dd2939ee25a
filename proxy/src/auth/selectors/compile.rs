//! A path's text into a program, once, when a policy is loaded: nodes in a list that name each other by number.
//!
//! Never looks at a document. The text of a path means one thing over an object and another over an array, so each step
//! is compiled for both; equal remainders of a path are compiled once, which keeps the program linear in the path.

use super::Problem;
use super::modifiers::{self, Modifier};
use super::query::{self, Query};
use super::scan::{self, After, ArrayPart, PATH_BYTES_MAX};
use serde_json::Value;
use std::collections::HashMap;

/// Components below each other. A path a person writes has ten.
const DEPTH_MAX: usize = 96;
const NODES_MAX: usize = 1024;

pub(super) type GetId = usize;
pub(super) type StepId = usize;

/// What begins a path, and what follows a pipe.
pub(super) enum Get {
    Modifier {
        modifier: Modifier,
        then: Option<GetId>,
    },
    Literal {
        value: Value,
        then: Option<GetId>,
    },
    Many {
        named: bool,
        parts: Vec<(String, GetId)>,
        then: Option<GetId>,
    },
    /// `..`: the document as the only line of a list of lines.
    Lines(StepId),
    Walk(StepId),
}

/// One component, read over an object and over an array.
pub(super) struct Step {
    pub object: ObjectStep,
    pub array: ArrayStep,
}

pub(super) enum Key {
    Is(String),
    Like(String),
}

pub(super) struct ObjectStep {
    pub key: Key,
    pub more: Option<StepId>,
    pub pipe: Option<GetId>,
}

pub(super) struct ArrayStep {
    pub what: Items,
    pub more: Option<StepId>,
    pub pipe: Option<GetId>,
}

pub(super) enum Items {
    /// A name: no item of a list has one.
    None,
    At(usize),
    Count,
    Each {
        get: GetId,
        pipe: Option<GetId>,
    },
    Query(Box<Query>),
}

#[derive(Default)]
pub(super) struct Program {
    pub gets: Vec<Get>,
    pub steps: Vec<Step>,
}

#[derive(Default)]
pub(super) struct Compiler {
    program: Program,
    gets: HashMap<String, GetId>,
    steps: HashMap<String, StepId>,
    depth: usize,
}

/// The program, and where it begins.
pub(super) fn compile(path: &str) -> Result<(Program, GetId), Problem> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Problem::new(format!("longer than {PATH_BYTES_MAX} bytes; split it, or use an expression")));
    }
    let mut compiler = Compiler::default();
    let entry = compiler.get(path)?;
    Ok((compiler.program, entry))
}

impl Compiler {
    pub(super) fn get(&mut self, path: &str) -> Result<GetId, Problem> {
        if let Some(known) = self.gets.get(path) {
            return Ok(*known);
        }
        self.descend()?;
        let get = self.get_node(path)?;
        self.depth -= 1;
        self.program.gets.push(get);
        let id = self.program.gets.len() - 1;
        self.gets.insert(path.to_owned(), id);
        Ok(id)
    }

    fn descend(&mut self) -> Result<(), Problem> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Problem::new(format!("more than {DEPTH_MAX} components below each other")));
        }
        if self.program.gets.len() + self.program.steps.len() > NODES_MAX {
            return Err(Problem::new(format!("more than {NODES_MAX} components")));
        }
        Ok(())
    }

    fn get_node(&mut self, path: &str) -> Result<Get, Problem> {
        let mut rest = path;
        if path.len() > 1 {
            match path.as_bytes()[0] {
                b'@' => {
                    if let Some((name, argument, after)) = scan::modifier(path) {
                        let modifier = modifiers::compile(self, name, argument)?;
                        return Ok(Get::Modifier { modifier, then: self.then(after)? });
                    }
                }
                b'!' => {
                    if let Some((literal, after)) = scan::literal(path) {
                        let value = serde_json::from_str(&literal)
                            .map_err(|error| Problem::new(format!("`!{literal}` is no JSON: {error}")))?;
                        return Ok(Get::Literal { value, then: self.then(after)? });
                    }
                }
                open @ (b'[' | b'{') => {
                    let (parts, after) = scan::many(path)
                        .ok_or_else(|| Problem::new(format!("`{path}` opens a bracket that nothing closes")))?;
                    if after.is_empty() || after.starts_with(['|', '.']) {
                        return self.many(open == b'{', &parts, after);
                    }
                    rest = after;
                }
                _ => {}
            }
        }
        if let Some(lines) = rest.strip_prefix("..") {
            return Ok(Get::Lines(self.step(lines)?));
        }
        Ok(Get::Walk(self.step(rest)?))
    }

    fn many(&mut self, named: bool, parts: &[(&str, &str)], after: &str) -> Result<Get, Problem> {
        let mut compiled = Vec::with_capacity(parts.len());
        for (name, path) in parts {
            let name = if named { scan::name_of(name, path) } else { String::new() };
            compiled.push((name, self.get(path)?));
        }
        Ok(Get::Many { named, parts: compiled, then: self.then(after)? })
    }

    /// What comes after a modifier, a literal or brackets: nothing, or a path after one mark.
    fn then(&mut self, after: &str) -> Result<Option<GetId>, Problem> {
        after.strip_prefix(['|', '.']).map(|path| self.get(path)).transpose()
    }

    fn step(&mut self, path: &str) -> Result<StepId, Problem> {
        if let Some(known) = self.steps.get(path) {
            return Ok(*known);
        }
        self.descend()?;
        let step = Step { object: self.object(path)?, array: self.array(path)? };
        self.depth -= 1;
        self.program.steps.push(step);
        let id = self.program.steps.len() - 1;
        self.steps.insert(path.to_owned(), id);
        Ok(id)
    }

    fn after(&mut self, after: &After<'_>) -> Result<(Option<StepId>, Option<GetId>), Problem> {
        Ok(match after {
            After::Nothing => (None, None),
            After::More(path) => (Some(self.step(path)?), None),
            After::Pipe(path) => (None, Some(self.get(path)?)),
        })
    }

    fn object(&mut self, path: &str) -> Result<ObjectStep, Problem> {
        let (part, wild, after) = scan::object_part(path);
        let (more, pipe) = self.after(&after)?;
        Ok(ObjectStep { key: if wild { Key::Like(part) } else { Key::Is(part) }, more, pipe })
    }

    fn array(&mut self, path: &str) -> Result<ArrayStep, Problem> {
        let (part, after) = scan::array_part(path);
        let what = match part {
            ArrayPart::Name => Items::None,
            ArrayPart::At(index) => Items::At(index),
            ArrayPart::Count => Items::Count,
            ArrayPart::Each(path) => {
                let (left, right) = scan::split_pipe(path);
                let pipe = right.map(|right| self.get(right)).transpose()?;
                // What follows belongs to each item, not to the list.
                return Ok(ArrayStep { what: Items::Each { get: self.get(left)?, pipe }, more: None, pipe: None });
            }
            ArrayPart::Query { text, all } => {
                let mut query = query::compile(self, &text, all)?;
                let pipe = match after {
                    After::Nothing => None,
                    After::Pipe(path) => Some(self.get(path)?),
                    After::More(path) => {
                        let (left, right) = scan::split_pipe(path);
                        query.more = Some(self.get(left)?);
                        query.pipe = right.map(|right| self.get(right)).transpose()?;
                        None
                    }
                };
                return Ok(ArrayStep { what: Items::Query(Box::new(query)), more: None, pipe });
            }
        };
        let (more, pipe) = self.after(&after)?;
        Ok(ArrayStep { what, more, pipe })
    }
}
