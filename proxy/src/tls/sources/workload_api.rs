//! The SPIFFE Workload API: an agent on this machine says over a Unix socket who we are, and says so again when that
//! changes.
//!
//! Written on our own contract and tonic. The `spiffe` crate has the same client, but drops the revocation lists of
//! the answer and re-parses what [`Material`] parses anyway. Never asks for JWT-SVIDs, and never shows the agent
//! anything: it looks at who holds the other end of the socket.

use super::{Source, chance, life, put};
use crate::config::{self, IdentitySource};
use crate::record::unix_now;
use crate::tls::pem::{SourceError, concatenated};
use crate::tls::revocation::Crl;
use crate::tls::rotate::Schedule;
use crate::tls::{Identity, Material, MaterialError, SpiffeId, Trust};
use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use outrider_protos::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use outrider_protos::spiffe::{X509svid, X509svidRequest, X509svidResponse};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};

pub const NAME: &str = "workload_api";

/// Bundles of many federated domains come in one message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the agent's answer makes no identity, or none comes.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the agent at {} cannot be reached ({status}); is it running, and its socket mounted here?", socket.display())]
    Unreachable { socket: PathBuf, status: tonic::Status },
    #[error("the agent has no identity for this workload; register one for it ({0})")]
    Unknown(String),
    #[error("the agent ended the stream")]
    Ended,
    #[error("the agent gives {given}, and none of them is {wanted}; register it or change tls.workload_api")]
    NotAmong { given: String, wanted: String },
    #[error("the agent's {0} cannot be read")]
    Unreadable(&'static str),
    #[error("the agent's certificate is for {certificate:?}, and it says {said}")]
    Contradicts { certificate: Option<SpiffeId>, said: String },
    #[error("what the agent gives does not serve: {0}")]
    Material(#[from] MaterialError),
}

pub struct WorkloadApi {
    config: config::WorkloadApi,
    trust_domain: String,
    crl_required: bool,
}

pub fn open(tls: &config::Tls) -> Option<Box<dyn Source>> {
    let Some(IdentitySource::WorkloadApi(config)) = &tls.source else { return None };
    let (config, trust_domain) = (config.clone(), tls.trust_domain.clone());
    Some(Box::new(WorkloadApi { config, trust_domain, crl_required: tls.trust.crl_required }))
}

#[async_trait]
impl Source for WorkloadApi {
    fn first(&self) -> Result<Option<Material>, SourceError> {
        Ok(None)
    }

    async fn run(self: Box<Self>, identity: Arc<Identity>) {
        let mut schedule = Schedule::default();
        loop {
            let error = self.listen(&identity, &mut schedule).await;
            identity.failed(&error);
            schedule.failed();
            tokio::time::sleep(schedule.wait(unix_now(), chance())).await;
        }
    }
}

impl WorkloadApi {
    /// Takes what the agent sends until it sends no more.
    async fn listen(&self, identity: &Identity, schedule: &mut Schedule) -> Error {
        let mut request = tonic::Request::new(X509svidRequest {});
        // SPIFFE Workload Endpoint section 6.1: without it an agent must refuse, so that no request forged through
        // somebody else's HTTP client is answered.
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let mut client = SpiffeWorkloadApiClient::new(connect(self.config.socket.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut answers = match client.fetch_x509svid(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return self.error_of(status),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) => match self.material(&answer) {
                    Ok(material) => {
                        schedule.renewed(life(&material));
                        put(identity, material);
                    }
                    // The next message may be better; what is in force stays.
                    Err(error) => identity.failed(&error),
                },
                Ok(None) => return Error::Ended,
                Err(status) => return self.error_of(status),
            }
        }
    }

    fn error_of(&self, status: tonic::Status) -> Error {
        match status.code() {
            tonic::Code::PermissionDenied => Error::Unknown(status.message().into()),
            _ => Error::Unreachable { socket: self.config.socket.clone(), status },
        }
    }

    fn material(&self, answer: &X509svidResponse) -> Result<Material, Error> {
        let svid = self.choose(&answer.svids)?;
        let chain = concatenated(&svid.x509_svid).ok_or(Error::Unreadable("certificate chain"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec()));
        let roots = concatenated(&svid.bundle).ok_or(Error::Unreadable("trust bundle"))?;
        let mut trust = Trust::new().with_bundle(&self.trust_domain, &roots)?;
        for (domain, bundle) in &answer.federated_bundles {
            let name = domain.strip_prefix("spiffe://").unwrap_or(domain);
            let roots = concatenated(bundle).ok_or(Error::Unreadable("federated bundle"))?;
            // A bundle of our own domain is the SVID's, and nobody else's.
            if name != self.trust_domain {
                trust = trust.with_bundle(name, &roots)?;
            }
        }
        let trust = trust.with_crls(Crl::parse_all(&answer.crl)?, self.crl_required);
        let material = Material::new(chain, key, trust, &self.trust_domain)?;
        if material.spiffe().map(SpiffeId::as_str) != Some(&svid.spiffe_id) {
            return Err(Error::Contradicts { certificate: material.spiffe().cloned(), said: svid.spiffe_id.clone() });
        }
        Ok(material)
    }

    /// The one asked for, or the first: that is the default identity (SPIFFE Workload API section 5.2.1).
    fn choose<'a>(&self, svids: &'a [X509svid]) -> Result<&'a X509svid, Error> {
        let wanted = match (&self.config.spiffe_id, &self.config.hint) {
            (Some(id), _) => id.as_str(),
            (None, Some(hint)) => hint,
            (None, None) => return svids.first().ok_or(Error::Unknown("it gives none".into())),
        };
        let by_id = self.config.spiffe_id.is_some();
        let found = svids.iter().find(|svid| if by_id { svid.spiffe_id == wanted } else { svid.hint == wanted });
        found.ok_or_else(|| {
            let given: Vec<&str> = svids.iter().map(|svid| svid.spiffe_id.as_str()).take(8).collect();
            Error::NotAmong { given: given.join(", "), wanted: wanted.into() }
        })
    }
}

fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent.local").connect_timeout(CONNECT_TIMEOUT).connect_with_connector_lazy(connector)
}
