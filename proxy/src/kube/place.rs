//! Where each kind of manifest keeps its pods, and how to see each as an ordinary pod.

use super::Problem;
use serde_yaml_ng::{Mapping, Value};

/// What a place lets a pod have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// KServe's ServingRuntime has a pod without any.
    pub init_containers: bool,
    /// A Job's pod has done its work when its containers have ended, all of them.
    pub ends: bool,
}

const POD: Kind = Kind { init_containers: true, ends: false };

/// What is done to a pod: whether it changed, or why it cannot be done.
pub type Edit<'a> = dyn FnMut(&mut Value, Kind) -> Result<bool, Vec<String>> + 'a;

/// Edits every pod of a manifest; kinds without pods are left alone.
pub fn edit(manifest: &mut Value, place: &str, edit: &mut Edit<'_>) -> Result<bool, Vec<Problem>> {
    let text = |key: &str| manifest.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let (group, kind) = (text("apiVersion"), text("kind"));
    let group = group.split_once('/').map_or("", |(group, _)| group);
    let templates: &[&str] = match (group, kind.as_str()) {
        ("", "Pod") => &[],
        ("", "PodTemplate") => &["template"],
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => &["spec", "template"],
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        ("serving.kserve.io", "InferenceService") => return components(manifest, place, edit),
        ("serving.kserve.io", "ServingRuntime" | "ClusterServingRuntime") => {
            let Some(spec) = manifest.get_mut("spec") else { return Ok(false) };
            return inlined(spec, place, &mut |pod| edit(pod, Kind { init_containers: false, ..POD }));
        }
        _ => return Ok(false),
    };
    let pod = templates.iter().try_fold(manifest, |value, key| value.get_mut(*key));
    let Some(pod) = pod.filter(|pod| pod.get("spec").is_some_and(Value::is_mapping)) else {
        return Err(vec![Problem { place: place.into(), words: "has no pod where its kind should have one".into() }]);
    };
    let ends = group == "batch";
    edit(pod, Kind { ends, ..POD }).map_err(|words| problems(place, words))
}

fn problems(place: &str, words: Vec<String>) -> Vec<Problem> {
    words.into_iter().map(|words| Problem { place: place.into(), words }).collect()
}

/// An InferenceService's components: each is a pod's spec with labels and annotations beside it.
fn components(manifest: &mut Value, place: &str, edit: &mut Edit<'_>) -> Result<bool, Vec<Problem>> {
    let (mut any, mut found) = (false, Vec::new());
    for name in ["predictor", "transformer", "explainer"] {
        let Some(component) = manifest.get_mut("spec").and_then(|spec| spec.get_mut(name)) else { continue };
        match inlined(component, &format!("{place} {name}"), &mut |pod| edit(pod, POD)) {
            Ok(changed) => any |= changed,
            Err(problems) => found.extend(problems),
        }
    }
    if found.is_empty() { Ok(any) } else { Err(found) }
}

/// KServe gives a predictor's `model` this name in the pod it makes.
const MODEL_CONTAINER: &str = "kserve-container";

/// A spec that holds its own labels and annotations is shown as the pod it becomes, and put back.
fn inlined(
    component: &mut Value,
    place: &str,
    edit: &mut dyn FnMut(&mut Value) -> Result<bool, Vec<String>>,
) -> Result<bool, Vec<Problem>> {
    let Value::Mapping(original) = &*component else { return Ok(false) };
    let mut spec = original.clone();
    let mut metadata = Mapping::new();
    for key in ["labels", "annotations"] {
        if let Some(value) = spec.shift_remove(key) {
            metadata.insert(key.into(), value);
        }
    }
    let had_containers = spec.contains_key("containers");
    let adopted = adopt_model(&mut spec);
    if !spec.contains_key("containers") {
        return Ok(false);
    }
    let mut pod = Mapping::new();
    if !metadata.is_empty() {
        pod.insert("metadata".into(), metadata.into());
    }
    pod.insert("spec".into(), spec.into());
    let mut pod = Value::Mapping(pod);
    if !edit(&mut pod).map_err(|words| problems(place, words))? {
        return Ok(false);
    }
    let Value::Mapping(mut pod) = pod else { unreachable!("a pod stays a mapping") };
    let Some(Value::Mapping(mut spec)) = pod.shift_remove("spec") else { unreachable!("a spec stays one") };
    if let Some(named) = adopted {
        release_model(&mut spec, named, had_containers);
    }
    if let Some(Value::Mapping(metadata)) = pod.shift_remove("metadata") {
        spec.extend(metadata);
    }
    *component = spec.into();
    Ok(true)
}

/// Shows `model` as the first container. Whether it had a name, if there is one.
fn adopt_model(spec: &mut Mapping) -> Option<bool> {
    let Some(Value::Mapping(mut model)) = spec.get("model").cloned() else { return None };
    let named = model.contains_key("name");
    if !named {
        model.insert("name".into(), MODEL_CONTAINER.into());
    }
    match spec.get_mut("containers") {
        Some(Value::Sequence(containers)) => containers.insert(0, model.into()),
        _ => drop(spec.insert("containers".into(), vec![Value::Mapping(model)].into())),
    }
    Some(named)
}

fn release_model(spec: &mut Mapping, named: bool, had_containers: bool) {
    let Some(Value::Sequence(containers)) = spec.get_mut("containers") else { return };
    let mut model = containers.remove(0);
    if !named && let Value::Mapping(model) = &mut model {
        model.shift_remove("name");
    }
    if containers.is_empty() && !had_containers {
        spec.shift_remove("containers");
    }
    spec.insert("model".into(), model);
}
