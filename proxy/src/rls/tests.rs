//! Against services written from the standard: what they are asked, and what becomes of their answers.

use super::*;
use crate::config::Config;
use futures_util::stream;
use http::{HeaderMap, Method as HttpMethod};
use outrider_protos::kuadrant::v1::rate_limit_service_server as kuadrant;
use outrider_protos::ratelimit::v3::rate_limit_response::RateLimit;
use outrider_protos::ratelimit::v3::{Duration as Wire, rate_limit_service_server as envoy};
use serde_json::json;
use std::path::Path;
use std::sync::Mutex;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// Answers everything with the same, and keeps what it was asked.
#[derive(Clone)]
struct Fake {
    answer: Result<RateLimitResponse, Status>,
    asked: Arc<Mutex<Vec<(&'static str, RateLimitRequest)>>>,
}

impl Fake {
    fn hear(
        &self,
        method: &'static str,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        self.asked.lock().unwrap().push((method, request.into_inner()));
        self.answer.clone().map(Response::new)
    }
}

#[tonic::async_trait]
impl envoy::RateLimitService for Fake {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        self.hear("should", request)
    }
}

#[tonic::async_trait]
impl kuadrant::RateLimitService for Fake {
    async fn check_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        self.hear("check", request)
    }

    async fn report(&self, request: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        self.hear("report", request)
    }
}

async fn fake(answer: Result<RateLimitResponse, Status>) -> (String, Fake) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fake = Fake { answer, asked: Arc::default() };
    let incoming = Box::pin(stream::unfold(listener, async |listener| {
        let connection = listener.accept().await.map(|(tcp, _)| tcp);
        Some((connection, listener))
    }));
    let server = tonic::transport::Server::builder()
        .add_service(envoy::RateLimitServiceServer::new(fake.clone()))
        .add_service(kuadrant::RateLimitServiceServer::new(fake.clone()));
    tokio::spawn(async move { drop(server.serve_with_incoming(incoming).await) });
    (address, fake)
}

fn service(protocol: &str, address: &str) -> Arc<Service> {
    let text = format!(
        "{{tls: {{mode: disable}}, auth: {{methods: [{{anonymous: {{}}}}]}}, worker: {{socket: w, models: [m]}}, \
         rate_limits: {{service: {{protocol: {protocol}, address: '{address}', domain: models, timeout: 10s, descriptors: [\
         {{entries: [{{key: path, from: path}}]}}, {{entries: [{{key: tenant, from: {{header: x-tenant}}}}]}}, \
         {{unit: total_tokens, entries: [{{key: user, from: identity}}, {{key: model, from: model}}]}}]}}}}}}"
    );
    let config = Config::parse(&text, Path::new(""), Path::new("test.yaml")).unwrap();
    Arc::new(Service::new(&config.rate_limits.service.unwrap(), 1))
}

fn question(service: &Service) -> Question {
    let (claims, headers) = (json!({}), HeaderMap::new());
    let (method, path) = (&HttpMethod::POST, "/v1/chat/completions");
    service.question(&Caller { issuer: "", subject: "ann", claims: &claims, headers: &headers, method, path })
}

fn answer(code: Code) -> RateLimitResponse {
    RateLimitResponse { overall_code: code.into(), statuses: Vec::new() }
}

/// What was asked so far: method, entries as text, hits.
async fn heard(fake: &Fake, count: usize) -> Vec<(&'static str, String, u32)> {
    for _ in 0..1000 {
        if fake.asked.lock().unwrap().len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = |(method, request): &(&'static str, RateLimitRequest)| {
        assert_eq!(request.domain, "models");
        let entries = request.descriptors.iter().flat_map(|one| &one.entries);
        let text: Vec<_> = entries.map(|entry| format!("{}={}", entry.key, entry.value)).collect();
        (*method, text.join(","), request.hits_addend)
    };
    fake.asked.lock().unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn what_is_each_service_asked() {
    for (protocol, first, last, hits) in [("envoy", "should", "should", 41), ("kuadrant", "check", "report", 42)] {
        let (address, fake) = fake(Ok(answer(Code::Ok))).await;
        let service = service(protocol, &address);
        let mut question = question(&service);
        // Without a tenant, nothing is asked of tenants.
        assert!(matches!(service.ask(question.early()).await, Answer::Allowed));
        assert!(!question.reports());
        assert!(matches!(service.ask(question.late(Some("m"), true)).await, Answer::Allowed));
        assert!(question.reports());
        service.report(&question, Flow { prompt: Some(2), completion: 40 });
        let user = || "user=ann,model=m".to_owned();
        let path = "path=/v1/chat/completions".to_owned();
        assert_eq!(heard(&fake, 3).await, [("should", path, 1), (first, user(), 1), (last, user(), hits)]);
    }
}

#[tokio::test]
async fn what_is_not_reported() {
    let (address, fake) = fake(Ok(answer(Code::Ok))).await;
    let service = service("kuadrant", &address);
    let mut asked = question(&service);
    asked.late(Some("m"), false);
    service.clone().report(&asked, Flow { prompt: Some(2), completion: 40 });
    asked.late(Some("m"), true);
    service.clone().report(&asked, Flow::default().ended());
    service.clone().report(&asked, Flow { prompt: None, completion: 7 });
    assert_eq!(heard(&fake, 1).await.iter().map(|told| told.2).collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn what_does_a_refusal_say() {
    let limit = RateLimit { requests_per_unit: 10, unit: Window::Minute.into(), name: "a day's calls".into() };
    let status = DescriptorStatus {
        code: Code::OverLimit.into(),
        current_limit: Some(limit),
        limit_remaining: 0,
        duration_until_reset: Some(Wire { seconds: 7, nanos: -1 }),
    };
    let good = DescriptorStatus { duration_until_reset: Some(Wire { seconds: 7, nanos: 500 }), ..status.clone() };
    for (statuses, name, limit, seconds) in [
        (vec![], "models", 0, 0),
        (vec![status], "adayscalls", 10, 0),
        (vec![DescriptorStatus::default(), good], "adayscalls", 10, 7),
    ] {
        let (address, _fake) = fake(Ok(RateLimitResponse { statuses, ..answer(Code::OverLimit) })).await;
        let service = service("envoy", &address);
        let Answer::Over(quota) = service.ask(question(&service).early()).await else { panic!("allowed") };
        assert_eq!((&*quota.name, quota.limit, quota.reset.as_secs()), (name, limit, seconds));
    }
}

#[tokio::test]
async fn who_cannot_be_asked() {
    let (address, _fake) = fake(Err(Status::unavailable("its store is away"))).await;
    let (unknown, _other) = fake(Ok(answer(Code::Unknown))).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    for (address, words) in [(address, "its store is away"), (unknown, "neither OK"), (closed, "refused")] {
        let service = service("envoy", &address);
        let Answer::Failed(why) = service.ask(question(&service).early()).await else { panic!("answered") };
        assert!(why.contains(words), "{why}");
    }
}
