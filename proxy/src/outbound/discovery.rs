//! Where a cluster's endpoints come from while it runs: names that are asked again, files that are read again.
//!
//! Never empties a cluster because a question failed: the last answer stays until there is a better one.

use super::cluster::Cluster;
use super::endpoint::Endpoint;
use super::slice::{Slices, parse};
use crate::config::outbound::Source;
use crate::files::{Stamp, read_bounded};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often files are looked at; a kubelet or a sync tool replaces them within seconds.
const FILE_PERIOD: Duration = Duration::from_millis(500);
/// A thousand endpoints take about 300 KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// A name that does not resolve is asked again sooner than one that does.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Fills the cluster with what can be had at once, so that the first request finds it.
pub fn begin(cluster: &Cluster) {
    match &cluster.config.source {
        Source::Static(endpoints) => {
            let endpoints = endpoints.iter().map(|endpoint| Endpoint {
                weight: endpoint.weight,
                zone: endpoint.zone.clone(),
                ..Endpoint::new(endpoint.address)
            });
            cluster.replace(endpoints.collect());
        }
        Source::EndpointSlice { files, port } => read(cluster, files, port.as_deref()),
        Source::Dns { .. } => {}
    }
}

/// Follows what changes, for ever.
pub async fn follow(cluster: Arc<Cluster>) {
    match cluster.config.source.clone() {
        Source::Static(_) => {}
        Source::Dns { name, port, refresh } => resolve(cluster, (&name, port), refresh).await,
        Source::EndpointSlice { files, port } => {
            let stamps = || files.iter().map(|file| Stamp::of(file).ok()).collect::<Vec<Option<Stamp>>>();
            let mut seen = stamps();
            // Once more at the start: it may have changed between `begin` and the first look at the stamps.
            read(&cluster, &files, port.as_deref());
            loop {
                tokio::time::sleep(FILE_PERIOD).await;
                let now = stamps();
                if now != seen {
                    seen = now;
                    read(&cluster, &files, port.as_deref());
                }
            }
        }
    }
}

fn read(cluster: &Cluster, files: &[PathBuf], port: Option<&str>) {
    let mut slices = Slices::default();
    for file in files {
        let text = read_bounded(file, FILE_BYTES_MAX).map_err(|error| error.to_string());
        match text.and_then(|bytes| parse(&String::from_utf8_lossy(&bytes), port)) {
            Ok(more) => slices.merge(more),
            Err(error) => {
                let (cluster, file) = (&cluster.config.name, file.display());
                tracing::error!(cluster, %file, error, "an EndpointSlice file does not serve; the last endpoints stay");
                return;
            }
        }
    }
    let endpoints = slices.endpoints();
    tracing::info!(cluster = cluster.config.name, endpoints = endpoints.len(), "endpoints read");
    cluster.replace(endpoints);
}

async fn resolve(cluster: Arc<Cluster>, name: (&str, u16), refresh: Duration) {
    let mut known: BTreeSet<SocketAddr> = BTreeSet::new();
    loop {
        let pause = match tokio::net::lookup_host(name).await {
            Ok(addresses) => {
                let addresses: BTreeSet<SocketAddr> = addresses.collect();
                if addresses != known {
                    tracing::info!(cluster = cluster.config.name, endpoints = addresses.len(), "name resolved");
                    cluster.replace(addresses.iter().copied().map(Endpoint::new).collect());
                    known = addresses;
                }
                refresh
            }
            Err(error) => {
                tracing::warn!(cluster = cluster.config.name, name = name.0, %error, "a name does not resolve");
                RETRY_PERIOD.min(refresh)
            }
        };
        tokio::time::sleep(pause).await;
    }
}
