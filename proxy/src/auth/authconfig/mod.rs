//! Authorino's AuthConfig, and the rules of Kuadrant's AuthPolicy, read as they are and made into pipelines.
//!
//! All problems of all files are told at once, each with its path. Nothing is guessed: what is not understood is refused,
//! for a rule that silently did nothing would let in whom it was to keep out.

mod access;
mod api;
mod authentication;
mod certificates;
mod compile;
mod hosts;
mod kept;
mod raw;
pub mod secrets;
#[cfg(test)]
mod tests;

pub use api::{Api, open};
pub use hosts::Index;
pub use secrets::{Secret, Store};

use crate::auth::callbacks::Callbacks;
use crate::auth::methods::Tools;
use crate::auth::pipeline::Pipeline;
use crate::auth::pipeline::counts::Tally;
use crate::auth::site::HostPattern;
use crate::config::Kubernetes;
use crate::config::auth::Vouchers;
use crate::config::authconfig::{AuthConfig, Compat};
use crate::fetch::{Client, Trust};
use crate::policy::Problem;
use crate::watched::File;
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What policies are compiled with.
pub struct Setting {
    pub compat: Compat,
    /// Of policies that name none.
    pub namespace: String,
    pub client: Client,
    pub tools: Tools,
    /// To verify servers of keys with; `None`: the machine's own.
    pub authorities: Option<PathBuf>,
    pub audiences: Vec<String>,
    /// Credentials are left in the request.
    pub keep_credentials: bool,
    /// Hosts that a request may choose among.
    pub hosts: Vec<HostPattern>,
    /// For one whole decision.
    pub timeout: Option<Duration>,
    pub kubernetes: Kubernetes,
    /// Peers whose word of a caller's certificate is believed.
    pub certificate_peers: Vouchers,
    pub callbacks: Arc<Callbacks>,
    /// What becomes of the questions that they are asked.
    pub tally: Arc<Tally>,
}

impl Setting {
    pub fn new(config: &AuthConfig, tools: Tools, callbacks: Arc<Callbacks>) -> Setting {
        Setting {
            compat: config.compat,
            namespace: config.namespace.clone(),
            client: Client::new(Trust { authorities: config.authorities.clone(), identity: None }),
            tools,
            authorities: config.authorities.clone(),
            audiences: config.audiences.clone(),
            keep_credentials: config.keep_credentials,
            hosts: config.hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect(),
            timeout: Some(config.timeout),
            kubernetes: config.kubernetes.clone(),
            certificate_peers: match config.certificate_peers.as_slice() {
                [] => Vouchers::Verified,
                peers if peers.iter().any(|peer| peer == "*") => Vouchers::Anybody,
                peers => Vouchers::Peers(peers.to_vec()),
            },
            callbacks,
            tally: Arc::default(),
        }
    }
}

/// Makes all policies of some files ready, or says all that is wrong.
pub fn load(files: &[File], secrets: &Store, setting: &Setting) -> Result<Index, Vec<Problem>> {
    let (mut ready, mut problems) = (Vec::new(), Vec::new());
    for (file, text) in files {
        for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
            let problem = |document: String, path: &str, message: String| Problem {
                file: file.clone(),
                document,
                path: path.into(),
                message,
            };
            let value = match Value::deserialize(document) {
                Ok(Value::Null) => continue,
                Ok(value) => value,
                Err(error) => {
                    problems.push(problem(format!("document {}", number + 1), "", format!("is not YAML: {error}")));
                    // What follows a syntax error is not in step with anything.
                    break;
                }
            };
            let named = raw::Named::of(&value);
            match compile::document(value, &named, secrets, setting) {
                Ok(None) => {}
                Ok(Some((hosts, pipeline))) => ready.push((hosts, Arc::new(pipeline), file.clone())),
                Err(more) => {
                    let told = more.into_iter().map(|it| problem(named.to_string(), &it.path, it.message));
                    problems.extend(told);
                }
            }
        }
    }
    let index = Index::new(ready, &mut problems);
    if problems.is_empty() { Ok(index) } else { Err(problems) }
}

/// Hosts and the policy for them.
type Ready = (Vec<String>, Arc<Pipeline>, String);
