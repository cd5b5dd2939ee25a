//! Files to [`Policies`]: which documents are ours, which apply to the workload, and what is wrong with the rest.
//!
//! A document that does not apply is still read whole: a mistake in it is told before somebody moves a label.

use super::authorization::{self, Action, Context};
use super::decide::Policy;
use super::document::{Node, Origin, Problem, documents};
use super::jwt_rule::jwt_rules;
use super::peer::{Level, PeerModes, peer_authentication};
use super::trust::TrustDomains;
use super::{Policies, Workload};
use serde_yaml_ng::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const GROUP: &str = "security.istio.io/";
const KINDS: [&str; 3] = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"];

pub fn parse(files: &[(String, String)], workload: &Workload) -> Result<Policies, Vec<Problem>> {
    let problems = RefCell::new(Vec::new());
    let trust = TrustDomains::new(&workload.trust_domain, &workload.trust_domain_aliases);
    let mut reader =
        Reader { workload, trust, found: Policies::default(), peers: BTreeMap::new(), seen: HashMap::new() };
    for (file, text) in files {
        for (number, value) in documents(file, text, &problems).iter().enumerate() {
            let document = format!("document {}", number + 1);
            reader.document(value, &Origin { file, document, problems: &problems });
        }
    }
    let policies = reader.finish();
    let problems = problems.into_inner();
    if problems.is_empty() { Ok(policies) } else { Err(problems) }
}

struct Reader<'a> {
    workload: &'a Workload,
    trust: TrustDomains,
    found: Policies,
    /// By level and then by age and name: the first of a level counts.
    peers: BTreeMap<(Level, String, String), super::peer::PeerAuthentication>,
    /// Which file a document was first seen in.
    seen: HashMap<String, String>,
}

/// Whose a document is.
struct Owner {
    namespace: String,
    /// `namespace/name`
    name: Arc<str>,
    created: String,
    dry_run: bool,
}

/// Whom a document is for.
struct Selection {
    /// Whether it names labels at all.
    has_labels: bool,
    applies: bool,
}

impl Reader<'_> {
    fn document(&mut self, value: &Value, origin: &Origin<'_>) {
        let node = Node::root(value, origin);
        let text = |name: &str| node.field(name).and_then(|node| node.text()).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if kind == "List" {
            // What `kubectl get -o yaml` prints.
            for (i, item) in value.get("items").and_then(Value::as_sequence).into_iter().flatten().enumerate() {
                let document = format!("{}, items[{i}]", origin.document);
                let Origin { file, problems, .. } = *origin;
                self.document(item, &Origin { file, document, problems });
            }
            return;
        }
        match version.strip_prefix(GROUP) {
            Some("v1" | "v1beta1") if KINDS.contains(&kind) => self.policy(value, origin, kind),
            Some("v1" | "v1beta1") => node.problem(format!("kind {kind} is none of {}", KINDS.join(", "))),
            Some(_) => node.problem(format!("apiVersion {version} is not read; write security.istio.io/v1")),
            None if kind.is_empty() || version.is_empty() => node.problem("has no kind or no apiVersion"),
            None => self.note(origin, format!("{version} {kind} is not read")),
        }
    }

    fn note(&mut self, origin: &Origin<'_>, words: String) {
        self.found.notes.push(format!("{}: {}: {words}", origin.file, origin.document));
    }

    fn policy(&mut self, value: &Value, origin: &Origin<'_>, kind: &str) {
        let Some(owner) = self.owner(&Node::root(value, origin)) else { return };
        let origin = Origin { document: format!("{kind} {}", owner.name), ..*origin };
        let node = Node::root(value, &origin);
        node.fields(["apiVersion", "kind", "metadata", "spec", "status"]);
        if let Some(file) = self.seen.insert(origin.document.clone(), origin.file.into()) {
            node.problem(format!("is already in {file}; only one of the two can be meant"));
        }
        // Without `spec` it is as with an empty one: Istio reads an ALLOW policy that allows nothing.
        let empty = Value::Mapping(serde_yaml_ng::Mapping::new());
        let spec = node.field("spec").unwrap_or(Node::root(&empty, &origin));
        match kind {
            "AuthorizationPolicy" => self.authorization(&spec, owner, &origin),
            "PeerAuthentication" => self.peer(&spec, owner, &origin),
            _ => self.request(&spec, owner, &origin),
        }
    }

    fn owner(&self, node: &Node<'_>) -> Option<Owner> {
        let metadata = node.field("metadata");
        let text = |name: &str| metadata.as_ref()?.field(name)?.text();
        let Some(name) = text("name") else {
            node.problem("has no metadata.name");
            return None;
        };
        let namespace = text("namespace").unwrap_or(&self.workload.namespace).to_owned();
        let dry_run = metadata.as_ref().and_then(|node| node.field("annotations")?.field("istio.io/dry-run"));
        let dry_run = dry_run.is_some_and(|node| match node.text() {
            Some("true") => true,
            Some("false") | None => false,
            Some(_) => {
                node.problem("is neither \"true\" nor \"false\"");
                false
            }
        });
        let name = format!("{namespace}/{name}").into();
        // Of this shape the order of text is the order of time; what has no time is the youngest.
        let created = text("creationTimestamp").unwrap_or("~").to_owned();
        Some(Owner { namespace, name, created, dry_run })
    }

    /// Notes why a policy does not apply, unless it is simply another workload's.
    fn selection(&mut self, nodes: [Option<Node<'_>>; 3], owner: &Owner, origin: &Origin<'_>) -> Selection {
        let [selector, target, targets] = nodes;
        let in_scope = owner.namespace == self.workload.namespace || owner.namespace == self.workload.root_namespace;
        let mut selection = Selection { has_labels: false, applies: in_scope };
        if let Some(target) = target.or(targets) {
            if selector.is_some() {
                target.problem("stands beside a selector; only one of them can be right");
            }
            self.note(origin, "has targetRefs: it is for a gateway or waypoint, and not for a sidecar".into());
            selection.applies = false;
        }
        let labels = selector.and_then(|node| {
            let [labels] = node.fields(["matchLabels"]);
            labels
        });
        for (name, value) in labels.iter().flat_map(|labels| labels.entries()) {
            selection.has_labels = true;
            let value = value.text();
            selection.applies &= value.is_some() && self.workload.labels.get(&name).map(String::as_str) == value;
        }
        selection
    }

    fn authorization(&mut self, spec: &Node<'_>, owner: Owner, origin: &Origin<'_>) {
        let fields = ["selector", "targetRef", "targetRefs", "action", "provider", "rules"];
        let [selector, target, targets, action, provider, rules] = spec.fields(fields);
        let selection = self.selection([selector, target, targets], &owner, origin);
        let action = authorization::action(action.as_ref(), provider.as_ref(), rules.as_ref());
        let context = Context { namespace: &owner.namespace, trust: &self.trust };
        let rules = rules.map(|rules| authorization::rules(&rules, &context)).unwrap_or_default();
        let Some(action) = action.filter(|_| selection.applies) else { return };
        let policy = Policy { name: owner.name, rules };
        let actions = &mut self.found.actions;
        match (action, owner.dry_run) {
            (Action::Allow, false) => actions.allow.push(policy),
            (Action::Allow, true) => actions.dry_allow.push(policy),
            (Action::Deny, false) => actions.deny.push(policy),
            (Action::Deny, true) => actions.dry_deny.push(policy),
            (Action::Audit, false) => actions.audit.push(policy),
            (Action::Custom(provider), false) => actions.custom.push((policy, provider.into())),
            (Action::Audit | Action::Custom(_), true) => {
                self.note(origin, "is a dry run, which does nothing for AUDIT and CUSTOM".into());
            }
        }
    }

    fn peer(&mut self, spec: &Node<'_>, owner: Owner, origin: &Origin<'_>) {
        let [selector, mtls, ports] = spec.fields(["selector", "mtls", "portLevelMtls"]);
        let selection = self.selection([selector, None, None], &owner, origin);
        let policy = peer_authentication(mtls, ports, selection.has_labels);
        let is_root = owner.namespace == self.workload.root_namespace;
        let level = match (selection.has_labels, is_root) {
            (true, true) => {
                self.note(origin, "has a selector in the root namespace, where Istio reads none".into());
                return;
            }
            (true, false) => Level::Workload,
            (false, true) => Level::Mesh,
            (false, false) => Level::Namespace,
        };
        if selection.applies {
            self.peers.insert((level, owner.created, owner.name.to_string()), policy);
        }
    }

    fn request(&mut self, spec: &Node<'_>, owner: Owner, origin: &Origin<'_>) {
        let [selector, target, targets, rules] = spec.fields(["selector", "targetRef", "targetRefs", "jwtRules"]);
        let selection = self.selection([selector, target, targets], &owner, origin);
        let rules = rules.map(|rules| jwt_rules(&rules, &owner.name)).unwrap_or_default();
        if selection.applies {
            self.found.jwt_rules.extend(rules);
        }
    }

    fn finish(mut self) -> Policies {
        let actions = &mut self.found.actions;
        let lists = [&mut actions.deny, &mut actions.allow, &mut actions.audit];
        for list in lists.into_iter().chain([&mut actions.dry_deny, &mut actions.dry_allow]) {
            list.sort_by(|a, b| a.name.cmp(&b.name));
        }
        actions.custom.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        self.found.jwt_rules.sort_by(|a, b| (&a.policy, a.index).cmp(&(&b.policy, b.index)));
        let mut levels = BTreeMap::new();
        for ((level, _, name), policy) in self.peers {
            match levels.entry(level) {
                std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(policy)),
                std::collections::btree_map::Entry::Occupied(_) => {
                    self.found.notes.push(format!("PeerAuthentication {name}: an older one at the same level counts"));
                }
            }
        }
        self.found.peers = PeerModes::new(&levels);
        self.found
    }
}
