//! `POST /auth/invalidate`: what an operator says must be forgotten, at once: answers about callers, the rights of
//! streams that run, and tokens that nobody else would say are good no more.
//!
//! A subject's tokens are refused if they were issued until now; one token, by its `jti` or its hash, until it ends.
//! Never takes a credential, only the SHA-256 of one: it would end in somebody's shell history.

use super::http::Reply;
use crate::auth::Authenticator;
use crate::auth::credential::sha256_of_hex;
use crate::auth::revocations::Revoked;
use crate::auth::verdicts::Which;
use serde::Deserialize;
use serde_json::json;

const USAGE: &str = "send one of {\"all\": true}, {\"subject\": \"…\"}, {\"issuer\": \"…\"}, {\"jti\": \"…\"}, \
                     {\"credential_sha256\": \"64 hex digits\"}; beside subject, jti and credential_sha256 also \
                     \"until_unix\": when all that it names has ended anyway\n";
const FULL: &str = "forgotten, but not barred: too many tokens are barred already. Say \"until_unix\" of those that end, \
                    or start the process anew with tokens of a new key\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    all: Option<bool>,
    subject: Option<String>,
    issuer: Option<String>,
    credential_sha256: Option<String>,
    jti: Option<String>,
    until_unix: Option<u64>,
}

/// What is to be forgotten, and when it has ended anyway; or what to answer instead.
fn parse(body: &[u8]) -> Result<(Which, Option<u64>), Reply> {
    let usage = || Reply::text(400, USAGE);
    let body: Body = serde_json::from_slice(body).map_err(|_| usage())?;
    let texts = [body.subject, body.issuer, body.jti, body.credential_sha256];
    let given = texts.iter().filter(|text| text.is_some()).count() + usize::from(body.all.is_some());
    if given != 1 || body.all == Some(false) || texts.iter().flatten().any(String::is_empty) {
        return Err(usage());
    }
    let which = match texts {
        [Some(subject), ..] => Which::Subject(subject),
        [_, Some(issuer), ..] => Which::Issuer(issuer),
        [_, _, Some(id), _] => Which::TokenId(id),
        [.., Some(hex)] => sha256_of_hex(&hex).map(Which::Credential).ok_or_else(usage)?,
        _ => Which::All,
    };
    let barred = !matches!(which, Which::All | Which::Issuer(_));
    if body.until_unix.is_some() && !barred { Err(usage()) } else { Ok((which, body.until_unix)) }
}

/// Does as the body says; `cut` ends what runs.
pub fn invalidate(body: &[u8], authenticator: &Authenticator, now_unix: u64, cut: impl FnOnce(Revoked)) -> Reply {
    let (which, until_unix) = match parse(body) {
        Ok(order) => order,
        Err(usage) => return usage,
    };
    // Barred first: what is asked anew meanwhile must not be let in.
    let barred = authenticator.barred().bar(&which, now_unix, until_unix);
    let forgotten = authenticator.forget(&which);
    cut(revoked(&which));
    tracing::info!(forgotten, "answers about callers were forgotten, as an operator asked");
    match barred {
        Ok(()) => Reply::json(200, &json!({"forgotten": forgotten})),
        Err(_) => Reply::text(507, FULL),
    }
}

/// The same, for exchanges that run.
fn revoked(which: &Which) -> Revoked {
    match which {
        Which::All => Revoked::All,
        Which::Subject(subject) => Revoked::Subject(subject.clone()),
        Which::Issuer(issuer) => Revoked::Issuer(issuer.clone()),
        Which::Credential(digest) => Revoked::Credential(*digest),
        Which::TokenId(id) => Revoked::TokenId(id.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_forgotten() {
        let sha = "ab".repeat(32);
        for (body, which, until) in [
            (r#"{"all": true}"#, Which::All, None),
            (r#"{"subject": "ada"}"#, Which::Subject("ada".into()), None),
            (r#"{"subject": "ada", "until_unix": 7}"#, Which::Subject("ada".into()), Some(7)),
            (r#"{"issuer": "https://x"}"#, Which::Issuer("https://x".into()), None),
            (r#"{"jti": "1"}"#, Which::TokenId("1".into()), None),
            (&format!(r#"{{"credential_sha256": "{sha}"}}"#), Which::Credential([0xab; 32]), None),
        ] {
            assert_eq!(parse(body.as_bytes()).ok(), Some((which, until)), "{body}");
        }
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"all": false}"#,
            r#"{"all": true, "subject": "ada"}"#,
            r#"{"subject": ""}"#,
            r#"{"subject": "ada", "jti": "1"}"#,
            r#"{"all": true, "until_unix": 7}"#,
            r#"{"until_unix": 7}"#,
            r#"{"credential_sha256": "ab"}"#,
            r#"{"credential": "secret"}"#,
            "\u{0}",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(format!(r#"{{"credential_sha256": "{}"}}"#, "+f".repeat(32)).as_bytes()).is_err());
    }
}
