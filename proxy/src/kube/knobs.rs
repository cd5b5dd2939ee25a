//! What a pod's own annotations decide: ours, and those of Istio's that mean the same.
//!
//! `sidecar.istio.io/inject` is not among them: it says whether the pod gets Istio's sidecar, and whoever replaces that
//! one by ours writes `false` there.

use super::options::{Options, Redirect};
use super::undo::INJECTED;
use serde_yaml_ng::Value;

/// The annotation that holds the sidecar's configuration; not a knob.
pub const PROXY_YAML: &str = "outrider.dev/proxy.yaml";
const OURS: &str = "outrider.dev/";

type Set = fn(&mut Options, &str) -> Result<(), String>;

/// Ours (behind the prefix), Istio's (whole), and what it does.
const KNOBS: &[(&str, &str, Set)] = &[
    ("excludeInboundPorts", "traffic.sidecar.istio.io/excludeInboundPorts", |o, text| {
        lists(o, port_list(text), |r, ports| r.exclude_inbound_ports = ports)
    }),
    ("excludeOutboundIPRanges", "traffic.sidecar.istio.io/excludeOutboundIPRanges", |o, text| {
        lists(o, range_list(text), |r, ranges| r.exclude_outbound_ranges = ranges)
    }),
    ("excludeOutboundPorts", "traffic.sidecar.istio.io/excludeOutboundPorts", |o, text| {
        lists(o, port_list(text), |r, ports| r.exclude_outbound_ports = ports)
    }),
    // Istio has none like it: its own name would be ours.
    ("holdApplicationUntilDrained", "outrider.dev/holdApplicationUntilDrained", |o, text| {
        truth(text).map(|hold| o.hold_app = hold)
    }),
    ("includeInboundPorts", "traffic.sidecar.istio.io/includeInboundPorts", |o, text| {
        let all = (text == "*").then(|| Ok(vec!["*".into()]));
        lists(o, all.unwrap_or_else(|| port_list(text)), |r, ports| r.include_inbound_ports = Some(ports))
    }),
    ("includeOutboundIPRanges", "traffic.sidecar.istio.io/includeOutboundIPRanges", |o, text| {
        let all = (text == "*").then(|| Ok(vec!["*".into()]));
        lists(o, all.unwrap_or_else(|| range_list(text)), |r, ranges| r.include_outbound_ranges = Some(ranges))
    }),
    ("includeOutboundPorts", "traffic.sidecar.istio.io/includeOutboundPorts", |o, text| {
        lists(o, port_list(text), |r, ports| r.include_outbound_ports = ports)
    }),
    ("interceptionMode", "sidecar.istio.io/interceptionMode", interception),
    ("logLevel", "sidecar.istio.io/logLevel", log),
    ("nativeSidecar", "sidecar.istio.io/nativeSidecar", |o, text| truth(text).map(|native| o.native = Some(native))),
    ("proxyCPU", "sidecar.istio.io/proxyCPU", |o, text| quantity(text).map(|cpu| o.resources.cpu = cpu)),
    ("proxyCPULimit", "sidecar.istio.io/proxyCPULimit", |o, text| {
        quantity(text).map(|cpu| o.resources.cpu_limit = Some(cpu))
    }),
    ("proxyMemory", "sidecar.istio.io/proxyMemory", |o, text| quantity(text).map(|memory| o.resources.memory = memory)),
    ("proxyMemoryLimit", "sidecar.istio.io/proxyMemoryLimit", |o, text| {
        quantity(text).map(|memory| o.resources.memory_limit = Some(memory))
    }),
    ("rewriteAppHTTPProbers", "sidecar.istio.io/rewriteAppHTTPProbers", |o, text| {
        truth(text).map(|rewrite| o.rewrite_probes = rewrite)
    }),
];

/// The options for this pod; `None` if it does not want the sidecar. Where both names are there, ours is the one.
pub fn read(pod: &Value, options: &Options) -> Result<Option<Options>, Vec<String>> {
    let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let Some(Value::Mapping(annotations)) = annotations else { return Ok(Some(options.clone())) };
    let (mut options, mut problems) = (options.clone(), Vec::new());
    for (name, istio, set) in KNOBS {
        let ours = format!("{OURS}{name}");
        let found = [ours.as_str(), istio].into_iter().find_map(|key| Some((key, annotations.get(key)?)));
        let Some((key, value)) = found else { continue };
        let outcome =
            value.as_str().ok_or_else(|| "must be text, in quotes".to_owned()).and_then(|v| set(&mut options, v));
        problems.extend(outcome.err().map(|words| format!("annotation {key}: {words}")));
    }
    let mut wanted = true;
    for (key, value) in annotations {
        let Some(name) = key.as_str().and_then(|key| key.strip_prefix(OURS)) else { continue };
        let own = format!("{OURS}{name}");
        match name {
            "inject" => match value.as_str().map(truth) {
                Some(Ok(truth)) => wanted = truth,
                _ => problems.push(format!("annotation {own}: must be \"true\" or \"false\"")),
            },
            _ if own == INJECTED || own == PROXY_YAML || KNOBS.iter().any(|knob| knob.0 == name) => {}
            _ => problems.push(format!("annotation {own}: there is none of this name; misspelt?")),
        }
    }
    if problems.is_empty() { Ok(wanted.then_some(options)) } else { Err(problems) }
}

fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "enabled" => Ok(true),
        "false" | "no" | "off" | "0" | "disabled" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// Resource quantities, in the forms people write.
pub fn quantity(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let known = ["", "m", "k", "M", "G", "Ki", "Mi", "Gi"].contains(&unit);
    let number = digits.parse::<f64>().is_ok_and(|number| number.is_finite() && number >= 0.0);
    let sane = known && number && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    sane.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is no quantity; write 100m or 128Mi"))
}

/// Pieces between commas.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|piece| !piece.is_empty())
}

/// Ports with commas between them.
pub fn port_list(text: &str) -> Result<Vec<String>, String> {
    let port = |piece: &str| match piece.parse::<u16>().is_ok_and(|port| port != 0) {
        true => Ok(piece.to_owned()),
        false => Err(format!("`{piece}` is no port; write 8080,9090")),
    };
    list(text).map(port).collect()
}

/// CIDR blocks with commas between them.
pub fn range_list(text: &str) -> Result<Vec<String>, String> {
    let sane = |piece: &str| {
        let (address, bits) = piece.split_once('/')?;
        let address: std::net::IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(())
    };
    let range = |piece: &str| match sane(piece).is_some() {
        true => Ok(piece.to_owned()),
        false => Err(format!("`{piece}` is no range of addresses; write 10.0.0.0/8")),
    };
    list(text).map(range).collect()
}

/// Without a redirect these annotations mean nothing, as in a mesh whose pods are not intercepted.
fn lists(
    options: &mut Options,
    list: Result<Vec<String>, String>,
    set: fn(&mut Redirect, Vec<String>),
) -> Result<(), String> {
    let list = list?;
    if let Some(redirect) = &mut options.redirect {
        set(redirect, list);
    }
    Ok(())
}

fn interception(options: &mut Options, text: &str) -> Result<(), String> {
    match text {
        "NONE" => options.redirect = None,
        "REDIRECT" => drop(options.redirect.get_or_insert_default()),
        _ => return Err(format!("`{text}` is not possible here; REDIRECT or NONE")),
    }
    match options.problems().first() {
        Some(problem) => Err(problem.to_string()),
        None => Ok(()),
    }
}

fn log(options: &mut Options, text: &str) -> Result<(), String> {
    let level = match text {
        "trace" | "debug" | "info" | "error" | "off" => text,
        "warning" | "warn" => "warn",
        "critical" => "error",
        _ => return Err(format!("`{text}` is no level; trace, debug, info, warn, error or off")),
    };
    options.log = Some(level.into());
    Ok(())
}
