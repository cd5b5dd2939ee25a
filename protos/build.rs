//! Compiles the `.proto` files with protox, so that no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "envoy/service/auth/v3/external_auth.proto",
        "envoy/service/ratelimit/v3/rls.proto",
        "outrider/worker/v1/worker.proto",
        "inference/grpc_predict_v2.proto",
        "istio/v1/auth/ca.proto",
        "keda/externalscaler/externalscaler.proto",
        "knative/autoscaler/stat.proto",
        "spiffe/workload.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    // First, and apart: its messages are another package's, whose module the rest writes whole.
    let file = "kuadrant/service/ratelimit/v1/kuadrantrls.proto";
    println!("cargo:rerun-if-changed=proto/{file}");
    tonic_prost_build::configure()
        .extern_path(".envoy.service.ratelimit.v3", "crate::ratelimit::v3")
        .compile_fds(protox::compile([file], ["proto"])?)?;
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
