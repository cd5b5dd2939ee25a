//! `/healthz` with our own certificate: what kubelets ask of kube-rbac-proxy's `--proxy-endpoints-port`.
//!
//! Says only that we are there. Bounded in time and number, and reads no more than a head.

use super::http::{self, Reply};
use crate::tls::{Identity, Mode, server_config};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A kubelet asks twice in five seconds.
const CONNECTIONS_MAX: usize = 16;

/// For ever; without an identity in plaintext.
pub async fn serve(listener: TcpListener, identity: Option<Arc<Identity>>) {
    let tls = identity.map(|identity| {
        let mut config = (*server_config(Mode::Simple, identity)).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    let attend_one = |tcp, _| {
        let tls = tls.clone();
        let answered = async move {
            match tls {
                Some(tls) => answer(tls.accept(tcp).await?).await,
                None => answer(tcp).await,
            }
        };
        async move { drop(tokio::time::timeout(TIMEOUT, answered).await) }
    };
    http::attend_each(listener, CONNECTIONS_MAX, attend_one).await
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let Some(request) = http::read(&mut stream).await? else { return Ok(()) };
    let (reply, head_only) = match request {
        Ok(request) if request.path == "/healthz" => (Reply::text(200, "ok"), request.method == "HEAD"),
        Ok(request) => (Reply::text(404, "404 page not found\n"), request.method == "HEAD"),
        Err(reply) => (reply, false),
    };
    http::write(stream, &reply, head_only).await
}
