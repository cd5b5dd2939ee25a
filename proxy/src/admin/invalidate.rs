//! `POST /auth/invalidate`: what an operator says must be forgotten, at once: answers about callers, and the rights of
//! streams that run.
//!
//! Never takes a credential, only the SHA-256 of one: it would end in somebody's shell history.

use super::http::Reply;
use crate::auth::credential::sha256_of_hex;
use crate::auth::revocations::Revoked;
use crate::auth::verdicts::Which;
use serde::Deserialize;
use serde_json::json;

const USAGE: &str = "send one of {\"all\": true}, {\"subject\": \"…\"}, {\"issuer\": \"…\"}, {\"credential_sha256\": \"64 hex digits\"}\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    all: Option<bool>,
    subject: Option<String>,
    issuer: Option<String>,
    credential_sha256: Option<String>,
}

/// What is to be forgotten, or what to answer instead.
pub fn parse(body: &[u8]) -> Result<Which, Reply> {
    let usage = || Reply::text(400, USAGE);
    let body: Body = serde_json::from_slice(body).map_err(|_| usage())?;
    match (body.all, body.subject, body.issuer, body.credential_sha256) {
        (Some(true), None, None, None) => Ok(Which::All),
        (None, Some(subject), None, None) if !subject.is_empty() => Ok(Which::Subject(subject)),
        (None, None, Some(issuer), None) if !issuer.is_empty() => Ok(Which::Issuer(issuer)),
        (None, None, None, Some(hex)) => sha256_of_hex(&hex).map(Which::Credential).ok_or_else(usage),
        _ => Err(usage()),
    }
}

/// The same, for exchanges that run.
pub fn revoked(which: &Which) -> Revoked {
    match which {
        Which::All => Revoked::All,
        Which::Subject(subject) => Revoked::Subject(subject.clone()),
        Which::Issuer(issuer) => Revoked::Issuer(issuer.clone()),
        Which::Credential(digest) => Revoked::Credential(*digest),
    }
}

pub fn done(forgotten: usize) -> Reply {
    Reply::json(200, &json!({"forgotten": forgotten}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_forgotten() {
        let sha = "ab".repeat(32);
        assert_eq!(parse(br#"{"all": true}"#).ok(), Some(Which::All));
        assert_eq!(parse(br#"{"subject": "ada"}"#).ok(), Some(Which::Subject("ada".into())));
        assert_eq!(parse(br#"{"issuer": "https://x"}"#).ok(), Some(Which::Issuer("https://x".into())));
        let credential = format!(r#"{{"credential_sha256": "{sha}"}}"#);
        assert_eq!(parse(credential.as_bytes()).ok(), Some(Which::Credential([0xab; 32])));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"all": false}"#,
            r#"{"all": true, "subject": "ada"}"#,
            r#"{"subject": ""}"#,
            r#"{"credential_sha256": "ab"}"#,
            r#"{"credential": "secret"}"#,
            "\u{0}",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(format!(r#"{{"credential_sha256": "{}"}}"#, "+f".repeat(32)).as_bytes()).is_err());
    }
}
