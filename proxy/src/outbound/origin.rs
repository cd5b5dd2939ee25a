//! How a connection to a cluster becomes TLS: whose certificate we show, and whom we believe to have met.
//!
//! Never falls back to plaintext, and never resumes a session: resumption would skip the verification.

use crate::config::outbound as config;
use crate::tls::{Expect, Identity, client_config, plain_client_config};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speech {
    H1,
    H2,
    /// Bytes.
    Opaque,
}

impl Speech {
    pub fn name(self) -> &'static str {
        match self {
            Speech::H1 => "h1",
            Speech::H2 => "h2",
            Speech::Opaque => "tcp",
        }
    }

    /// Istio's names first: by them its sidecars tell the mesh's TLS from an application's own.
    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Speech::H1 => &[b"istio-http/1.1", b"http/1.1"],
            Speech::H2 => &[b"istio-h2", b"h2"],
            Speech::Opaque => &[b"istio"],
        }
    }
}

pub enum Origin {
    Plain,
    Tls(Box<Tls>),
}

pub struct Tls {
    /// `None`: the endpoint's address, which rustls does not put into the handshake (RFC 6066 §3).
    name: Option<ServerName<'static>>,
    configs: [Arc<ClientConfig>; 3],
    /// Counts our identities, where one is shown.
    generation: Option<watch::Receiver<u64>>,
}

/// Why TLS to a cluster cannot be set up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Problem {
    #[error("`tls.mode: mutual` needs an identity; name a source of one under the sidecar's `tls`")]
    NoIdentity,
    #[error("`{0}` is no name a server could have")]
    Name(String),
    #[error("`{0}` is no SPIFFE id")]
    Id(String),
    #[error("the roots {path} do not serve: {words}")]
    Roots { path: String, words: String },
}

/// Who we are, for clusters that must know.
#[derive(Clone, Default)]
pub struct Ourselves {
    pub identity: Option<Arc<Identity>>,
    pub trust_domain: String,
}

impl Origin {
    /// Reads the roots of `simple`, and nothing else.
    pub fn open(config: &config::Origination, ourselves: &Ourselves) -> Result<Origin, Problem> {
        let speeches = [Speech::H1, Speech::H2, Speech::Opaque];
        let tls = match config {
            config::Origination::Disable => return Ok(Origin::Plain),
            config::Origination::Simple { name, roots } => {
                let certificates = roots_of(roots)?;
                let make = |speech: Speech| {
                    // Not one of the mesh: it knows only the standard's names.
                    let alpn: &[&[u8]] = match speech {
                        Speech::H1 => &[b"http/1.1"],
                        Speech::H2 => &[b"h2"],
                        Speech::Opaque => &[],
                    };
                    plain_client_config(&certificates, alpn)
                        .map_err(|error| Problem::Roots { path: roots.display().to_string(), words: error.to_string() })
                };
                let [h1, h2, opaque] = speeches.map(make);
                Tls { name: Some(server_name(name)?), configs: [h1?, h2?, opaque?], generation: None }
            }
            config::Origination::Mutual { expect, sni } => {
                let identity = ourselves.identity.clone().ok_or(Problem::NoIdentity)?;
                let expect = expectation(expect, &ourselves.trust_domain)?;
                let make = |speech: Speech| client_config(identity.clone(), expect.clone(), speech.alpn());
                let name = sni.as_deref().map(server_name).transpose()?;
                Tls { name, configs: speeches.map(make), generation: Some(identity.subscribe()) }
            }
        };
        Ok(Origin::Tls(Box::new(tls)))
    }

    /// Which of our identities a new connection would show.
    pub fn generation(&self) -> u64 {
        match self {
            Origin::Tls(tls) => tls.generation.as_ref().map_or(0, |generation| *generation.borrow()),
            Origin::Plain => 0,
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Origin::Tls(_))
    }
}

impl Tls {
    pub fn config(&self, speech: Speech) -> Arc<ClientConfig> {
        self.configs[speech as usize].clone()
    }

    pub fn name(&self, endpoint: SocketAddr) -> ServerName<'static> {
        self.name.clone().unwrap_or(ServerName::IpAddress(endpoint.ip().into()))
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Problem> {
    ServerName::try_from(name.to_owned()).map_err(|_| Problem::Name(name.into()))
}

fn roots_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let bad = |words: String| Problem::Roots { path: path.display().to_string(), words };
    let bytes = crate::files::read_bounded(path, 1 << 20).map_err(|error| bad(error.to_string()))?;
    CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| bad(error.to_string()))
}

fn expectation(expect: &config::Expect, trust_domain: &str) -> Result<Expect, Problem> {
    let parse = |id: String| id.parse().map_err(|_| Problem::Id(id));
    Ok(match expect {
        config::Expect::Ids(ids) => Expect::AnyOf(ids.iter().cloned().map(parse).collect::<Result<_, _>>()?),
        config::Expect::TrustDomain => Expect::TrustDomain(trust_domain.into()),
        config::Expect::Namespace { namespace, accounts } if accounts.is_empty() => {
            Expect::Namespace { trust_domain: trust_domain.into(), namespace: namespace.clone() }
        }
        config::Expect::Namespace { namespace, accounts } => {
            let id = |account: &String| parse(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}"));
            Expect::AnyOf(accounts.iter().map(id).collect::<Result<_, _>>()?)
        }
    })
}
