//! `outrider token api-key`: a key for somebody, and the line by which a server knows it.
//!
//! Never writes the key anywhere but to stdout.

use super::certs::ttl;
use super::token::value;
use super::trust;
use crate::auth::api_keys::line;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// By which a leaked key is recognised, by people and by whoever scans for secrets.
const PREFIX: &str = "ork_";

/// Prints a new key, and then its line for `auth.methods[].api_key.keys_file`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who it is for
    #[arg(long, value_name = "S")]
    pub name: String,
    /// How long it is good: 15m, 720h [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub ttl: Option<Duration>,
    /// What rules may know of its holder; the value is JSON, or else text. May be given again
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, Value)>,
    /// Append the line to this file instead of printing it; a server that reads the file takes it up within seconds
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

fn attribute(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("the attribute has no name".into()),
        Some(("name", _)) => Err("`name` follows from --name".into()),
        Some((name, text)) => Ok((name.into(), value(text))),
        None => Err("write NAME=VALUE".into()),
    }
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    if args.name.is_empty() || args.name.contains(char::is_control) {
        return Err("--name must be a name, without line breaks".into());
    }
    let mut chance = [0; 32];
    SystemRandom::new().fill(&mut chance).map_err(|_| "the operating system gives no random bytes")?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(chance));
    let end = args.ttl.map(|ttl| trust::now_unix().saturating_add(ttl.as_secs()));
    let line = line(&key, &args.name, &args.attributes.into_iter().collect(), end);
    let mut out = std::io::stdout();
    match args.file {
        None => writeln!(out, "{key}\n{line}")?,
        Some(file) => {
            let mut opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&file)?;
            // In one write: whoever reads the file meanwhile sees whole lines.
            opened.write_all(format!("{line}\n").as_bytes())?;
            opened.sync_all()?;
            writeln!(out, "{key}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::api_keys::load;
    use serde_json::json;

    #[test]
    fn which_attributes_can_be_given() {
        assert_eq!(attribute("team=blue"), Ok(("team".into(), json!("blue"))));
        assert_eq!(attribute("tiers=[1,2]"), Ok(("tiers".into(), json!([1, 2]))));
        for bad in ["x", "=1", "name=root"] {
            assert!(attribute(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn does_a_file_grow_by_one_holder_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.yaml");
        for name in ["ada", "eve"] {
            let attributes = vec![("team".into(), json!("blue"))];
            run(Args { name: name.into(), ttl: None, attributes, file: Some(file.clone()) }).unwrap();
        }
        assert_eq!(load(&file).unwrap().len(), 2);
        let nobody = Args { name: String::new(), ttl: None, attributes: Vec::new(), file: Some(file.clone()) };
        assert!(run(nobody).is_err());
        assert_eq!(load(&file).unwrap().len(), 2);
    }
}
