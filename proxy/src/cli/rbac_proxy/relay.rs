//! `--upstream=https://…`: a socket in a folder of ours, behind which each connection goes on to the server in TLS.
//!
//! The server's certificate must be good for the name in the URL; files are read again when they change. Carries bytes
//! and reads none of them; who cannot be connected to is told by a closed connection.

use crate::fetch::{Live, Trust};
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

/// As for whatever else we ask.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// As many as the sidecar lets in.
const CONNECTIONS_MAX: usize = 10_000;

/// Where it goes, and whom it believes there.
pub struct Relay {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Live,
}

impl Relay {
    /// Reads the files once, so that a missing one stops the start.
    pub fn new(host: &str, port: u16, trust: Trust) -> Result<Arc<Relay>, String> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| format!("`{host}` is no name of a server"))?;
        let tls = Live::new(trust);
        tls.current().map_err(|error| error.to_string())?;
        Ok(Arc::new(Relay { host, port, name, tls }))
    }

    /// Serves at a socket until the process ends, on a thread of its own.
    pub fn start(self: Arc<Self>, socket: PathBuf) -> std::io::Result<()> {
        let listener = std::os::unix::net::UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("outrider-relay".into()).spawn(move || {
            runtime.block_on(async {
                match UnixListener::from_std(listener) {
                    Ok(listener) => self.serve(listener).await,
                    Err(error) => tracing::error!(%error, "the relay to --upstream does not listen"),
                }
            })
        })?;
        Ok(())
    }

    async fn serve(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok((near, _)) = listener.accept().await else {
                // Mostly: out of file descriptors.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let relay = self.clone();
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = relay.carry(near).await {
                    tracing::warn!(upstream = %relay.host, %error, "a connection to --upstream ended");
                }
            });
        }
    }

    async fn carry(&self, mut near: UnixStream) -> std::io::Result<()> {
        let connect = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(self.tls.current().map_err(std::io::Error::other)?);
            tls.connect(self.name.clone(), tcp).await
        };
        let mut far = tokio::time::timeout(CONNECT_TIMEOUT, connect).await??;
        match tokio::io::copy_bidirectional(&mut near, &mut far).await {
            // Servers close idle connections without a word.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            ended => ended.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that says what it hears, with a certificate for `localhost` by an authority in a file.
    async fn server(folder: &std::path::Path) -> u16 {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
        let secret = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut stream) = tls.accept(tcp).await else { continue };
                let mut heard = [0; 5];
                let _ = stream.read_exact(&mut heard).await;
                let _ = stream.write_all(&heard).await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }

    #[tokio::test]
    async fn who_is_believed_behind_the_relay() {
        let folder = tempfile::tempdir().unwrap();
        let port = server(folder.path()).await;
        let trust = || Trust { authorities: Some(folder.path().join("ca.pem")), identity: None };
        for (host, expected) in [("localhost", "hello"), ("127.0.0.1", "")] {
            let socket = folder.path().join(host);
            Relay::new(host, port, trust()).unwrap().start(socket.clone()).unwrap();
            let mut near = UnixStream::connect(socket).await.unwrap();
            let mut heard = String::new();
            let _ = near.write_all(b"hello").await;
            let _ = near.read_to_string(&mut heard).await;
            assert_eq!(heard, expected, "{host}");
        }
        let nobody = Trust { authorities: Some(folder.path().join("nothing")), identity: None };
        assert!(Relay::new("localhost", port, nobody).is_err());
        assert!(Relay::new("not a name", port, trust()).is_err());
    }
}
