//! One value: a constant, what a selector finds, what an expression makes.
//!
//! What is not there is `null`, which a header says with nothing at all.

use super::{Made, Response};
use crate::auth::ConfigProblem;
use crate::auth::site::{Site, parse, sound};
use crate::auth::values::{RawValueFrom, ValueFrom};
use serde_json::Value;

pub const NAME: &str = "plain";

struct Plain(ValueFrom);

pub fn open(given: Value, path: &str, _: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Box<dyn Response>> {
    let raw: RawValueFrom = parse(given, path, problems)?;
    Some(Box::new(Plain(sound(raw.compile(path), problems)?)))
}

impl Response for Plain {
    fn make<'a>(&'a self, root: &'a Value, _now_unix: u64) -> Made<'a> {
        Box::pin(std::future::ready(self.0.resolve(root).map_err(|fault| fault.words)))
    }
}
