//! `x509` of a policy: whose certificates are taken, and where a proxy before us has put them.
//!
//! Believes a header of peers whose own certificate was verified, and of gateways that ask us; of nobody else.

use super::authentication::read;
use super::compile::Compiler;
use super::raw::Entry;
use super::secrets::LabelSelector;
use crate::auth::methods::Method;
use crate::auth::methods::x509::{Authorities, Source, anchors, of};
use crate::auth::values::RawValueFrom;
use crate::config::Vouchers;
use http::HeaderName;
use serde::Deserialize;
use serde_json::Value;

/// Where Authorino looks for an authority in a Secret, in this order.
const AUTHORITY: [&str; 2] = ["tls.crt", "ca.crt"];
/// Where a gateway tells us of the certificate it was shown.
const SHOWN: &str = "source.certificate";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawX509 {
    selector: LabelSelector,
    #[serde(default)]
    all_namespaces: bool,
    source: Option<RawSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSource {
    xfcc_header: Option<String>,
    client_cert_header: Option<String>,
    expression: Option<String>,
}

pub(super) fn x509(compiler: &Compiler<'_>, settings: Value, entry: &mut Entry<'_>) -> Option<Box<dyn Method>> {
    let raw: RawX509 = read(settings, entry, "x509")?;
    if raw.selector.is_empty() {
        entry.problem("x509.selector: selects every Secret there is; name a label");
    }
    let namespace = Some(compiler.namespace).filter(|_| !raw.all_namespaces);
    let mut all = Vec::new();
    for secret in compiler.secrets.selected(namespace, &raw.selector) {
        let pem = AUTHORITY.iter().find_map(|key| secret.data.get(*key));
        match pem.map(|pem| anchors(pem)) {
            Some(Ok(anchors)) => all.extend(anchors),
            _ => tracing::warn!(secret = secret.name, "holds no authority as tls.crt or ca.crt"),
        }
    }
    // The gateway's own word is no header, and needs nobody to vouch for it.
    let vouchers = match raw.source {
        Some(_) => compiler.setting.certificate_peers.clone(),
        None => Vouchers::Verified,
    };
    let source = source(raw.source, entry)?;
    Some(of(Authorities::Fixed(all), source, vouchers))
}

fn source(raw: Option<RawSource>, entry: &mut Entry<'_>) -> Option<Source> {
    let header = |name: &str, entry: &mut Entry<'_>| {
        let parsed = HeaderName::try_from(name).ok();
        if parsed.is_none() {
            entry.problem(format!("x509.source: `{name}` is no header's name"));
        }
        parsed
    };
    let value = |from: RawValueFrom, entry: &mut Entry<'_>| match from.compile(&format!("{}.x509.source", entry.path)) {
        Ok(from) => Some(Source::Value(from)),
        Err(problem) => {
            entry.problems.push(problem);
            None
        }
    };
    let Some(raw) = raw else {
        return value(RawValueFrom { selector: Some(SHOWN.into()), ..RawValueFrom::default() }, entry);
    };
    match (raw.xfcc_header, raw.client_cert_header, raw.expression) {
        (Some(name), None, None) => header(&name, entry).map(Source::Xfcc),
        (None, Some(name), None) => header(&name, entry).map(Source::ClientCert),
        (None, None, Some(expression)) => {
            value(RawValueFrom { expression: Some(expression), ..RawValueFrom::default() }, entry)
        }
        _ => {
            entry.problem("x509.source: give exactly one of xfccHeader, clientCertHeader and expression");
            None
        }
    }
}
