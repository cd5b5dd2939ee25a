//! The client of rate limit services: Envoy's protocol, and Kuadrant's where tokens are asked for first and reported later.
//!
//! With Envoy's protocol to ask is to count, so that a request whose tokens are limited counts one when it asks, and the
//! rest when it has ended. What a server says beside yes and no becomes the headers of a refusal. Never retries: within
//! some milliseconds a second try would come too late.

mod client;
mod question;

pub use question::{Call, Question};

use crate::admission::rate::{Caller, Flow};
use crate::config::rate_limits::{RateProtocol, RateService};
use crate::error::Quota;
use client::{Client, Method};
use outrider_protos::ratelimit::v3::rate_limit_response::rate_limit::Unit as Window;
use outrider_protos::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use outrider_protos::ratelimit::v3::{RateLimitDescriptor, RateLimitRequest, RateLimitResponse};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Reports on their way at once; beyond, the service is slower than its work, and what is reported is lost.
const REPORTS_MAX: usize = 256;
/// Nobody waits for a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Service {
    client: Client,
    config: RateService,
    reports: Arc<Semaphore>,
}

/// What became of asking.
#[derive(Debug)]
pub enum Answer {
    Allowed,
    Over(Box<Quota>),
    Failed(String),
}

impl Service {
    /// Connects when first asked. `seats`: runtimes that will ask.
    pub fn new(config: &RateService, seats: usize) -> Service {
        let client = Client::new(&config.address, config.timeout, seats);
        Service { client, config: config.clone(), reports: Arc::new(Semaphore::new(REPORTS_MAX)) }
    }

    pub fn fail_open(&self) -> bool {
        self.config.fail_open
    }

    /// What there is to ask about a caller.
    pub fn question(&self, caller: &Caller<'_>) -> Question {
        Question::of(&self.config.descriptors, caller)
    }

    /// Asks, one call after another, until one is refused.
    pub async fn ask(&self, calls: Vec<Call>) -> Answer {
        let asking = async {
            for call in calls {
                let method = match (self.config.protocol, call.tokens) {
                    (RateProtocol::Kuadrant, true) => Method::Check,
                    _ => Method::Should,
                };
                match self.client.call(method, self.request(call.descriptors, 1)).await {
                    Ok(response) if response.overall_code() == Code::OverLimit => {
                        return Answer::Over(Box::new(self.quota(&response, call.tokens)));
                    }
                    Ok(response) if response.overall_code() == Code::Ok => {}
                    Ok(_) => {
                        return Answer::Failed("it answered neither OK nor OVER_LIMIT; is its domain known?".into());
                    }
                    Err(why) => return Answer::Failed(why),
                }
            }
            Answer::Allowed
        };
        let late = || Answer::Failed(format!("no answer within {} ms", self.config.timeout.as_millis()));
        tokio::time::timeout(self.config.timeout, asking).await.unwrap_or_else(|_| late())
    }

    /// Tells, beside the callers, what an answer cost.
    pub fn report(self: Arc<Self>, question: &Question, flow: Flow) {
        let (method, asked) = match self.config.protocol {
            RateProtocol::Kuadrant => (Method::Report, 0),
            // One was counted when it was asked.
            RateProtocol::Envoy => (Method::Should, 1),
        };
        let mut due = question.due(flow);
        due.retain(|(count, _)| *count > asked);
        if due.is_empty() {
            return;
        }
        let runtime = tokio::runtime::Handle::try_current();
        let (Ok(runtime), Ok(permit)) = (runtime, self.reports.clone().try_acquire_owned()) else {
            tracing::warn!("tokens are not reported to the rate limit service: {REPORTS_MAX} reports are on their way");
            return;
        };
        runtime.spawn(async move {
            let _permit = permit;
            for (count, descriptors) in due {
                let hits = u32::try_from(count - asked).unwrap_or(u32::MAX);
                let told = self.client.call(method, self.request(descriptors, hits));
                match tokio::time::timeout(REPORT_TIMEOUT, told).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(why)) => tracing::warn!(why, "tokens could not be reported to the rate limit service"),
                    Err(_) => tracing::warn!("the rate limit service does not take reports in time"),
                }
            }
        });
    }

    fn request(&self, descriptors: Vec<RateLimitDescriptor>, hits_addend: u32) -> RateLimitRequest {
        RateLimitRequest { domain: self.config.domain.clone(), descriptors, hits_addend }
    }

    /// Of the first descriptor that is over; services may say nothing of it.
    fn quota(&self, response: &RateLimitResponse, tokens: bool) -> Quota {
        let status = response.statuses.iter().find(|status| status.code() == Code::OverLimit);
        let limit = status.and_then(|status| status.current_limit.as_ref());
        let reset = status.and_then(reset).unwrap_or(Duration::ZERO);
        let name = limit.map(|limit| limit.name.as_str()).filter(|name| !name.is_empty());
        Quota {
            name: fit(name.unwrap_or(&self.config.domain)),
            tokens,
            limit: limit.map_or(0, |limit| limit.requests_per_unit.into()),
            window: limit.map_or(Duration::ZERO, |limit| window(limit.unit())),
            remaining: status.map_or(0, |status| status.limit_remaining.into()),
            reset,
            retry_after: reset,
        }
    }
}

/// For headers and logs.
fn fit(name: &str) -> Arc<str> {
    let fit = |c: &char| c.is_ascii_alphanumeric() || "-_.:/".contains(*c);
    name.chars().filter(fit).take(128).collect::<String>().into()
}

fn reset(status: &DescriptorStatus) -> Option<Duration> {
    let reset = status.duration_until_reset.as_ref()?;
    Some(Duration::new(reset.seconds.try_into().ok()?, u32::try_from(reset.nanos).ok()?.min(999_999_999)))
}

fn window(unit: Window) -> Duration {
    const DAY: u64 = 86_400;
    Duration::from_secs(match unit {
        Window::Unknown => 0,
        Window::Second => 1,
        Window::Minute => 60,
        Window::Hour => 3600,
        Window::Day => DAY,
        Window::Week => 7 * DAY,
        Window::Month => 30 * DAY,
        Window::Year => 365 * DAY,
    })
}

#[cfg(test)]
mod tests;
