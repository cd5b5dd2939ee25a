//! The wire contracts: `worker.v1`, our one window in the wall between sidecar and worker, and the foreign ones.
//!
//! Generated code and nothing else. The `.proto` files beside this crate are the documentation.

/// Ours: what the sidecar and the worker say to each other.
pub mod worker {
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("outrider.worker.v1");
    }
}

/// Envoy's external authorization.
pub mod ext_authz {
    #[allow(missing_docs, clippy::all)]
    pub mod v3 {
        tonic::include_proto!("envoy.service.auth.v3");
    }
}

/// Envoy's rate limit service.
pub mod ratelimit {
    #[allow(missing_docs, clippy::all)]
    pub mod v3 {
        tonic::include_proto!("envoy.service.ratelimit.v3");
    }
}

/// Kuadrant's rate limit service.
pub mod kuadrant {
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("kuadrant.service.ratelimit.v1");
    }
}

/// The Open Inference Protocol (KServe V2) over gRPC.
#[allow(missing_docs, clippy::all)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// Istio's certificate service.
pub mod istio {
    pub mod v1 {
        #[allow(missing_docs, clippy::all)]
        pub mod auth {
            tonic::include_proto!("istio.v1.auth");
        }
    }
}

/// KEDA's external scaler.
#[allow(missing_docs, clippy::all)]
pub mod keda {
    tonic::include_proto!("externalscaler");
}

/// Knative's statistics of one pod.
#[allow(missing_docs, clippy::all)]
pub mod knative {
    tonic::include_proto!("knative.autoscaler");
}

/// The SPIFFE Workload API. Its standard puts it in no package.
#[allow(missing_docs, clippy::all)]
pub mod spiffe {
    tonic::include_proto!("_");
}
