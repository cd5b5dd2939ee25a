//! `envoy.service.auth.v3.Authorization/Check`.

use super::answer::Answer;
use super::question::{Asked, Question};
use crate::worker::seat;
use outrider_protos::ext_authz::v3;
use outrider_protos::ext_authz::v3::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use outrider_protos::ext_authz::v3::authorization_client::AuthorizationClient;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// A refusal's page and some headers; more is no answer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

pub struct Client {
    endpoint: Result<Endpoint, String>,
    /// By seat. A channel is bound to the runtime it was made in.
    seats: Box<[OnceLock<AuthorizationClient<Channel>>]>,
}

impl Client {
    pub fn new(authority: &str, timeout: Duration, seats: usize) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|error| error.to_string());
        let endpoint = endpoint.map(|endpoint| endpoint.connect_timeout(timeout));
        Client { endpoint, seats: (0..seats.max(1)).map(|_| OnceLock::new()).collect() }
    }

    pub async fn ask(&self, question: &Question) -> Answer {
        let endpoint = match &self.endpoint {
            Ok(endpoint) => endpoint,
            Err(why) => return Answer::Failed(why.clone()),
        };
        let seat = seat().min(self.seats.len() - 1);
        let client = self.seats[seat].get_or_init(|| {
            AuthorizationClient::new(endpoint.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES_MAX)
        });
        match client.clone().check(check_request(question)).await {
            Ok(response) => Answer::of_check(response.into_inner()),
            Err(status) => {
                let mut why = format!("{:?}: {}", status.code(), status.message());
                let mut source = status.source();
                // The innermost cause says what the operating system said.
                while let Some(cause) = source {
                    (why, source) = (cause.to_string(), cause.source());
                }
                Answer::Failed(why)
            }
        }
    }
}

fn check_request(question: &Question) -> v3::CheckRequest {
    let source = peer(question.source, question.principal.clone().unwrap_or_default());
    let http = question.http.as_ref().map(|asked| http_request(asked, question.scheme()));
    let time = question.http.as_ref().map(|asked| v3::Time { seconds: asked.unix_seconds as i64, nanos: 0 });
    let attributes = v3::AttributeContext {
        source: Some(source),
        destination: Some(peer(question.destination, String::new())),
        request: http.map(|http| Request { time, http: Some(http) }),
        tls_session: question.sni.clone().map(|sni| TlsSession { sni }),
        ..v3::AttributeContext::default()
    };
    v3::CheckRequest { attributes: Some(attributes) }
}

fn peer(address: SocketAddr, principal: String) -> Peer {
    let (host, port_value) = (address.ip().to_canonical().to_string(), address.port().into());
    let socket_address = Some(v3::SocketAddress { address: host, port_value });
    Peer { address: Some(v3::Address { socket_address }), principal, ..Peer::default() }
}

fn http_request(asked: &Asked, scheme: &str) -> HttpRequest {
    HttpRequest {
        id: asked.id.clone(),
        method: asked.method.to_string(),
        headers: asked.flat_headers(scheme),
        path: asked.target.clone(),
        host: asked.host.clone(),
        scheme: scheme.to_owned(),
        size: asked.size(),
        protocol: asked.protocol().to_owned(),
        ..HttpRequest::default()
    }
}
