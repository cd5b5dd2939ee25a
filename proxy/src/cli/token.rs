//! `outrider token`: one more credential of the development issuer, on stdout; or an API key.

use super::api_key;
use super::certs::ttl;
use super::state::State;
use super::trust::{self, AUDIENCE, ISSUER};
use crate::auth::issuer::Token;
use serde_json::{Map, Value};
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Prints a bearer credential signed by the issuer in the state directory.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub other: Option<Other>,
    /// Where `outrider up` keeps its state [default: $XDG_STATE_HOME/outrider]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Who it is for: `sub`
    #[arg(long, default_value = "developer", value_name = "S")]
    pub subject: String,
    /// Which service it is for: `aud`
    #[arg(long, default_value = AUDIENCE, value_name = "A")]
    pub audience: String,
    /// How long it is good: 90s, 15m, 24h
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = ttl)]
    pub ttl: Duration,
    /// A further claim; the value is JSON, or else text. May be given again
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    pub claims: Vec<(String, Value)>,
}

/// Credentials that are no tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Other {
    /// Make an API key, and the line by which a server knows it.
    ApiKey(api_key::Args),
}

const REGISTERED: [&str; 5] = ["aud", "exp", "iat", "iss", "sub"];

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() {
        return Err("the claim has no name".into());
    }
    if REGISTERED.contains(&name) {
        return Err(format!("`{name}` follows from --subject, --audience and --ttl"));
    }
    Ok((name.into(), self::value(value)))
}

/// JSON, or else text.
pub(super) fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()))
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    if let Some(Other::ApiKey(args)) = args.other {
        return api_key::run(args);
    }
    let state = State::open_existing(State::place(args.state_dir.as_deref())?)?;
    if args.subject.is_empty() || args.audience.is_empty() {
        return Err("--subject and --audience must not be empty: such a token would be refused".into());
    }
    let making = state.lock_making()?;
    let issuer = trust::issuer(&state)?;
    drop(making);
    let token = issuer.mint(Token {
        issuer: ISSUER,
        subject: &args.subject,
        audience: &args.audience,
        issued_at_unix: trust::now_unix(),
        ttl_seconds: args.ttl.as_secs(),
        claims: args.claims.into_iter().collect::<Map<_, _>>(),
    });
    Ok(writeln!(std::io::stdout(), "{token}")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn which_claims_can_be_asked_for() {
        assert_eq!(claim("team=blue"), Ok(("team".into(), json!("blue"))));
        assert_eq!(claim("roles=[\"a\",1]"), Ok(("roles".into(), json!(["a", 1]))));
        assert_eq!(claim("nbf=5"), Ok(("nbf".into(), json!(5))));
        assert_eq!(claim("x=a=b"), Ok(("x".into(), json!("a=b"))));
        for bad in ["x", "=1", "sub=root", "exp=9"] {
            assert!(claim(bad).is_err(), "{bad}");
        }
    }
}
