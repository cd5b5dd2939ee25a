//! `introspection`: which authorization server is asked about tokens, and how its answers are believed.

use super::{Problems, Quantity, RawLocation, TIMEOUT, address, location, shown, timeout};
use crate::auth::credential::Location;
use crate::auth::secrets::Hidden;
use crate::auth::verdicts::Limits;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a token that was taken back may live on. RFC 7662, section 4: less is safer, more is faster.
const ALLOW_TTL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
pub struct Introspection {
    /// RFC 7662, section 2.
    pub endpoint: String,
    /// Who we are there.
    pub client: ClientSecret,
    pub token_type_hint: Option<String>,
    /// What `iss` of the answer must be. `None`: it is not looked at.
    pub issuer: Option<String>,
    /// `aud` of the answer must be or contain one of these. Empty: it is not looked at.
    pub audiences: Vec<String>,
    /// Whether the answer must say of whom it speaks: `sub`, `username` or `client_id`.
    pub subject_required: bool,
    /// Of one question.
    pub timeout: Duration,
    /// Whom to verify the server with; `None`: the machine's own authorities.
    pub authorities: Option<PathBuf>,
    pub limits: Limits,
    pub credentials: Location,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ClientSecret {
    /// Read for each question.
    Files { id: PathBuf, secret: PathBuf },
    /// From a Secret that a policy names.
    Given { id: Hidden, secret: Hidden },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIntrospection {
    endpoint: String,
    client_id_file: PathBuf,
    client_secret_file: PathBuf,
    token_type_hint: Option<String>,
    issuer: Option<String>,
    #[serde(default)]
    audiences: Vec<String>,
    timeout: Option<Quantity>,
    authorities: Option<PathBuf>,
    allow_ttl: Option<Quantity>,
    deny_ttl: Option<Quantity>,
    questions_max: Option<usize>,
    questions_per_second: Option<usize>,
    credentials: Option<RawLocation>,
}

impl Introspection {
    /// Everything as it is without further settings.
    pub fn new(endpoint: String, client: ClientSecret) -> Introspection {
        Introspection {
            endpoint,
            client,
            token_type_hint: None,
            issuer: None,
            audiences: Vec::new(),
            subject_required: true,
            timeout: TIMEOUT,
            authorities: None,
            limits: Limits { good_seconds: ALLOW_TTL.as_secs(), ..Limits::default() },
            credentials: Location::Bearer,
        }
    }

    pub(super) fn dump(&self) -> Value {
        let files = match &self.client {
            ClientSecret::Files { id, secret } => [Some(id), Some(secret)],
            ClientSecret::Given { .. } => [None, None],
        };
        json!({
            "endpoint": self.endpoint,
            "client_id_file": files[0],
            "client_secret_file": files[1],
            "token_type_hint": self.token_type_hint,
            "issuer": self.issuer,
            "audiences": self.audiences,
            "timeout_seconds": self.timeout.as_secs_f64(),
            "authorities": self.authorities,
            "allow_ttl_seconds": self.limits.good_seconds,
            "deny_ttl_seconds": self.limits.bad_seconds,
            "questions_max": self.limits.asking_max,
            "questions_per_second": self.limits.asked_per_second,
            "credentials": shown(&self.credentials),
        })
    }
}

impl RawIntrospection {
    pub(super) fn validate(self, path: &str, base: &Path, p: &mut Problems) -> Option<Introspection> {
        if self.audiences.iter().any(String::is_empty) {
            p.add(&format!("{path}.audiences"), "has an empty name");
        }
        let timeout = timeout(&self.timeout, &format!("{path}.timeout"), p);
        let limits = self.limits(path, timeout, p);
        let credentials = location(&self.credentials, &format!("{path}.credentials"), p);
        let endpoint = address(&self.endpoint, &format!("{path}.endpoint"), p)?;
        let (id, secret) = (base.join(self.client_id_file), base.join(self.client_secret_file));
        let client = ClientSecret::Files { id, secret };
        Some(Introspection {
            token_type_hint: self.token_type_hint,
            issuer: self.issuer,
            audiences: self.audiences,
            timeout,
            authorities: self.authorities.map(|file| base.join(file)),
            limits,
            credentials,
            ..Introspection::new(endpoint, client)
        })
    }

    fn limits(&self, path: &str, timeout: Duration, p: &mut Problems) -> Limits {
        let default = Limits::default();
        let seconds = |at: &str, given: &Option<Quantity>, default: Duration, p: &mut Problems| {
            // Kept by the second: what is shorter would be nothing.
            p.duration(&format!("{path}.{at}"), given, default).as_secs().max(1)
        };
        let per_second = default.asked_per_second as usize;
        let per_second = p.count(&format!("{path}.questions_per_second"), self.questions_per_second, per_second);
        Limits {
            good_seconds: seconds("allow_ttl", &self.allow_ttl, ALLOW_TTL, p),
            bad_seconds: seconds("deny_ttl", &self.deny_ttl, Duration::from_secs(default.bad_seconds), p),
            asking_max: p.count(&format!("{path}.questions_max"), self.questions_max, default.asking_max).min(1024),
            asked_per_second: u32::try_from(per_second).unwrap_or(u32::MAX),
            // For its turn and for the answer.
            wait_max: timeout,
            ..default
        }
    }
}
