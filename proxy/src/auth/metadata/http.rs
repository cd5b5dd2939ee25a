//! Whatever an HTTP server says of the request.
//!
//! Keeps no answer; the pipeline's cache does.

use super::{Fetched, Source};
use crate::auth::ConfigProblem;
use crate::auth::endpoint::{Endpoint, RawHttpEndpoint};
use crate::auth::site::{Site, parse};
use serde_json::Value;

pub const NAME: &str = "http";

struct Http(Endpoint);

pub fn open(given: Value, path: &str, site: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Box<dyn Source>> {
    let raw: RawHttpEndpoint = parse(given, path, problems)?;
    Some(Box::new(Http(raw.compile(path, site, problems)?)))
}

impl Source for Http {
    fn fetch<'a>(&'a self, root: &'a Value) -> Fetched<'a> {
        Box::pin(self.0.call(root))
    }
}
