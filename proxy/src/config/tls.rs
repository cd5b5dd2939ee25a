//! The `tls` section: the mode, the trust domain, and where our identity comes from.

use super::inbound;
use super::quantity::Quantity;
use super::raw::Problems;
use crate::tls::SpiffeId;
use crate::tls::identity::is_trust_domain;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// For ports that `ports` does not name, unless a PeerAuthentication says otherwise.
    pub mode: TlsMode,
    /// By the port the caller meant.
    pub ports: BTreeMap<u16, TlsMode>,
    /// Ours. Empty with [`TlsMode::Disable`] and no source.
    pub trust_domain: String,
    /// Present unless the mode is [`TlsMode::Disable`]; with that it is there if one is configured, for the way out.
    pub source: Option<IdentitySource>,
    pub trust: TrustFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Plaintext, TLS without and TLS with a client certificate, all on one port.
    Permissive,
    /// TLS with a client certificate of a trusted domain, and nothing else.
    Strict,
    /// TLS, and nobody is asked for a certificate.
    Simple,
    /// Plaintext only.
    Disable,
}

/// Where our identity comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum IdentitySource {
    Files(TlsFiles),
    WorkloadApi(WorkloadApi),
    IstioCa(IstioCa),
    SelfSigned(SelfSigned),
}

/// PEM files.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsFiles {
    /// Our chain, leaf first.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authorities of our trust domain; without, no client certificate is believed.
    pub trust_bundle: Option<PathBuf>,
}

/// Trust beside the bundle of our own domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustFiles {
    /// Revocation lists, PEM or DER.
    pub crl: Vec<PathBuf>,
    /// Refuse certificates whose issuer has no list.
    pub crl_required: bool,
    /// Bundles of other trust domains.
    pub federated: BTreeMap<String, PathBuf>,
}

/// A SPIFFE Workload API.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadApi {
    pub socket: PathBuf,
    /// Which SVID, where the agent gives several; otherwise the first one, which is the default one.
    pub spiffe_id: Option<SpiffeId>,
    pub hint: Option<String>,
}

/// Istio's certificate service.
#[derive(Clone, Debug, PartialEq)]
pub struct IstioCa {
    pub host: String,
    pub port: u16,
    /// What its certificate must name; the host unless told otherwise.
    pub server_name: String,
    /// The projected service account token.
    pub token: PathBuf,
    /// The authorities the service's own certificate leads to.
    pub root: PathBuf,
    pub cluster_id: String,
    /// Both from the token unless told.
    pub namespace: Option<String>,
    pub service_account: Option<String>,
    /// Asked for; the authority may give less.
    pub lifetime: Duration,
}

/// An authority in this process.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfSigned {
    pub spiffe_id: SpiffeId,
    pub lifetime: Duration,
    /// Certificate and key of an authority that others share; without, one that nobody else knows.
    pub authority: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    mode: String,
    #[serde(default)]
    ports: BTreeMap<u16, String>,
    trust_domain: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    trust_bundle: Option<PathBuf>,
    workload_api: Option<RawWorkloadApi>,
    istio_ca: Option<RawIstioCa>,
    self_signed: Option<RawSelfSigned>,
    crl: Option<OneOrMany>,
    crl_required: Option<bool>,
    #[serde(default)]
    federated: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkloadApi {
    socket: PathBuf,
    spiffe_id: Option<String>,
    hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIstioCa {
    address: String,
    token: Option<PathBuf>,
    root: Option<PathBuf>,
    cluster_id: Option<String>,
    server_name: Option<String>,
    namespace: Option<String>,
    service_account: Option<String>,
    lifetime: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSelfSigned {
    spiffe_id: String,
    lifetime: Option<Quantity>,
    authority_certificate: Option<PathBuf>,
    authority_key: Option<PathBuf>,
}

/// As both kubelet and istiod have it.
const DAY: Duration = Duration::from_secs(86_400);

impl Tls {
    /// Whether any port may speak TLS.
    pub fn any(&self) -> bool {
        self.mode != TlsMode::Disable || self.ports.values().any(|mode| *mode != TlsMode::Disable)
    }
}

impl RawTls {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Tls {
        let mode = inbound::mode("tls.mode", &self.mode, p);
        let ports = self.ports.iter().map(|(port, text)| (*port, inbound::mode(&format!("tls.ports.{port}"), text, p)));
        let ports: BTreeMap<u16, TlsMode> = ports.collect();
        let disabled = mode == TlsMode::Disable && ports.values().all(|mode| *mode == TlsMode::Disable);
        let trust_domain = self.trust_domain.clone().unwrap_or_default();
        let files = [&self.certificate, &self.key, &self.trust_bundle].iter().any(|part| part.is_some());
        let others = [self.workload_api.is_some(), self.istio_ca.is_some(), self.self_signed.is_some()];
        let sources = usize::from(files) + others.iter().filter(|there| **there).count();
        if disabled && sources == 0 {
            return Tls { mode, ports, trust_domain, source: None, trust: TrustFiles::default() };
        }
        // SPIFFE-ID section 2.1: a trust domain is lower-case letters, digits, dots, dashes and underscores.
        if trust_domain.is_empty() {
            p.add("tls.trust_domain", "is needed, for example `outrider.local`");
        } else if !is_trust_domain(&trust_domain) {
            p.add("tls.trust_domain", format!("`{trust_domain}` is no SPIFFE trust domain (a-z 0-9 . - _)"));
        }
        if sources > 1 {
            p.add("tls", "has more than one source of identity; keep one: files, workload_api, istio_ca, self_signed");
        }
        let trust = self.trust(base, &trust_domain, p);
        let source = match (self.workload_api, self.istio_ca, self.self_signed) {
            (Some(api), None, None) if !files => api.validate(base, &trust, p).map(IdentitySource::WorkloadApi),
            (None, Some(ca), None) if !files => ca.validate(base, p).map(IdentitySource::IstioCa),
            (None, None, Some(own)) if !files => own.validate(base, &trust_domain, p).map(IdentitySource::SelfSigned),
            _ => {
                let mut file = |path: &str, given: Option<PathBuf>| match given {
                    Some(given) => base.join(given),
                    None => {
                        p.add(path, "is needed (or one of tls.workload_api, tls.istio_ca, tls.self_signed)");
                        PathBuf::new()
                    }
                };
                let certificate = file("tls.certificate", self.certificate);
                let key = file("tls.key", self.key);
                // Who asks nobody for a certificate need not know whom to believe.
                let asks = mode != TlsMode::Simple
                    || ports.values().any(|mode| !matches!(mode, TlsMode::Simple | TlsMode::Disable));
                let trust_bundle = match self.trust_bundle {
                    None if !asks => None,
                    given => Some(file("tls.trust_bundle", given)),
                };
                Some(IdentitySource::Files(TlsFiles { certificate, key, trust_bundle }))
            }
        };
        Tls { mode, ports, trust_domain, source, trust }
    }

    fn trust(&self, base: &Path, trust_domain: &str, p: &mut Problems) -> TrustFiles {
        let crl = match &self.crl {
            None => Vec::new(),
            Some(OneOrMany::One(path)) => vec![base.join(path)],
            Some(OneOrMany::Many(paths)) => paths.iter().map(|path| base.join(path)).collect(),
        };
        for domain in self.federated.keys() {
            if !is_trust_domain(domain) {
                p.add(&format!("tls.federated.{domain}"), "is no SPIFFE trust domain (a-z 0-9 . - _)");
            } else if domain == trust_domain {
                p.add(&format!("tls.federated.{domain}"), "is our own trust domain; its bundle comes from the source");
            }
        }
        let federated = self.federated.iter().map(|(domain, path)| (domain.clone(), base.join(path))).collect();
        TrustFiles { crl, crl_required: self.crl_required.unwrap_or(false), federated }
    }
}

fn spiffe_id(path: &str, text: &str, p: &mut Problems) -> Option<SpiffeId> {
    match SpiffeId::parse(text) {
        Ok(id) if id.path().is_empty() => p.add(path, "names a trust domain and no workload in it"),
        Ok(id) => return Some(id),
        Err(error) => p.add(path, error),
    }
    None
}

impl RawWorkloadApi {
    fn validate(self, base: &Path, trust: &TrustFiles, p: &mut Problems) -> Option<WorkloadApi> {
        if !trust.crl.is_empty() || !trust.federated.is_empty() {
            p.add(
                "tls.workload_api",
                "brings revocation lists and federated bundles; leave tls.crl and tls.federated out",
            );
        }
        let wanted = self.spiffe_id.as_deref().map(|text| spiffe_id("tls.workload_api.spiffe_id", text, p));
        if wanted.is_some() && self.hint.is_some() {
            p.add("tls.workload_api", "takes spiffe_id or hint, not both");
        }
        // SPIFFE Workload Endpoint section 4: the address may be written as a URI.
        let text = self.socket.to_string_lossy();
        let socket = base.join(text.strip_prefix("unix://").unwrap_or(&text));
        Some(WorkloadApi { socket, spiffe_id: wanted.flatten(), hint: self.hint })
    }
}

impl RawIstioCa {
    fn validate(self, base: &Path, p: &mut Problems) -> Option<IstioCa> {
        let lifetime = p.duration("tls.istio_ca.lifetime", &self.lifetime, DAY);
        let address = self.address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let Some((host, port)) = address.filter(|(host, port)| !host.is_empty() && *port != 0) else {
            let words = format!("`{}` is no address; write `istiod.istio-system.svc:15012`", self.address);
            p.add("tls.istio_ca.address", words);
            return None;
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = self.server_name.unwrap_or_else(|| host.clone());
        if rustls::pki_types::ServerName::try_from(server_name.as_str()).is_err() {
            p.add("tls.istio_ca.server_name", format!("`{server_name}` is neither a DNS name nor an address"));
        }
        for (path, given) in [("namespace", &self.namespace), ("service_account", &self.service_account)] {
            if given.as_ref().is_some_and(|name| SpiffeId::parse(&format!("spiffe://x/{name}")).is_err()) {
                p.add(&format!("tls.istio_ca.{path}"), "is no name of Kubernetes");
            }
        }
        // Where Istio's injector mounts them.
        let file = |given: Option<PathBuf>, default: &str| base.join(given.unwrap_or_else(|| default.into()));
        Some(IstioCa {
            host,
            port,
            server_name,
            token: file(self.token, "/var/run/secrets/tokens/istio-token"),
            root: file(self.root, "/var/run/secrets/istio/root-cert.pem"),
            cluster_id: self.cluster_id.unwrap_or_else(|| "Kubernetes".into()),
            namespace: self.namespace,
            service_account: self.service_account,
            lifetime,
        })
    }
}

impl RawSelfSigned {
    fn validate(self, base: &Path, trust_domain: &str, p: &mut Problems) -> Option<SelfSigned> {
        let lifetime = p.duration("tls.self_signed.lifetime", &self.lifetime, DAY);
        let authority = match (self.authority_certificate, self.authority_key) {
            (Some(certificate), Some(key)) => Some((base.join(certificate), base.join(key))),
            (None, None) => None,
            _ => {
                p.add("tls.self_signed", "needs both authority_certificate and authority_key, or neither");
                None
            }
        };
        let spiffe_id = spiffe_id("tls.self_signed.spiffe_id", &self.spiffe_id, p)?;
        if spiffe_id.trust_domain() != trust_domain {
            p.add("tls.self_signed.spiffe_id", format!("is not in the trust domain `{trust_domain}`"));
        }
        Some(SelfSigned { spiffe_id, lifetime, authority })
    }
}

impl TlsMode {
    /// As the file spells it.
    pub fn name(self) -> &'static str {
        match self {
            TlsMode::Permissive => "permissive",
            TlsMode::Strict => "strict",
            TlsMode::Simple => "simple",
            TlsMode::Disable => "disable",
        }
    }
}

impl Tls {
    /// As `/config_dump` shows it.
    pub(super) fn dump(&self) -> Value {
        let source = self.source.as_ref().map(|source| match source {
            IdentitySource::Files(files) => json!({"files": {
                "certificate": files.certificate, "key": files.key, "trust_bundle": files.trust_bundle,
            }}),
            IdentitySource::WorkloadApi(api) => json!({"workload_api": {
                "socket": api.socket,
                "spiffe_id": api.spiffe_id.as_ref().map(SpiffeId::as_str),
                "hint": api.hint,
            }}),
            IdentitySource::IstioCa(ca) => json!({"istio_ca": {
                "address": format!("{}:{}", ca.host, ca.port),
                "server_name": ca.server_name,
                "token": ca.token,
                "root": ca.root,
                "cluster_id": ca.cluster_id,
                "namespace": ca.namespace,
                "service_account": ca.service_account,
                "lifetime_seconds": ca.lifetime.as_secs_f64(),
            }}),
            IdentitySource::SelfSigned(own) => json!({"self_signed": {
                "spiffe_id": own.spiffe_id.as_str(),
                "lifetime_seconds": own.lifetime.as_secs_f64(),
                "authority": own.authority.as_ref().map(|(certificate, _)| certificate),
            }}),
        });
        json!({
            "mode": self.mode.name(),
            "ports": self.ports.iter().map(|(port, mode)| (port.to_string(), mode.name())).collect::<BTreeMap<_, _>>(),
            "trust_domain": self.trust_domain,
            "source": source,
            "crl": self.trust.crl,
            "crl_required": self.trust.crl_required,
            "federated": self.trust.federated,
        })
    }
}
