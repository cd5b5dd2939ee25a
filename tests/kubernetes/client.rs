//! The client of the Kubernetes API against a real one: scales, EndpointSlices and leases, as a service account that may
//! do just that. Run by `tests/kubernetes/run`, which made what is scaled; ends with an error where anything is other
//! than it should be.

use outrider::config::Kubernetes;
use outrider::kube::client::leases::{Lease, Watcher};
use outrider::kube::client::mirror::Mirror;
use outrider::kube::client::scale::{Kind, Ref};
use outrider::kube::client::slices::{self, Endpoint, Port};
use outrider::kube::client::{ApiError, Change, Client, Collection, Patch};
use serde_json::{Value, json};
use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

const NAMESPACE: &str = "models";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, authorities, token] = arguments.as_slice() else {
        return Err("usage: kubernetes SERVER AUTHORITIES TOKEN-FILE".into());
    };
    let client = Client::new(Kubernetes {
        server: server.clone(),
        authorities: Some(authorities.into()),
        token_file: Some(token.into()),
        identity: None,
        timeout: Duration::from_secs(5),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for kind in [Kind::Deployment, Kind::StatefulSet] {
            scales(&client, kind).await?;
        }
        slices_followed(&client).await?;
        leases(&client).await
    })
}

fn expect<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> Result<(), Box<dyn Error>> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}").into()) }
}

async fn scales(client: &Client, kind: Kind) -> Result<(), Box<dyn Error>> {
    let target = Ref { namespace: NAMESPACE.into(), kind, name: "llama".into() };
    expect(client.scale_of(&target).await?, 1, "replicas as they were made")?;
    client.set_scale(&target, 0).await?;
    let scale = client.scale(&target).await?;
    expect((scale.wanted, scale.there, scale.selector.as_str()), (0, 0, "app=llama"), "scaled to zero")?;
    expect(client.set_scale_from(&target, 0, 3).await?, true, "from none, by a JSON patch")?;
    expect(client.set_scale_from(&target, 0, 7).await?, false, "from none, which is true no more")?;
    expect(client.set_scale_from(&target, 3, 2).await?, true, "from three")?;
    expect(client.set_scale_from(&target, 3, 0).await?, false, "from three, which is true no more")?;
    expect(client.set_scale_from(&target, 2, 0).await?, true, "back to none")?;
    client.set_scale(&target, 1).await?;
    expect(client.scale_of(&target).await?, 1, "back to one")?;
    let whole = client.get(target.path().trim_end_matches("/scale")).await;
    expect(whole.err().and_then(|error| error.code()), Some(403), "the pod template is none of its business")?;
    let nobody = client.scale_of(&Ref { name: "nobody".into(), ..target.clone() }).await;
    expect(nobody.err().and_then(|error| error.code()), Some(404), "what is not there")?;
    println!("== {target}: scaled by merge patch and by JSON patch, and only from what was expected");
    Ok(())
}

/// Follows the slices of a Service while they change.
async fn slices_followed(client: &Client) -> Result<(), Box<dyn Error>> {
    let what = slices::of_service(NAMESPACE, "llama");
    let (tell, mut told) = mpsc::unbounded_channel();
    let (following, followed) = (client.clone(), what.clone());
    let follow = async move {
        let mut mirror = Mirror::default();
        let each = |change: Change| {
            if let Change::Failed(error) = &change {
                eprintln!("the watch failed: {error}");
            }
            mirror.take(change);
            let _ = tell.send(slices::endpoints(&mirror, &Port::Named("http".into())));
        };
        match following.follow(&followed, || 0.5, each).await {}
    };
    tokio::select! {
        never = follow => never,
        done = change_slices(client, &what, &mut told) => done?,
    }
    println!("== EndpointSlices: an endpoint came, was ready, was ended, and went, as it was told");
    Ok(())
}

async fn change_slices(
    client: &Client,
    what: &Collection,
    told: &mut mpsc::UnboundedReceiver<Vec<Endpoint>>,
) -> Result<(), Box<dyn Error>> {
    let mut next = async |what: &str| {
        let next = tokio::time::timeout(Duration::from_secs(20), told.recv()).await;
        next.ok().flatten().ok_or_else(|| format!("nothing was told of: {what}"))
    };
    let endpoint = |conditions: Value| json!([{"addresses": ["10.1.2.3"], "conditions": conditions, "targetRef": {"kind": "Pod", "name": "llama-0"}}]);
    let slice = |name: &str, service: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoint(json!({"ready": false}))})
    };
    expect(next("the list").await?.len(), 0, "before any slice")?;
    client.create(&what.path, &slice("other", "other")).await?;
    client.create(&what.path, &slice("llama-1", "llama")).await?;
    let seen = next("a new slice").await?;
    expect(seen.len(), 1, "only of its Service")?;
    expect((seen[0].address.to_string().as_str(), seen[0].ready), ("10.1.2.3:8080", false), "a pod that starts")?;
    expect(seen[0].pod.as_deref(), Some("llama-0"), "its pod")?;
    let path = format!("{}/llama-1", what.path);
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    for (conditions, expected) in [(json!({"ready": true}), (true, true, false)), (ending, (false, true, true))] {
        client.patch(&path, Patch::Merge, &json!({"endpoints": endpoint(conditions)})).await?;
        let seen = next("a changed slice").await?;
        expect((seen[0].ready, seen[0].serving, seen[0].terminating), expected, "a pod that changed")?;
    }
    client.delete(&path).await?;
    expect(next("a deleted slice").await?.len(), 0, "after the slice")?;
    Ok(())
}

async fn leases(client: &Client) -> Result<(), Box<dyn Error>> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (name, long) = ("autoscaler", Duration::from_secs(15));
    expect(client.lease_of(NAMESPACE, name).await?, None, "before anybody holds it")?;
    let free = Lease { namespace: NAMESPACE.into(), name: name.into(), ..Lease::default() };
    let held = client.put_lease(&free.held_by("a", long, now())).await?.ok_or("the first does not get it")?;
    expect(client.put_lease(&free.held_by("b", long, now())).await?, None, "the second one at once")?;
    let read = client.lease_of(NAMESPACE, name).await?.ok_or("it is gone")?;
    expect(&read, &held, "what was written and what is there")?;
    expect((read.holder.as_str(), read.duration, read.transitions), ("a", long, 0), "the first holder")?;
    let mut watcher = Watcher::default();
    expect(watcher.may_take(&read, "b", Duration::ZERO), false, "while it is held")?;
    let renewed = client.put_lease(&held.held_by("a", long, now())).await?.ok_or("the holder cannot renew")?;
    expect((renewed.acquired, renewed.renewed > held.renewed), (held.acquired, true), "renewed")?;
    expect(client.put_lease(&held.held_by("b", long, now())).await?, None, "taken by an old version")?;
    let free = client.put_lease(&renewed.released(now())).await?.ok_or("the holder cannot give it back")?;
    expect(watcher.may_take(&free, "b", Duration::ZERO), true, "when it was given back")?;
    let taken = client.put_lease(&free.held_by("b", long, now())).await?.ok_or("a free one cannot be taken")?;
    expect((taken.holder.as_str(), taken.transitions), ("b", 1), "the second holder")?;
    let forbidden = client.lease_of("kube-system", name).await;
    expect(matches!(forbidden, Err(ApiError::Refused { code: 403, .. })), true, "another namespace's")?;
    println!("== leases: made, renewed, given back and taken over; an old version changes nothing");
    Ok(())
}
