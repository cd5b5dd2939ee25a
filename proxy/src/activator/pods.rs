//! Who the pods of a service are: EndpointSlices, from files or from the API server, followed while they change.
//!
//! Pods that are not ready are listed too, as such, unless they are going away: they may answer before anybody says so.
//! Never empties a service because a question failed or a file is half written: the last list stays until there is a
//! better one. A file that is not there lists nobody, which is how a test, or a tool, says that all have gone.

use super::service::Service;
use super::throttle::Listed;
use crate::config::activator::Pods;
use crate::files::{Stamp, read_bounded};
use crate::kube::client::mirror::Mirror;
use crate::kube::client::slices::{self, Port};
use crate::kube::client::{Change, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often files are looked at.
const FILE_PERIOD: Duration = Duration::from_millis(100);
/// A thousand endpoints take about 300 KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Follows what changes, for ever.
pub async fn follow(service: Arc<Service>, client: Option<Client>) {
    match (&service.config.pods, client) {
        (Pods::Files { files, port }, _) => follow_files(&service, files, port).await,
        (Pods::Kubernetes { service: name, port }, Some(client)) => {
            let what = slices::of_service(&service.config.namespace, name);
            let mut mirror = Mirror::default();
            let told = |change: Change| {
                if let Change::Failed(error) = &change {
                    let service = &service.config.name;
                    tracing::warn!(service, %error, "EndpointSlices cannot be followed; the last pods stay");
                }
                if mirror.take(change) {
                    service.replace(&listed(&mirror, port));
                }
            };
            client.follow(&what, || service.chance.fraction(), told).await;
        }
        (Pods::Kubernetes { .. }, None) => {}
    }
}

async fn follow_files(service: &Service, files: &[PathBuf], port: &Port) {
    let stamps = || files.iter().map(|file| Stamp::of(file).ok()).collect::<Vec<Option<Stamp>>>();
    let mut seen = None;
    loop {
        let now = stamps();
        if seen.as_ref() != Some(&now) {
            match read(files) {
                Ok(mirror) => service.replace(&listed(&mirror, port)),
                Err(error) => {
                    let service = &service.config.name;
                    tracing::error!(service, error, "an EndpointSlice file does not serve; the last pods stay");
                }
            }
            seen = Some(now);
        }
        tokio::time::sleep(FILE_PERIOD).await;
    }
}

/// All files, as one collection.
fn read(files: &[PathBuf]) -> Result<Mirror, String> {
    let mut objects = Vec::new();
    for file in files {
        match read_bounded(file, FILE_BYTES_MAX) {
            Ok(bytes) => take(&String::from_utf8_lossy(&bytes), &mut objects)
                .map_err(|words| format!("{}: {words}", file.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", file.display())),
        }
    }
    for (number, object) in objects.iter_mut().enumerate() {
        // Objects written by hand need no names; the mirror tells objects apart by them.
        object["metadata"] = json!({"name": number.to_string()});
    }
    let mut mirror = Mirror::default();
    mirror.take(Change::All(objects));
    Ok(mirror)
}

/// The slices of one file's text: one or several documents, each a slice or a list of them.
fn take(text: &str, objects: &mut Vec<Value>) -> Result<(), String> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let mut document = Value::deserialize(document).map_err(|error| error.to_string())?;
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        match (kind.as_str(), document.get_mut("items").map(Value::take).unwrap_or_default()) {
            ("EndpointSlice", _) => objects.push(document),
            ("List" | "EndpointSliceList", Value::Array(items)) => {
                objects.extend(items.into_iter().filter(Value::is_object));
            }
            // An empty document, as after a last `---`.
            ("", _) if document.is_null() => {}
            _ => return Err(format!("this is a `{kind}`, not an EndpointSlice")),
        }
    }
    Ok(())
}

fn listed(mirror: &Mirror, port: &Port) -> Vec<Listed> {
    let endpoints = slices::endpoints(mirror, port).into_iter();
    let staying = endpoints.filter(|endpoint| !endpoint.terminating);
    staying.map(|endpoint| Listed { address: endpoint.address, ready: endpoint.ready }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLICES: &str = "
kind: EndpointSlice
addressType: IPv4
ports: [{name: http, port: 80}, {name: metrics, port: 90}]
endpoints:
  - {addresses: [10.0.0.1], conditions: {ready: true}}
  - {addresses: [10.0.0.2], conditions: {ready: false}}
  - {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}
---
{\"kind\": \"List\", \"items\": [{\"kind\": \"EndpointSlice\", \"ports\": [{\"name\": \"http\", \"port\": 81}],
  \"endpoints\": [{\"addresses\": [\"10.0.0.1\"]}]}]}
---
";

    #[test]
    fn which_pods_do_files_list() {
        let folder = tempfile::tempdir().unwrap();
        let (file, absent) = (folder.path().join("s.yaml"), folder.path().join("absent.yaml"));
        std::fs::write(&file, SLICES).unwrap();
        let pods = listed(&read(&[file.clone(), absent]).unwrap(), &Port::Named("http".into()));
        let pods: Vec<(String, bool)> = pods.iter().map(|pod| (pod.address.to_string(), pod.ready)).collect();
        let want = [("10.0.0.1:80", true), ("10.0.0.1:81", true), ("10.0.0.2:80", false)];
        assert_eq!(pods, want.map(|(address, ready)| (address.to_owned(), ready)));
        std::fs::write(&file, "kind: Service").unwrap();
        assert!(read(&[file]).err().unwrap().ends_with("this is a `Service`, not an EndpointSlice"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = take(&text, &mut Vec::new());
        }
    }
}
