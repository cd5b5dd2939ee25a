//! Istio's certificate service: we make a key, the authority signs it for the service account our token proves.
//!
//! The token and the root are read anew at each renewal: kubelet replaces the one, and the mesh the other. The private
//! key never leaves this process. Never keeps a connection between renewals, and never sends the token to anybody whose
//! certificate does not lead to the root.

use super::files::{WATCH_PERIOD, Watch};
use super::{Source, chance, life, put};
use crate::config::{self, IdentitySource, IstioCa as Config, TrustFiles};
use crate::record::unix_now;
use crate::tls::pem::{SourceError, certificates, read, with_trust_files};
use crate::tls::rotate::Schedule;
use crate::tls::{Identity, Material, MaterialError, SpiffeId, Trust, plain_client_config};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_util::rt::TokioIo;
use outrider_protos::istio::v1::auth::IstioCertificateRequest;
use outrider_protos::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};

pub const NAME: &str = "istio_ca";

/// From the first packet to the certificate. A signature takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    File(#[from] SourceError),
    #[error("{} is no service account token of Kubernetes; mount one, or set tls.istio_ca.namespace and service_account", .0.display())]
    Token(PathBuf),
    #[error("namespace and service account make no SPIFFE id: {0}")]
    Name(#[from] crate::tls::identity::SpiffeIdError),
    #[error("no signing request could be made: {0}")]
    Request(#[from] rcgen::Error),
    #[error("`{0}` is no address of an authority; change tls.istio_ca.address")]
    Address(String),
    #[error("{address} gave no certificate: {words}")]
    Refused { address: String, words: String },
    #[error("{address} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { address: String },
    #[error("the authority's answer cannot be read: {0}")]
    Unreadable(&'static str),
    #[error("the authority's answer does not serve: {0}")]
    Material(#[from] MaterialError),
    #[error("the authority's answer does not lead to its own root ({0})")]
    Astray(&'static str),
}

pub struct IstioCa {
    config: Config,
    trust_domain: String,
    trust: TrustFiles,
}

/// What the authority gave.
struct Got {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

pub fn open(tls: &config::Tls) -> Option<Box<dyn Source>> {
    let Some(IdentitySource::IstioCa(config)) = &tls.source else { return None };
    let (config, trust_domain) = (config.clone(), tls.trust_domain.clone());
    Some(Box::new(IstioCa { config, trust_domain, trust: tls.trust.clone() }))
}

#[async_trait]
impl Source for IstioCa {
    fn first(&self) -> Result<Option<Material>, SourceError> {
        Ok(None)
    }

    async fn run(self: Box<Self>, identity: Arc<Identity>) {
        let mut schedule = Schedule::default();
        let mut watch = Watch::new(self.trust.paths());
        let mut held: Option<Got> = None;
        let mut due = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    match self.renew().await {
                        Ok((got, material)) => {
                            schedule.renewed(life(&material));
                            put(&identity, material);
                            held = Some(got);
                        }
                        Err(error) => {
                            identity.failed(&error);
                            schedule.failed();
                        }
                    }
                    due = tokio::time::Instant::now() + schedule.wait(unix_now(), chance());
                }
                // Revocation lists and federated bundles change without the authority.
                () = watch.changed(WATCH_PERIOD) => {
                    match held.as_ref().map(|got| self.material(got)) {
                        Some(Ok(material)) => put(&identity, material),
                        Some(Err(error)) => identity.failed(&error),
                        None => {}
                    }
                }
            }
        }
    }
}

impl IstioCa {
    fn address(&self) -> String {
        format!("{}:{}", self.config.host, self.config.port)
    }

    async fn renew(&self) -> Result<(Got, Material), Error> {
        let asked = tokio::time::timeout(TIMEOUT, self.ask()).await;
        let got = asked.map_err(|_| Error::Timeout { address: self.address() })??;
        let material = self.material(&got)?;
        Ok((got, material))
    }

    fn material(&self, got: &Got) -> Result<Material, Error> {
        let trust = Trust::new().with_bundle(&self.trust_domain, &got.roots)?;
        let trust = with_trust_files(trust, &self.trust)?;
        let key = PrivateKeyDer::Pkcs8(got.key.clone_key());
        let material = Material::new(got.chain.clone(), key, trust, &self.trust_domain)?;
        if material.spiffe().is_none() {
            return Err(Error::Unreadable("its leaf has no SPIFFE id"));
        }
        match material.verify_own(unix_now().as_secs()) {
            // A clock some seconds behind the authority's is no reason to wait for half an hour.
            Ok(()) | Err("not_yet_valid") => Ok(material),
            Err(label) => Err(Error::Astray(label)),
        }
    }

    async fn ask(&self) -> Result<Got, Error> {
        let config = &self.config;
        let token = String::from_utf8(read(&config.token)?).map_err(|_| Error::Token(config.token.clone()))?;
        let token = token.trim();
        let id = self.id(token)?;
        let roots = certificates(&config.root)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = signing_request(&id, &key)?;
        let validity_duration = i64::try_from(config.lifetime.as_secs().max(1)).unwrap_or(i64::MAX);
        let mut request = tonic::Request::new(IstioCertificateRequest { csr, validity_duration });
        let bearer: Result<MetadataValue<_>, _> = format!("Bearer {token}").parse();
        let mut bearer = bearer.map_err(|_| Error::Token(config.token.clone()))?;
        bearer.set_sensitive(true);
        request.metadata_mut().insert("authorization", bearer);
        if let Ok(cluster) = config.cluster_id.parse() {
            request.metadata_mut().insert("clusterid", cluster);
        }
        let mut client = IstioCertificateServiceClient::new(self.connect(&roots)?);
        let answer = client.create_certificate(request).await.map_err(|status| {
            // tonic says only "transport error"; why is in the cause.
            let cause = std::error::Error::source(&status).and_then(|cause| cause.source());
            let words = match cause {
                Some(cause) => cause.to_string(),
                None => format!("{:?}: {}", status.code(), status.message()),
            };
            Error::Refused { address: self.address(), words }
        })?;
        let (chain, roots) = sort(&answer.into_inner().cert_chain, roots)?;
        Ok(Got { chain, roots, key: PrivatePkcs8KeyDer::from(key.serialize_der()) })
    }

    /// Who we ask to be. The authority goes by the token; what the request says is checked against it.
    fn id(&self, token: &str) -> Result<SpiffeId, Error> {
        let said = account_of(token);
        let (namespace, account) = match (&self.config.namespace, &self.config.service_account, said) {
            (Some(namespace), Some(account), _) => (namespace.clone(), account.clone()),
            (namespace, account, Some(said)) => {
                (namespace.clone().unwrap_or(said.0), account.clone().unwrap_or(said.1))
            }
            (_, _, None) => return Err(Error::Token(self.config.token.clone())),
        };
        Ok(SpiffeId::parse(&format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain))?)
    }

    fn connect(&self, roots: &[CertificateDer<'_>]) -> Result<Channel, Error> {
        let tls = plain_client_config(roots, &[b"h2"])
            .map_err(|error| SourceError::Bundle { path: self.config.root.clone(), error })?;
        let tls = tokio_rustls::TlsConnector::from(tls);
        let name = ServerName::try_from(self.config.server_name.clone()).expect("the configuration was validated");
        let (host, port) = (self.config.host.clone(), self.config.port);
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, name, host) = (tls.clone(), name.clone(), host.clone());
            async move {
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                let stream = tls.connect(name, tcp).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let address = match self.config.host.contains(':') {
            true => format!("[{}]:{port}", self.config.host),
            false => self.address(),
        };
        // tonic takes `http` for "do not wrap it", which the connector has done; the header says what it really is.
        let endpoint = |scheme: &str| format!("{scheme}://{address}");
        let real = Uri::try_from(endpoint("https")).map_err(|_| Error::Address(address.clone()))?;
        let endpoint = Endpoint::from_shared(endpoint("http")).map_err(|_| Error::Address(address.clone()))?;
        Ok(endpoint.origin(real).connect_timeout(TIMEOUT).connect_with_connector_lazy(connector))
    }
}

fn signing_request(id: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.serialize_request(key)?.pem()
}

/// Namespace and name out of a service account's token, `sub` `system:serviceaccount:NAMESPACE:NAME`. Nothing is
/// verified here: it only tells what to ask for.
fn account_of(token: &str) -> Option<(String, String)> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    let mut parts = claims.get("sub")?.as_str()?.strip_prefix("system:serviceaccount:")?.split(':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(account), None) => Some((namespace.into(), account.into())),
        _ => None,
    }
}

type Certificates = Vec<CertificateDer<'static>>;

/// The chain to show, and the roots to believe: the last entry where its certificates are roots, else those of `file`.
fn sort(entries: &[String], file: Certificates) -> Result<(Certificates, Certificates), Error> {
    let parse = |entry: &String| -> Result<Certificates, Error> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(entry.as_bytes()).collect();
        found.map_err(|_| Error::Unreadable("it holds something that is not PEM"))
    };
    let mut parsed = entries.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let roots = match parsed.last() {
        Some(last) if parsed.len() > 1 && !last.is_empty() && last.iter().all(|der| is_root(der)) => parsed.pop(),
        _ => None,
    };
    let chain: Certificates = parsed.into_iter().flatten().collect();
    if chain.is_empty() {
        return Err(Error::Unreadable("it holds no certificate"));
    }
    Ok((chain, roots.unwrap_or(file)))
}

/// Issued by itself.
fn is_root(der: &[u8]) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(der).is_ok_and(|(_, found)| found.subject().as_raw() == found.issuer().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_token_is_it() {
        let token = |claims: &str| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
        let good = token(r#"{"sub":"system:serviceaccount:default:client"}"#);
        assert_eq!(account_of(&good), Some(("default".into(), "client".into())));
        let bad = [
            "",
            "a.b.c",
            &token("{}"),
            &token(r#"{"sub":3}"#),
            &token(r#"{"sub":"system:serviceaccount:a"}"#),
            &token(r#"{"sub":"system:serviceaccount:a:b:c"}"#),
        ];
        for token in bad {
            assert_eq!(account_of(token), None, "{token}");
        }
    }
}
