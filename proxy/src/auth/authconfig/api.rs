//! Policies and Secrets as the Kubernetes API has them, followed.
//!
//! Any of the two may be in a folder instead. While the API is away, what it told last stays in force; before it told
//! anything, nobody enters. Writes nothing, no status either, and shows nothing of what is in a Secret.

use super::kept::Kept;
use super::{Index, Setting, Store};
use crate::config::authconfig::{AuthConfig, Documents, Scope};
use crate::kube::client::mirror::{Mirror, Place};
use crate::kube::client::{ApiError, Change, Client, Collection};
use crate::percent;
use crate::policy::Problem;
use crate::watched::{File, Outside, Watched};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Nobody's credentials for us, and many: releases of up to a megabyte, and tokens of the cluster's own.
const NOT_SECRETS_OF_OURS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";
/// `kubectl apply` writes the whole object into it, secrets included.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is followed.
pub struct Api {
    client: Client,
    policies: Option<Followed>,
    secrets: Option<Followed>,
    kept: Mutex<Kept>,
    outside: Arc<Outside>,
}

/// One collection.
struct Followed {
    what: Collection,
    kind: Kind,
    /// `None`: it was not listed yet.
    mirror: Mutex<Option<Mirror>>,
}

#[derive(Clone, Copy)]
enum Kind {
    AuthConfig,
    Secret,
}

/// Reads what is in folders; whoever runs [`Api::follow`] brings the rest.
pub fn open(config: &AuthConfig, setting: Setting) -> Result<(Watched<Index>, Option<Arc<Api>>), Vec<Problem>> {
    let both = [Some(&config.policies), config.secrets.as_ref()];
    let folders: Vec<PathBuf> = both.into_iter().flatten().filter_map(Documents::folder).cloned().collect();
    let outside: Arc<Outside> = Arc::default();
    let followed = |documents: &Documents, kind| documents.scope().map(|scope| Followed::new(scope, kind));
    let api = Api {
        client: Client::new(config.kubernetes.clone()),
        policies: followed(&config.policies, Kind::AuthConfig),
        secrets: config.secrets.as_ref().and_then(|secrets| followed(secrets, Kind::Secret)),
        kept: Mutex::default(),
        outside: outside.clone(),
    };
    let api = Arc::new(api);
    let loading = api.clone();
    let load = move |files: &[Vec<File>]| loading.load(files, &setting);
    let watched = Watched::open_with(folders, "authconfigs", Box::new(load), outside)?;
    let follows = api.policies.is_some() || api.secrets.is_some();
    Ok((watched, follows.then_some(api)))
}

impl Api {
    /// For ever. Start it on one runtime only.
    pub async fn follow(&self) {
        let one = async |followed: &Option<Followed>| {
            if let Some(followed) = followed {
                followed.follow(&self.client, &self.outside).await;
            }
        };
        tokio::join!(one(&self.policies), one(&self.secrets));
    }

    /// `files` are of the folders that there are: of policies first.
    fn load(&self, files: &[Vec<File>], setting: &Setting) -> Result<Index, Vec<Problem>> {
        let mut files = files.iter().map(Vec::as_slice);
        let written = match &self.policies {
            Some(_) => &[],
            None => files.next().unwrap_or_default(),
        };
        let secrets = match &self.secrets {
            Some(secrets) => secrets.store(&setting.namespace),
            None => Some(Store::parse(files.next().unwrap_or_default(), &setting.namespace)?),
        };
        let Some(secrets) = secrets else { return Ok(Index::unlisted()) };
        let Some(policies) = &self.policies else { return super::load(written, &secrets, setting) };
        let Some(objects) = policies.objects() else { return Ok(Index::unlisted()) };
        Ok(lock(&self.kept).load(&objects, secrets, setting))
    }
}

impl Followed {
    fn new(scope: &Scope, kind: Kind) -> Followed {
        let (group, plural, fields) = match kind {
            Kind::AuthConfig => ("/apis/authorino.kuadrant.io/v1beta3", "authconfigs", ""),
            Kind::Secret => ("/api/v1", "secrets", NOT_SECRETS_OF_OURS),
        };
        let path = match &scope.namespace {
            Some(namespace) => format!("{group}/namespaces/{}/{plural}", percent::part(namespace)),
            None => format!("{group}/{plural}"),
        };
        let what = Collection { path, labels: scope.labels.clone(), fields: fields.into() };
        Followed { what, kind, mirror: Mutex::default() }
    }

    async fn follow(&self, client: &Client, outside: &Outside) {
        let told = |change: Change| match change {
            Change::Failed(error) => {
                tracing::warn!("{}; what it told last stays in force", self.advice(&error));
                outside.failed();
            }
            change => {
                if self.take(change) {
                    outside.changed();
                }
            }
        };
        match client.follow(&self.what, chance, told).await {}
    }

    /// Whether anything that matters is other than before.
    fn take(&self, change: Change) -> bool {
        let trim = |object: Value| self.kind.trim(object);
        let change = match change {
            Change::All(all) => Change::All(all.into_iter().map(trim).collect()),
            Change::Put(object) => Change::Put(trim(object)),
            other => other,
        };
        let mut mirror = lock(&self.mirror);
        let first = mirror.is_none();
        mirror.get_or_insert_default().take(change) || first
    }

    fn objects(&self) -> Option<BTreeMap<Place, Value>> {
        lock(&self.mirror).as_ref().map(|mirror| mirror.objects().clone())
    }

    fn store(&self, namespace: &str) -> Option<Store> {
        lock(&self.mirror).as_ref().map(|mirror| Store::of_objects(mirror.objects().values(), namespace))
    }

    fn advice(&self, error: &ApiError) -> String {
        let path = &self.what.path;
        match (error.code(), self.kind) {
            (Some(401 | 403), _) => {
                format!("{error}; let this sidecar's service account get, list and watch {path}")
            }
            (Some(404), Kind::AuthConfig) => format!("{error}; there is no {path}: install Authorino's CRDs"),
            _ => format!("{path}: {error}"),
        }
    }
}

impl Kind {
    /// Less what changes without changing anything, and what holds secrets where nobody looks for them; with what lists
    /// leave out because all of them have it.
    fn trim(self, mut object: Value) -> Value {
        let (version, kind) = match self {
            Kind::AuthConfig => ("authorino.kuadrant.io/v1beta3", "AuthConfig"),
            Kind::Secret => ("v1", "Secret"),
        };
        let Some(fields) = object.as_object_mut() else { return object };
        fields.entry("apiVersion").or_insert_with(|| version.into());
        fields.entry("kind").or_insert_with(|| kind.into());
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            // A status that somebody writes is a new version too.
            if matches!(self, Kind::AuthConfig) {
                metadata.remove("resourceVersion");
            }
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(APPLIED);
            }
        }
        object
    }
}

impl Documents {
    fn folder(&self) -> Option<&PathBuf> {
        match self {
            Documents::Folder(folder) => Some(folder),
            Documents::Api(_) => None,
        }
    }

    fn scope(&self) -> Option<&Scope> {
        match self {
            Documents::Folder(_) => None,
            Documents::Api(scope) => Some(scope),
        }
    }
}

/// From 0 to 1; without any chance, all come back as one, which is no reason to stop.
fn chance() -> f64 {
    let mut bytes = [0; 2];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
