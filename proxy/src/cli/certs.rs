//! `outrider certs`: one more identity of the development trust domain.

use super::state::State;
use super::trust;
use crate::config::quantity::Quantity;
use crate::files::write_private;
use crate::tls::SpiffeId;
use crate::tls::sources::self_signed::Wish;
use std::error::Error;
use std::fs::DirBuilder;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

/// Makes a certificate and its key, signed by the authority in the state directory, and prints their paths.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where `outrider up` keeps its state [default: $XDG_STATE_HOME/outrider]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Service account NAME in namespace default: spiffe://outrider.local/ns/default/sa/NAME
    #[arg(long, required_unless_present = "spiffe_id", conflicts_with = "spiffe_id")]
    pub name: Option<String>,
    /// The whole id, of this trust domain or, for a test of refusal, of another
    #[arg(long, value_name = "ID")]
    pub spiffe_id: Option<SpiffeId>,
    /// Where NAME.pem, NAME.key and ca.pem go [default: the folder `identities` in the state directory]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How long it is good: 15m, 24h
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = ttl)]
    pub ttl: Duration,
    /// A DNS name beside the id. May be given again
    #[arg(long, value_name = "HOST")]
    pub dns: Vec<String>,
    /// An address beside the id. May be given again
    #[arg(long, value_name = "ADDR")]
    pub ip: Vec<IpAddr>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

/// `24h`, `15m`, `90s`.
pub fn ttl(text: &str) -> Result<Duration, String> {
    match Quantity::Text(text.into()).duration()? {
        short if short < Duration::from_secs(1) => Err("shorter than a second".into()),
        duration => Ok(duration),
    }
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let state = State::open_existing(State::place(args.state_dir.as_deref())?)?;
    let spiffe = match (args.spiffe_id, &args.name) {
        (Some(id), _) => id,
        (None, Some(name)) => trust::spiffe_of(name)?,
        (None, None) => return Err("give --name NAME or --spiffe-id ID".into()),
    };
    let name = spiffe.path().rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("identity").to_owned();
    if matches!(name.as_str(), "ca" | "issuer") {
        return Err(format!("`{name}` could take the place of a key that signs; choose another name").into());
    }
    let wish = Wish { spiffe, dns: args.dns, ip: args.ip, ttl_seconds: args.ttl.as_secs() };
    let making = state.lock_making()?;
    let now_unix = trust::now_unix();
    let authority = trust::authority(&state, now_unix)?;
    let pair = authority.sign(&wish, now_unix)?;
    drop(making);

    // Not beside the server's own files, which a name such as `server` would replace.
    let out = std::path::absolute(args.out.unwrap_or_else(|| state.file("identities")))?;
    let [certificate, key, bundle] =
        [format!("{name}.pem"), format!("{name}.key"), "ca.pem".into()].map(|f| out.join(f));
    for file in [&certificate, &key] {
        if file.exists() && !args.force {
            return Err(format!("{} is there already; give --force to replace it", file.display()).into());
        }
    }
    let failed = |error| format!("cannot write in {}: {error}", out.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&out).map_err(failed)?;
    write_private(&key, pair.key.as_bytes()).map_err(failed)?;
    write_private(&certificate, pair.certificate.as_bytes()).map_err(failed)?;
    if out != state.path() {
        let ours = state.file("ca.pem");
        let bytes = std::fs::read(&ours).map_err(|error| format!("cannot read {}: {error}", ours.display()))?;
        write_private(&bundle, &bytes).map_err(failed)?;
    }
    for file in [certificate, key, bundle] {
        writeln!(std::io::stdout(), "{}", file.display())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_certificate_may_be_asked_to_last() {
        assert_eq!(ttl("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "0s", "500ms", "24", "-1h", "999999h"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }
}
