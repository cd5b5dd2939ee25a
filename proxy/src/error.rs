//! Every refusal the sidecar can utter, one enum classed by whose fault it is, and one table that says what each means.
//!
//! A stage returns an [`Error`]; [`Error::verdict`] gives status, label and public words; the dialect gives the body.
//! Public words help the caller mend the request, and never help a stranger guess.

use crate::message::Refusal;
use http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;

/// Why a request was refused or an answer was cut short.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    // ------------------------------------------------------------------------------------------ the caller's fault
    /// The request can never succeed as it is. `param` names the field, where there is one.
    #[error("{message}")]
    Invalid { message: String, param: Option<String> },
    #[error("no such path: {method} {path}")]
    UnknownPath { method: String, path: String },
    /// An activator has no service of that name.
    #[error("no service here answers to the host `{host}`")]
    UnknownHost { host: String },
    #[error("{method} is not allowed here; use {allowed}")]
    MethodNotAllowed { method: String, allowed: &'static str },
    #[error("the model `{model}` does not exist; this server has: {known}")]
    UnknownModel { model: String, known: String },
    /// The protocol knows versions of a model; every model here has one, named "1".
    #[error("the model `{model}` has no version `{version}`; it has version `1`")]
    UnknownVersion { model: String, version: String },
    /// The model is there but does other work.
    #[error("the model `{model}` cannot {task}")]
    WrongTask { model: String, task: &'static str },
    #[error("the request body is larger than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    #[error("content-type `{got}` is not supported here; send {want}")]
    UnsupportedMediaType { got: String, want: &'static str },
    /// Part of the dialect that this server does not speak.
    #[error("{feature} is not supported")]
    Unsupported { feature: String },
    #[error("the request body did not arrive within {seconds} s")]
    BodyTimeout { seconds: u64 },
    /// The caller's own deadline (`grpc-timeout`).
    #[error("the request was not answered within its deadline of {} ms", limit.as_millis())]
    DeadlineExceeded { limit: Duration },
    /// The caller went away; nobody hears this verdict, but log and metrics keep it.
    #[error("the caller left")]
    CallerLeft,

    // ------------------------------------------------------------------------------------------------- not allowed
    /// No credential, or none this server takes.
    #[error("a bearer credential is required")]
    CredentialMissing,
    /// `reason` is for the log and the metric; the caller is told only that the credential is not accepted.
    #[error("the credential is not accepted: {reason}")]
    CredentialRefused { reason: &'static str },
    /// `reason` names the policy, for the log.
    #[error("not allowed: {reason}")]
    Forbidden { reason: String },

    /// An external authorizer said no, in its own words, which are the caller's to hear.
    #[error("the authorizer {provider} answered {}", .refusal.status.as_u16())]
    Denied { provider: Arc<str>, refusal: Box<Refusal> },

    /// The same, with headers that a policy wants the caller told.
    #[error("{error}")]
    Explained { error: Box<Error>, headers: Box<HeaderMap> },

    // ----------------------------------------------------------------------------------------------- not right now
    /// Whoever knows callers (the Kubernetes API, an authorization server) did not answer: nobody is let in on a guess.
    #[error("the caller could not be checked; try again")]
    AuthUnavailable,
    #[error("the queue is full: {waiting} requests are waiting")]
    QueueFull { waiting: usize, retry_after: Duration },
    #[error("the queue holds {bytes} bytes of requests, which is its limit")]
    QueueBytesFull { bytes: usize, retry_after: Duration },
    /// The caller asked to be refused rather than queued.
    #[error("there is no room at the moment, and the request asked not to be queued")]
    NoRoom,
    /// It had waited, and had to go for a caller who holds less of the queue, or one whose priority is higher.
    #[error("the queue is full, and others who ask less or matter more are before this request")]
    QueueDisplaced { retry_after: Duration },
    #[error("the request waited {} s in the queue and was not reached", waited.as_secs())]
    QueueTimeout { waited: Duration, retry_after: Duration },
    #[error("the request waited {} s for the worker to start", waited.as_secs())]
    ColdTimeout { waited: Duration, retry_after: Duration },
    /// One of the operator's clocks (`timeouts`) ran out.
    #[error("{}", clock.words(*limit))]
    Overdue { clock: Clock, limit: Duration },
    #[error("the server is draining")]
    Draining,
    /// The caller has had what it may have for now.
    #[error("the limit `{}`{} is reached", .quota.name, .quota.words())]
    RateLimited { quota: Box<Quota> },
    /// Whoever counts could not be asked, and must be.
    #[error("the rate limit service could not be asked: {reason}")]
    LimiterSilent { reason: String },
    /// The worker could not be started; everybody who waited is told once.
    #[error("the worker did not start: {reason}")]
    WakeFailed { reason: String, retry_after: Duration },

    // ------------------------------------------------------------------------------------------------ our own fault
    /// The worker said no: a gRPC code and its words.
    #[error("{message}")]
    Worker { code: i32, message: String },
    /// The worker went away before it had started on this request, and so did the one after it.
    #[error("the worker went away before it started on this request")]
    WorkerGone,
    /// There was no worker to give the request to.
    #[error("the worker is not there")]
    WorkerAbsent,
    /// The worker went away in the middle of the answer.
    #[error("the worker went away in the middle of the answer")]
    WorkerLost,
    #[error("the worker's answer makes no sense: {reason}")]
    WorkerNonsense { reason: String },
    /// The foreign server took longer than `forward.response_timeout`.
    #[error("the server behind did not answer in time")]
    UpstreamTimeout,
}

/// Which of the operator's clocks ran out, and where the request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The whole request, which still waited for its turn.
    TotalWaiting,
    /// The whole request, which the worker had.
    Total,
    /// From its turn to the first byte of the answer.
    FirstByte,
    /// Since the answer last went on.
    Idle,
}

impl Clock {
    fn words(self, limit: Duration) -> String {
        let seconds = limit.as_secs_f64();
        match self {
            Clock::TotalWaiting => format!("the request was not reached within the {seconds} s it may take"),
            Clock::Total => format!("the request was not done within the {seconds} s it may take"),
            Clock::FirstByte => format!("the answer did not begin within {seconds} s"),
            Clock::Idle => format!("the answer did not go on for {seconds} s"),
        }
    }
}

/// What a gRPC caller is told of a refusal's body: its message is a header.
const DENIED_WORDS_MAX: usize = 1024;

/// gRPC status codes, by number (`grpc/doc/statuscodes.md`).
pub mod grpc {
    pub const CANCELLED: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const NOT_FOUND: i32 = 5;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const FAILED_PRECONDITION: i32 = 9;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
    pub const UNAUTHENTICATED: i32 = 16;

    /// For an HTTP status that came in place of an answer (`grpc/doc/http-grpc-status-mapping.md`).
    pub fn of_status(status: u16) -> i32 {
        match status {
            400 => INTERNAL,
            401 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 => UNIMPLEMENTED,
            429 | 502 | 503 | 504 => UNAVAILABLE,
            _ => UNKNOWN,
        }
    }
}

/// Where a caller stands with a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    pub name: Arc<str>,
    /// Of LLM tokens, else of requests.
    pub tokens: bool,
    /// So many in each window.
    pub limit: u64,
    pub window: Duration,
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset: Duration,
    /// Until anything is.
    pub retry_after: Duration,
}

impl Quota {
    fn words(&self) -> String {
        if self.window.is_zero() {
            return String::new();
        }
        let what = if self.tokens { "tokens" } else { "requests" };
        format!(" of {} {what} in {} s", self.limit, self.window.as_secs_f64())
    }
}

/// What a refusal means to the outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// HTTP status.
    pub status: u16,
    /// gRPC status code.
    pub grpc: i32,
    /// For metrics and logs: one of a closed set.
    pub label: &'static str,
    /// When to come again.
    pub retry_after: Option<Duration>,
    /// For the caller.
    pub words: String,
    /// The field at fault, where there is one.
    pub param: Option<String>,
    /// Which part refused: `request` (as it is, it cannot succeed), `auth`, `rate_limit`, `queue` (the worker has enough to
    /// do), `cold` (there is no worker yet), `worker` (it, or the server behind), `proxy` (the sidecar itself: it drains).
    pub part: &'static str,
    /// The limit that was reached.
    pub quota: Option<Quota>,
}

impl Error {
    /// A request that can never succeed, with no field to blame.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid { message: message.into(), param: None }
    }

    /// A request that can never succeed because of this field.
    pub fn invalid_param(param: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Invalid { message: message.into(), param: Some(param.into()) }
    }

    /// Adds what a policy wants the caller told, in the place of what the table would have said.
    pub fn explain(&self, headers: &mut HeaderMap) {
        if let Error::Explained { headers: told, .. } = self {
            for name in told.keys() {
                headers.remove(name);
            }
            for (name, value) in told.iter() {
                headers.append(name, value.clone());
            }
        }
    }

    /// THE table.
    pub fn verdict(&self) -> Verdict {
        use Error::*;
        let (status, grpc, label, part) = match self {
            Invalid { .. } => (400, grpc::INVALID_ARGUMENT, "invalid", "request"),
            UnknownPath { .. } => (404, grpc::UNIMPLEMENTED, "unknown_path", "request"),
            UnknownHost { .. } => (404, grpc::UNIMPLEMENTED, "unknown_host", "request"),
            MethodNotAllowed { .. } => (405, grpc::UNIMPLEMENTED, "method_not_allowed", "request"),
            UnknownModel { .. } => (404, grpc::NOT_FOUND, "unknown_model", "request"),
            UnknownVersion { .. } => (404, grpc::NOT_FOUND, "unknown_version", "request"),
            WrongTask { .. } => (400, grpc::FAILED_PRECONDITION, "wrong_task", "request"),
            BodyTooLarge { .. } => (413, grpc::RESOURCE_EXHAUSTED, "body_too_large", "request"),
            UnsupportedMediaType { .. } => (415, grpc::INVALID_ARGUMENT, "unsupported_media_type", "request"),
            Unsupported { .. } => (400, grpc::UNIMPLEMENTED, "unsupported", "request"),
            BodyTimeout { .. } => (408, grpc::DEADLINE_EXCEEDED, "body_timeout", "request"),
            DeadlineExceeded { .. } => (504, grpc::DEADLINE_EXCEEDED, "deadline_exceeded", "request"),
            CallerLeft => (499, grpc::CANCELLED, "caller_left", "request"),
            CredentialMissing => (401, grpc::UNAUTHENTICATED, "credential_missing", "auth"),
            CredentialRefused { .. } => (401, grpc::UNAUTHENTICATED, "credential_refused", "auth"),
            Forbidden { .. } => (403, grpc::PERMISSION_DENIED, "forbidden", "auth"),
            Denied { refusal, .. } => {
                let status = refusal.status.as_u16();
                (status, grpc::of_status(status), "denied", "auth")
            }
            Explained { error, .. } => return error.verdict(),
            AuthUnavailable => (503, grpc::UNAVAILABLE, "auth_unavailable", "auth"),
            QueueFull { .. } => (429, grpc::RESOURCE_EXHAUSTED, "queue_full", "queue"),
            QueueBytesFull { .. } => (429, grpc::RESOURCE_EXHAUSTED, "queue_bytes_full", "queue"),
            QueueDisplaced { .. } => (429, grpc::RESOURCE_EXHAUSTED, "queue_displaced", "queue"),
            NoRoom => (503, grpc::UNAVAILABLE, "no_room", "queue"),
            QueueTimeout { .. } => (504, grpc::DEADLINE_EXCEEDED, "queue_timeout", "queue"),
            // Not 504: nobody was slow to answer, there was nobody yet, and there may be when the caller comes again.
            ColdTimeout { .. } => (503, grpc::UNAVAILABLE, "cold_timeout", "cold"),
            Overdue { clock, .. } => overdue(*clock),
            RateLimited { .. } => (429, grpc::RESOURCE_EXHAUSTED, "rate_limited", "rate_limit"),
            LimiterSilent { .. } => (503, grpc::UNAVAILABLE, "limiter_silent", "rate_limit"),
            Draining => (503, grpc::UNAVAILABLE, "draining", "proxy"),
            WakeFailed { .. } => (503, grpc::UNAVAILABLE, "wake_failed", "cold"),
            Worker { code, .. } => (worker_status(*code), *code, "worker_refused", "worker"),
            WorkerGone | WorkerAbsent => (503, grpc::UNAVAILABLE, "worker_gone", "worker"),
            WorkerLost => (502, grpc::UNAVAILABLE, "worker_lost", "worker"),
            WorkerNonsense { .. } => (502, grpc::INTERNAL, "worker_nonsense", "worker"),
            UpstreamTimeout => (504, grpc::DEADLINE_EXCEEDED, "upstream_timeout", "worker"),
        };
        let quota = match self {
            RateLimited { quota } => Some((**quota).clone()),
            _ => None,
        };
        let (retry_after, words, param) = (self.retry_after(), self.words(), self.param());
        Verdict { status, grpc, label, retry_after, words, param, part, quota }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::QueueFull { retry_after, .. }
            | Error::QueueBytesFull { retry_after, .. }
            | Error::QueueDisplaced { retry_after }
            | Error::QueueTimeout { retry_after, .. }
            | Error::ColdTimeout { retry_after, .. }
            | Error::WakeFailed { retry_after, .. } => Some(*retry_after),
            // A moment's patience at least: what trickles in would be gone with the next few words.
            Error::RateLimited { quota } => Some(quota.retry_after.max(Duration::from_secs(1))),
            Error::AuthUnavailable
            | Error::NoRoom
            | Error::Draining
            | Error::WorkerGone
            | Error::WorkerAbsent
            | Error::LimiterSilent { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    fn words(&self) -> String {
        match self {
            // The reason would tell a stranger which check to get past next.
            Error::CredentialRefused { .. } => "the credential is not accepted".into(),
            Error::LimiterSilent { .. } => "the limits of this caller are unknown at the moment".into(),
            Error::RateLimited { quota } => {
                let seconds = quota.retry_after.as_secs_f64().ceil().max(1.0);
                format!("the limit `{}`{} is reached; try again in {seconds} s", quota.name, quota.words())
            }
            Error::Forbidden { .. } => "this caller is not allowed to do this".into(),
            Error::Denied { refusal, .. } => {
                let words = String::from_utf8_lossy(&refusal.body);
                words.chars().take(DENIED_WORDS_MAX).collect()
            }
            Error::Explained { error, .. } => error.words(),
            other => other.to_string(),
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            Error::Invalid { param, .. } => param.clone(),
            Error::UnknownModel { .. } | Error::WrongTask { .. } => Some("model".into()),
            _ => None,
        }
    }
}

fn overdue(clock: Clock) -> (u16, i32, &'static str, &'static str) {
    let (label, part) = match clock {
        Clock::TotalWaiting => ("total_timeout", "queue"),
        Clock::Total => ("total_timeout", "worker"),
        Clock::FirstByte => ("first_byte_timeout", "worker"),
        Clock::Idle => ("idle_timeout", "worker"),
    };
    (504, grpc::DEADLINE_EXCEEDED, label, part)
}

/// HTTP status for a gRPC code of the worker's (as Google's API design guide maps them).
fn worker_status(code: i32) -> u16 {
    match code {
        grpc::INVALID_ARGUMENT | grpc::FAILED_PRECONDITION => 400,
        grpc::NOT_FOUND => 404,
        grpc::RESOURCE_EXHAUSTED => 429,
        grpc::UNIMPLEMENTED => 501,
        grpc::UNAVAILABLE => 503,
        grpc::DEADLINE_EXCEEDED => 504,
        _ => 500,
    }
}
