//! The two services on one channel.

use crate::worker::seat;
use outrider_protos::kuadrant::v1::rate_limit_service_client::RateLimitServiceClient as Kuadrant;
use outrider_protos::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient as Envoy;
use outrider_protos::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use std::error::Error;
use std::sync::OnceLock;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// A status for each descriptor; more is no answer.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// Envoy's `ShouldRateLimit`: asks and counts.
    Should,
    /// Kuadrant's `CheckRateLimit`: only asks.
    Check,
    /// Kuadrant's `Report`: only counts.
    Report,
}

pub struct Client {
    endpoint: Result<Endpoint, String>,
    /// By seat. A channel is bound to the runtime it was made in.
    seats: Box<[OnceLock<Channel>]>,
}

impl Client {
    pub fn new(authority: &str, timeout: Duration, seats: usize) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|error| error.to_string());
        // The first request of a channel has the whole of its patience for the connection, the next ones for the answer.
        let endpoint = endpoint.map(|endpoint| endpoint.connect_timeout(timeout.max(Duration::from_secs(1))));
        Client { endpoint, seats: (0..seats.max(1)).map(|_| OnceLock::new()).collect() }
    }

    pub async fn call(&self, method: Method, request: RateLimitRequest) -> Result<RateLimitResponse, String> {
        let endpoint = self.endpoint.as_ref().map_err(String::clone)?;
        let seat = seat().min(self.seats.len() - 1);
        let channel = self.seats[seat].get_or_init(|| endpoint.connect_lazy()).clone();
        let kuadrant = || Kuadrant::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = match method {
            Method::Should => {
                let mut envoy = Envoy::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                envoy.should_rate_limit(request).await
            }
            Method::Check => kuadrant().check_rate_limit(request).await,
            Method::Report => kuadrant().report(request).await,
        };
        answer.map(tonic::Response::into_inner).map_err(|status| {
            let mut why = format!("{:?}: {}", status.code(), status.message());
            let mut source = status.source();
            // The innermost cause says what the operating system said.
            while let Some(cause) = source {
                (why, source) = (cause.to_string(), cause.source());
            }
            why
        })
    }
}
