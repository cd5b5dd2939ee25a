//! Policies that come one by one, as the Kubernetes API has them: a bad one leaves what was good of it in force, and
//! holds up no other.
//!
//! Not as a folder is taken, whole or not at all: the objects of a cluster belong to many, and one who errs must not keep
//! the others' keys from being revoked. Pure.

use super::{Index, Setting, Store, compile, raw};
use crate::auth::ConfigProblem;
use crate::auth::pipeline::Pipeline;
use crate::kube::client::mirror::Place;
use crate::policy::Problem;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was last good.
#[derive(Default)]
pub struct Kept {
    secrets: Store,
    good: BTreeMap<Place, Good>,
}

struct Good {
    document: Value,
    hosts: Vec<String>,
    pipeline: Arc<Pipeline>,
    /// The policy is another one by now, which is bad.
    stale: bool,
}

impl Kept {
    /// All policies as they are now, with these Secrets.
    pub fn load(&mut self, objects: &BTreeMap<Place, Value>, secrets: Store, setting: &Setting) -> Index {
        let same_secrets = self.secrets == secrets;
        let mut before = std::mem::take(&mut self.good);
        let mut lacks = Vec::new();
        for (place, document) in objects {
            let before = before.remove(place);
            let good = match before {
                // With all that it remembers.
                Some(good) if same_secrets && !good.stale && good.document == *document => Some(good),
                before => match compiled(document, &secrets, setting) {
                    Ok(good) => good,
                    Err(problems) => {
                        lacks.extend(problems.into_iter().map(|it| problem(document, &it.path, it.message)));
                        before.map(|before| still_good(before, &secrets, setting))
                    }
                },
            };
            self.good.extend(good.map(|good| (place.clone(), good)));
        }
        self.secrets = secrets;
        self.index(lacks)
    }

    /// Of two policies for one host, the older one has it: nobody takes a host by a name that sorts well.
    fn index(&self, mut lacks: Vec<Problem>) -> Index {
        let age = |good: &Good| good.document["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
        let mut all: Vec<(&Place, &Good)> = self.good.iter().collect();
        all.sort_by_key(|(place, good)| (age(good), *place));
        let ready = all.into_iter().map(|(_, good)| (good.hosts.clone(), good.pipeline.clone(), FILE.to_owned()));
        Index::new(ready.collect(), &mut lacks).lacking(lacks)
    }
}

/// Where a problem is, in the place of a file.
const FILE: &str = "the Kubernetes API";

fn compiled(document: &Value, secrets: &Store, setting: &Setting) -> Result<Option<Good>, Vec<ConfigProblem>> {
    let named = raw::Named::of(document);
    let compiled = compile::document(document.clone(), &named, secrets, setting)?;
    Ok(compiled.map(|(hosts, pipeline)| Good {
        document: document.clone(),
        hosts,
        pipeline: Arc::new(pipeline),
        stale: false,
    }))
}

/// The old policy with the new Secrets, for keys that were taken back are to stay so; as it was if even that is bad now,
/// because a Secret that it needs is gone.
fn still_good(before: Good, secrets: &Store, setting: &Setting) -> Good {
    match compiled(&before.document, secrets, setting) {
        Ok(Some(good)) => Good { stale: true, ..good },
        _ => Good { stale: true, ..before },
    }
}

fn problem(document: &Value, path: &str, message: String) -> Problem {
    Problem { file: FILE.into(), document: raw::Named::of(document).to_string(), path: path.into(), message }
}
