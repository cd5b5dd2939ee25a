//! KEDA's external scaler: what the autoscaler saw, for clusters whose pods are scaled by KEDA and its HPA.
//!
//! A ScaledObject's trigger names the service in its metadata: `service: chat`; without that it is the ScaledObject's own
//! name. `value: load` (the default) gives what is measured, and what one pod should have of it; `value: pods` gives the
//! decision itself, one for each pod, so that the HPA follows our windows and not its own. Never scales anything.

use super::autoscaler::Seen;
use crate::net;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrider_protos::keda::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use outrider_protos::keda::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};
use tower::Service as _;

/// KEDA keeps one connection for each address; whoever opens more than this is not KEDA.
const CONNECTIONS_MAX: usize = 64;
const STREAMS_MAX: u32 = 1000;
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Who has gone without a word is noticed after this and half of it.
const PING_PERIOD: Duration = Duration::from_secs(60);

/// All services by their names, as their autoscalers see them.
#[derive(Clone, Default)]
pub struct Board(Arc<BTreeMap<String, watch::Receiver<Seen>>>);

impl Board {
    pub fn new(services: impl IntoIterator<Item = (String, watch::Receiver<Seen>)>) -> Board {
        Board(Arc::new(services.into_iter().collect()))
    }

    fn of(&self, object: Option<&ScaledObjectRef>) -> Result<&watch::Receiver<Seen>, Status> {
        let object = object.ok_or_else(|| Status::invalid_argument("no scaled object is named"))?;
        let name = object.scaler_metadata.get("service").unwrap_or(&object.name);
        self.0.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let words =
                format!("no service `{name}` here; set `service` in the trigger's metadata to one of {known:?}");
            Status::not_found(words)
        })
    }
}

/// What a trigger wants to be told.
enum Value {
    Load,
    Pods,
}

impl Value {
    fn of(object: Option<&ScaledObjectRef>) -> Result<Value, Status> {
        match object.and_then(|object| object.scaler_metadata.get("value")).map(String::as_str) {
            None | Some("load") => Ok(Value::Load),
            Some("pods") => Ok(Value::Pods),
            Some(other) => Err(Status::invalid_argument(format!("`value: {other}` is neither `load` nor `pods`"))),
        }
    }

    /// Name, target of one pod, and value of all.
    fn read(&self, seen: &Seen) -> Result<(String, f64, f64), Status> {
        match self {
            Value::Load => Ok((format!("outrider-{}", seen.metric), seen.target, seen.load)),
            Value::Pods => {
                let want = seen.want.ok_or_else(|| Status::unavailable("nothing has been decided yet"))?;
                Ok(("outrider-pods".into(), 1.0, want.into()))
            }
        }
    }
}

struct Answering(Board);

#[tonic::async_trait]
impl ExternalScaler for Answering {
    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        let result = self.0.of(Some(request.get_ref()))?.borrow().active;
        Ok(Response::new(IsActiveResponse { result }))
    }

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let seen = self.0.of(Some(request.get_ref()))?.clone();
        // First what is, then every change.
        let stream = futures_util::stream::unfold((seen, None), async |(mut seen, told)| {
            let now = |seen: &Seen| Some(seen.active) != told;
            let result = seen.wait_for(now).await.ok()?.active;
            Some((Ok(IsActiveResponse { result }), (seen, Some(result))))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let object = Some(request.get_ref());
        let seen = self.0.of(object)?.borrow().clone();
        let (metric_name, target, _) = match Value::of(object)? {
            // What is wanted need not be known for this.
            Value::Pods => Value::Pods.read(&Seen { want: Some(0), ..seen })?,
            Value::Load => Value::Load.read(&seen)?,
        };
        // Readers of old take whole numbers, and none may be nothing.
        let spec = MetricSpec { metric_name, target_size: target.ceil() as i64, target_size_float: target };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let object = request.get_ref().scaled_object_ref.as_ref();
        let seen = self.0.of(object)?.borrow().clone();
        let (metric_name, _, value) = Value::of(object)?.read(&seen)?;
        if metric_name != request.get_ref().metric_name {
            return Err(Status::not_found(format!("no metric `{}` here", request.get_ref().metric_name)));
        }
        let value = MetricValue { metric_name, metric_value: value.ceil() as i64, metric_value_float: value };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

/// tonic's service, under hyper's server.
struct GrpcService(ExternalScalerServer<Answering>);

impl Service<HttpRequest<Incoming>> for GrpcService {
    type Response = HttpResponse<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: HttpRequest<Incoming>) -> Self::Future {
        self.0.clone().call(request)
    }
}

/// Answers until `halted`; then what is open ends.
pub async fn serve(listener: TcpListener, board: Board, mut halted: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some((tcp, _)) = net::next(&listener, &mut halted, "KEDA").await {
        let Ok(place) = connections.clone().try_acquire_owned() else {
            tracing::warn!("{CONNECTIONS_MAX} connections ask the external scaler; one more is closed");
            continue;
        };
        let (board, mut halted) = (board.clone(), halted.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = converse(tcp, board) => {}
                // Its streams have no end of their own.
                _ = halted.wait_for(|halted| *halted) => {}
            }
        });
    }
}

async fn converse(tcp: TcpStream, board: Board) {
    let server = ExternalScalerServer::new(Answering(board)).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    builder.keep_alive_interval(PING_PERIOD).keep_alive_timeout(PING_PERIOD / 2);
    if let Err(error) = builder.serve_connection(TokioIo::new(tcp), GrpcService(server)).await {
        tracing::debug!(%error, "a connection for the external scaler ended");
    }
}

#[cfg(test)]
mod tests;
