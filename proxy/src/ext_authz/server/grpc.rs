//! `envoy.service.auth.v3.Authorization/Check`, answered.

use super::{Desk, Protocol};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use outrider_protos::ext_authz::v3::authorization_server::{Authorization, AuthorizationServer};
use outrider_protos::ext_authz::v3::{CheckRequest, CheckResponse};
use std::convert::Infallible;
use std::sync::Arc;
use tower::Service as _;

struct Answering(Arc<Desk>);

#[tonic::async_trait]
impl Authorization for Answering {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        // No status but OK: to a gateway any other means that nobody was there to ask.
        let decision = self.0.decide(request.into_inner(), Protocol::Grpc).await;
        Ok(tonic::Response::new(decision.into_check_response()))
    }
}

/// tonic's service, under hyper's server.
pub struct GrpcService(AuthorizationServer<Answering>);

pub fn service(desk: Arc<Desk>) -> GrpcService {
    let limit = desk.limits.message_bytes_max;
    GrpcService(AuthorizationServer::new(Answering(desk)).max_decoding_message_size(limit))
}

impl Service<Request<Incoming>> for GrpcService {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.0.clone().call(request)
    }
}
