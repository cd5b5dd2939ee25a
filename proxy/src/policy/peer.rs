//! PeerAuthentication: whether a port takes plaintext, mutual TLS or both.
//!
//! Of several policies at one level the oldest counts, as in Istio; without `creationTimestamp` the first by name.

use super::document::Node;
use std::collections::BTreeMap;

/// What a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMode {
    /// Plaintext only.
    Disable,
    /// Plaintext or TLS.
    Permissive,
    /// TLS with a client certificate of the mesh, and nothing else.
    Strict,
}

/// One policy. `None` is UNSET: whatever the level above says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerAuthentication {
    pub mode: Option<PeerMode>,
    pub ports: BTreeMap<u16, Option<PeerMode>>,
}

/// How near a policy is to the workload; the nearest one that is set wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Mesh,
    Namespace,
    Workload,
}

/// What all policies together say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerModes {
    default: Option<PeerMode>,
    ports: BTreeMap<u16, Option<PeerMode>>,
}

impl PeerModes {
    /// From one policy for each level at most.
    pub fn new(levels: &BTreeMap<Level, PeerAuthentication>) -> PeerModes {
        // In order of the levels: what is nearer is later.
        let default = levels.values().filter_map(|policy| policy.mode).next_back();
        // An UNSET port is what the workload is, be that inherited or not.
        let ports = levels.get(&Level::Workload).map(|policy| policy.ports.clone()).unwrap_or_default();
        PeerModes { default, ports }
    }

    /// `None`: nothing is said of this port.
    pub fn of(&self, port: u16) -> Option<PeerMode> {
        self.ports.get(&port).copied().flatten().or(self.default)
    }
}

/// The `spec` without its selector.
pub fn peer_authentication(mtls: Option<Node<'_>>, ports: Option<Node<'_>>, has_selector: bool) -> PeerAuthentication {
    let mut policy = PeerAuthentication { mode: mtls.and_then(|node| mode(&node)), ports: BTreeMap::new() };
    let Some(ports) = ports else { return policy };
    if !has_selector {
        ports.problem("needs a selector with matchLabels: only of a workload is it known what its ports are");
    }
    let entries = ports.entries();
    if entries.is_empty() {
        ports.problem("is empty; leave it out");
    }
    for (port, node) in entries {
        match port.parse() {
            Ok(port) if port > 0 => drop(policy.ports.insert(port, mode(&node))),
            _ => node.problem("is not a port, 1 to 65535"),
        }
    }
    policy
}

fn mode(node: &Node<'_>) -> Option<PeerMode> {
    let [mode] = node.fields(["mode"]);
    let mode = mode?;
    match mode.text()? {
        "UNSET" => None,
        "DISABLE" => Some(PeerMode::Disable),
        "PERMISSIVE" => Some(PeerMode::Permissive),
        "STRICT" => Some(PeerMode::Strict),
        _ => {
            mode.problem("is none of UNSET, DISABLE, PERMISSIVE, STRICT");
            None
        }
    }
}
