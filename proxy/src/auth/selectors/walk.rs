//! The program over a document. Borrows from it where it can; whatever it copies or looks at is paid for in [`Fuel`].
//!
//! Never recurses over a document except where a modifier must, and there pays for each level.

use super::compile::{ArrayStep, Get, GetId, Items, Key, ObjectStep, Program, StepId};
use super::glob;
use super::modifiers;
use super::query::Query;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Looked at, or copied: items, and bytes of strings. A real selector burns ten.
const FUEL: usize = 1 << 20;
/// Lists in lists that a modifier goes down into. What `serde_json` parses has 128 at most; what paths build, more.
pub(super) const LEVELS_MAX: usize = 256;

/// A selector that would take too long, or make too much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exhausted;

pub(super) struct Fuel(usize);

impl Fuel {
    pub(super) fn full() -> Fuel {
        Fuel(FUEL)
    }

    pub(super) fn burn(&mut self, units: usize) -> Result<(), Exhausted> {
        self.0 = self.0.checked_sub(units).ok_or(Exhausted)?;
        Ok(())
    }

    /// A copy that is paid for before it is made.
    pub(super) fn copy(&mut self, value: &Value) -> Result<Value, Exhausted> {
        self.weigh(value, 0)?;
        Ok(value.clone())
    }

    fn weigh(&mut self, value: &Value, level: usize) -> Result<(), Exhausted> {
        if level > LEVELS_MAX {
            return Err(Exhausted);
        }
        self.burn(1)?;
        match value {
            Value::String(string) => self.burn(string.len()),
            Value::Array(items) => items.iter().try_for_each(|item| self.weigh(item, level + 1)),
            Value::Object(map) => map.iter().try_for_each(|(key, value)| {
                self.burn(key.len())?;
                self.weigh(value, level + 1)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }
}

pub(super) type Hit<'a> = Option<Cow<'a, Value>>;

pub(super) struct Walk<'p> {
    pub program: &'p Program,
    pub fuel: Fuel,
}

/// What a walk over keys and indices has come to.
#[derive(Default)]
struct Course<'a> {
    value: Hit<'a>,
    /// Set as soon as the component before a bar is looked for, found or not.
    pipe: Option<GetId>,
}

impl<'p> Walk<'p> {
    pub(super) fn get<'a>(&mut self, id: GetId, value: Option<&'a Value>) -> Result<Hit<'a>, Exhausted>
    where
        'p: 'a,
    {
        self.fuel.burn(1)?;
        match &self.program.gets[id] {
            Get::Modifier { modifier, then } => {
                let made = modifiers::apply(self, modifier, value.map(Cow::Borrowed))?;
                self.then(*then, made)
            }
            Get::Literal { value, then } => self.then(*then, Some(Cow::Borrowed(value))),
            Get::Many { named, parts, then } => {
                let made = self.many(*named, parts, value)?;
                self.then(*then, Some(Cow::Owned(made)))
            }
            Get::Lines(step) => {
                let mut course = Course::default();
                let array = &self.program.steps[*step].array;
                self.array(&mut course, value.map_or(&[], std::slice::from_ref), array)?;
                self.finish(course)
            }
            Get::Walk(step) => {
                let mut course = Course::default();
                if let Some(value) = value {
                    self.step(&mut course, value, *step)?;
                }
                self.finish(course)
            }
        }
    }

    fn finish<'a>(&mut self, course: Course<'a>) -> Result<Hit<'a>, Exhausted>
    where
        'p: 'a,
    {
        self.then(course.pipe, course.value)
    }

    /// Goes on with what was found or made, which may be nothing.
    fn then<'a>(&mut self, then: Option<GetId>, value: Hit<'a>) -> Result<Hit<'a>, Exhausted>
    where
        'p: 'a,
    {
        let Some(id) = then else { return Ok(value) };
        match value {
            None => self.get(id, None),
            Some(Cow::Borrowed(value)) => self.get(id, Some(value)),
            Some(Cow::Owned(value)) => {
                // A modifier may take what was made for it apart; anything else looks, and copies what it found.
                if let Get::Modifier { modifier, then } = &self.program.gets[id] {
                    self.fuel.burn(1)?;
                    let made = modifiers::apply(self, modifier, Some(Cow::Owned(value)))?;
                    return self.then(*then, made);
                }
                let found = self.get(id, Some(&value))?;
                found.map(|found| self.own(found).map(Cow::Owned)).transpose()
            }
        }
    }

    pub(super) fn own(&mut self, value: Cow<'_, Value>) -> Result<Value, Exhausted> {
        match value {
            Cow::Borrowed(value) => self.fuel.copy(value),
            Cow::Owned(value) => Ok(value),
        }
    }

    fn many(&mut self, named: bool, parts: &'p [(String, GetId)], value: Option<&Value>) -> Result<Value, Exhausted> {
        let mut map = Map::new();
        let mut items = Vec::new();
        for (name, id) in parts {
            let Some(found) = self.get(*id, value)? else { continue };
            let found = self.own(found)?;
            if !named {
                items.push(found);
            } else if !map.contains_key(name) {
                map.insert(name.clone(), found);
            }
        }
        Ok(if named { Value::Object(map) } else { Value::Array(items) })
    }

    /// `true`: found, look no further.
    fn step<'a>(&mut self, course: &mut Course<'a>, value: &'a Value, id: StepId) -> Result<bool, Exhausted>
    where
        'p: 'a,
    {
        match value {
            Value::Object(map) => self.object(course, map, &self.program.steps[id].object),
            Value::Array(items) => self.array(course, items, &self.program.steps[id].array),
            _ => Ok(false),
        }
    }

    fn object<'a>(
        &mut self,
        course: &mut Course<'a>,
        map: &'a Map<String, Value>,
        step: &'p ObjectStep,
    ) -> Result<bool, Exhausted>
    where
        'p: 'a,
    {
        course.pipe = step.pipe.or(course.pipe);
        match &step.key {
            Key::Is(key) => {
                self.fuel.burn(1)?;
                map.get(key).map_or(Ok(false), |value| self.enter(course, value, step.more))
            }
            Key::Like(pattern) => {
                for (key, value) in map {
                    self.fuel.burn(1)?;
                    if glob::matches(key, pattern, &mut self.fuel)? && self.enter(course, value, step.more)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn enter<'a>(&mut self, course: &mut Course<'a>, value: &'a Value, more: Option<StepId>) -> Result<bool, Exhausted>
    where
        'p: 'a,
    {
        if let Some(more) = more {
            return self.step(course, value, more);
        }
        course.value = Some(Cow::Borrowed(value));
        Ok(true)
    }

    fn array<'a>(&mut self, course: &mut Course<'a>, items: &'a [Value], step: &'p ArrayStep) -> Result<bool, Exhausted>
    where
        'p: 'a,
    {
        course.pipe = step.pipe.or(course.pipe);
        match &step.what {
            Items::None => Ok(false),
            Items::At(index) => {
                self.fuel.burn(1)?;
                items.get(*index).map_or(Ok(false), |value| self.enter(course, value, step.more))
            }
            Items::Count => {
                course.value = Some(Cow::Owned(items.len().into()));
                Ok(true)
            }
            Items::Each { get, pipe } => {
                let mut found = Vec::new();
                for item in items {
                    if let Some(value) = self.get(*get, Some(item))? {
                        found.push(self.own(value)?);
                    }
                }
                course.pipe = pipe.or(course.pipe);
                course.value = Some(Cow::Owned(Value::Array(found)));
                Ok(true)
            }
            Items::Query(query) => self.query(course, items, query),
        }
    }

    fn query<'a>(&mut self, course: &mut Course<'a>, items: &'a [Value], query: &'p Query) -> Result<bool, Exhausted>
    where
        'p: 'a,
    {
        let mut all = Vec::new();
        for item in items {
            self.fuel.burn(1)?;
            let matched = match (item, query.path) {
                (Value::Object(_) | Value::Array(_), _) => {
                    let found = self.get(query.inner, Some(item))?;
                    query.matches(found.as_deref(), &mut self.fuel)?
                }
                (_, None) => query.matches(Some(item), &mut self.fuel)?,
                (_, Some(_)) => false,
            };
            if !matched {
                continue;
            }
            let meant = match query.more {
                Some(more) => {
                    course.pipe = query.pipe.or(course.pipe);
                    self.get(more, Some(item))?
                }
                None => Some(Cow::Borrowed(item)),
            };
            if !query.all {
                course.value = meant;
                return Ok(true);
            }
            if let Some(meant) = meant {
                all.push(self.own(meant)?);
            }
        }
        // An earlier list under a wildcard keeps its answer.
        if query.all && course.value.is_none() {
            course.value = Some(Cow::Owned(Value::Array(all)));
        }
        Ok(false)
    }
}
