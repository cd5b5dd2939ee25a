//! Asked with the client that KEDA would generate.

use super::*;
use outrider_protos::keda::external_scaler_client::ExternalScalerClient;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

type Asker = ExternalScalerClient<Channel>;

async fn begin(seen: Seen) -> (Asker, watch::Sender<Seen>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = watch::channel(seen);
    let board = Board::new([("chat".to_owned(), receiver)]);
    let (halt, halted) = watch::channel(false);
    let task = tokio::spawn(async move {
        // Never told, but there to be told.
        let _halt = halt;
        serve(listener, board, halted).await;
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    (ExternalScalerClient::new(channel), sender, AbortOnDropHandle::new(task))
}

fn seen() -> Seen {
    Seen { metric: "concurrency", target: 70.0, load: 105.5, want: Some(2), active: true }
}

fn object(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let scaler_metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    ScaledObjectRef { name: "chat".into(), namespace: "models".into(), scaler_metadata }
}

async fn metric(asker: &mut Asker, object: ScaledObjectRef) -> Result<(MetricSpec, MetricValue), Status> {
    let specs = asker.get_metric_spec(object.clone()).await?.into_inner().metric_specs;
    let [spec] = &specs[..] else { panic!("one metric, not {specs:?}") };
    let request = GetMetricsRequest { scaled_object_ref: Some(object), metric_name: spec.metric_name.clone() };
    let values = asker.get_metrics(request).await?.into_inner().metric_values;
    let [value] = &values[..] else { panic!("one value, not {values:?}") };
    Ok((spec.clone(), value.clone()))
}

#[tokio::test]
async fn what_does_keda_scale_by() {
    let (mut asker, sender, _server) = begin(seen()).await;
    let (spec, value) = metric(&mut asker, object(&[])).await.unwrap();
    assert_eq!(
        (spec.metric_name.as_str(), spec.target_size, spec.target_size_float),
        ("outrider-concurrency", 70, 70.0)
    );
    assert_eq!(
        (value.metric_name.as_str(), value.metric_value, value.metric_value_float),
        ("outrider-concurrency", 106, 105.5)
    );
    let (spec, value) = metric(&mut asker, object(&[("value", "pods"), ("service", "chat")])).await.unwrap();
    assert_eq!((spec.metric_name.as_str(), spec.target_size_float), ("outrider-pods", 1.0));
    assert_eq!(value.metric_value_float, 2.0);
    sender.send_modify(|seen| seen.want = None);
    let unknown = metric(&mut asker, object(&[("value", "pods")])).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "an error leaves the HPA where it is; a zero would not");
}

#[tokio::test]
async fn is_whoever_is_not_here_told_what_is() {
    let (mut asker, _sender, _server) = begin(seen()).await;
    let error = asker.is_active(object(&[("service", "other")])).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("chat"), "{error}");
    assert_eq!(metric(&mut asker, object(&[("value", "x")])).await.unwrap_err().code(), Code::InvalidArgument);
    let request = GetMetricsRequest { scaled_object_ref: Some(object(&[])), metric_name: "other".into() };
    assert_eq!(asker.get_metrics(request).await.unwrap_err().code(), Code::NotFound);
    let request = GetMetricsRequest { scaled_object_ref: None, metric_name: String::new() };
    assert_eq!(asker.get_metrics(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn is_every_change_between_work_and_none_told() {
    let (mut asker, sender, _server) = begin(Seen { active: false, ..seen() }).await;
    assert!(!asker.is_active(object(&[])).await.unwrap().into_inner().result);
    let mut stream = asker.stream_is_active(object(&[])).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().map(|told| told.result), Some(false), "what is, first");
    for active in [true, false, true] {
        sender.send_modify(|seen| seen.load += 1.0);
        sender.send_modify(|seen| seen.active = active);
        assert_eq!(stream.message().await.unwrap().map(|told| told.result), Some(active));
    }
    drop(sender);
    assert!(stream.message().await.unwrap().is_none(), "an autoscaler that ends, ends it");
}
