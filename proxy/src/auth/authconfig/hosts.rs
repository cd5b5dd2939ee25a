//! Which policy speaks of a host: the one that names it, else the one with the longest wildcard over it.
//!
//! Two policies for one host are a problem and never a race: which of them is in force must not depend on their order.

use super::Ready;
use crate::auth::pipeline::Pipeline;
use crate::auth::without_port;
use crate::policy::Problem;
use crate::watched::Lacks;
use std::collections::HashMap;
use std::sync::Arc;

/// All policies, by host.
#[derive(Default)]
pub struct Index {
    exact: HashMap<String, Arc<Pipeline>>,
    /// By what follows the `*`: `.example.com`, or nothing.
    wildcards: HashMap<String, Arc<Pipeline>>,
    count: usize,
    /// Policies, or hosts of them, that are not in force as they are written.
    lacks: Vec<Problem>,
    unlisted: bool,
}

impl Lacks for Index {
    fn lacks(&self) -> &[Problem] {
        &self.lacks
    }
}

impl Index {
    pub(super) fn new(ready: Vec<Ready>, problems: &mut Vec<Problem>) -> Index {
        let mut index = Index { count: ready.len(), ..Index::default() };
        for (hosts, pipeline, file) in ready {
            for host in hosts {
                let host = host.to_ascii_lowercase();
                let (map, key) = match host.strip_prefix('*') {
                    Some(rest) => (&mut index.wildcards, rest.to_owned()),
                    None => (&mut index.exact, host.clone()),
                };
                match map.get(&key) {
                    Some(other) if !Arc::ptr_eq(other, &pipeline) => problems.push(Problem {
                        file: file.clone(),
                        document: pipeline.name.to_string(),
                        path: "spec.hosts".into(),
                        message: format!("{host} is a host of {} already; a host has one policy", other.name),
                    }),
                    _ => drop(map.insert(key, pipeline.clone())),
                }
            }
        }
        index
    }

    /// Before it is known which policies there are.
    pub(super) fn unlisted() -> Index {
        let message = "has not told yet which policies and Secrets there are".into();
        let problem =
            Problem { file: "the Kubernetes API".into(), document: String::new(), path: String::new(), message };
        Index { lacks: vec![problem], unlisted: true, ..Index::default() }
    }

    /// Whether a host without a policy has none, for all that is known.
    pub fn is_known(&self) -> bool {
        !self.unlisted
    }

    pub(super) fn lacking(self, lacks: Vec<Problem>) -> Index {
        Index { lacks, ..self }
    }

    /// `host` as it came, perhaps with a port.
    pub fn find(&self, host: &str) -> Option<&Arc<Pipeline>> {
        let host = host.to_ascii_lowercase();
        self.named(&host).or_else(|| self.named(without_port(&host)))
    }

    fn named(&self, host: &str) -> Option<&Arc<Pipeline>> {
        // As in Authorino, `*.x` is a wildcard over `x` too.
        let itself = format!(".{host}");
        let dots = host.match_indices('.').map(|(at, _)| &host[at..]);
        let mut suffixes = std::iter::once(&*itself).chain(dots).chain(std::iter::once(""));
        self.exact.get(host).or_else(|| suffixes.find_map(|suffix| self.wildcards.get(suffix)))
    }

    /// Policies in force.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn pipelines(&self) -> impl Iterator<Item = &Arc<Pipeline>> {
        self.exact.values().chain(self.wildcards.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_is_the_name_under_a_wildcard() {
        let ready = |host: &str| {
            (vec![host.to_owned()], Arc::new(Pipeline { name: host.into(), ..Pipeline::default() }), String::new())
        };
        let mut problems = Vec::new();
        let index = Index::new(vec![ready("*.test"), ready("*.x.test"), ready("y.test")], &mut problems);
        let of = |host: &str| index.find(host).map(|pipeline| pipeline.name.to_string());
        for (host, expected) in
            [("a.x.test", "*.x.test"), ("X.test:80", "*.x.test"), ("y.test", "y.test"), ("b.y.test", "*.test")]
        {
            assert_eq!(of(host).as_deref(), Some(expected), "{host}");
        }
        assert_eq!((of("other"), problems.len()), (None, 0));
    }
}
