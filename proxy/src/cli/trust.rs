//! The development trust domain on disk: made once, reused, renewed before it ends, remade never by itself.
//!
//! Never replaces an authority or an issuer's key: whoever holds something signed by the old one would be locked out.

use super::state::{State, StateError};
use crate::auth::issuer::{Issuer, IssuerError, Token};
use crate::auth::jwks::KeySet;
use crate::auth::jwt::{self, Expected};
use crate::config;
use crate::tls::pem::{SourceError, certificates};
use crate::tls::sources::files::Files;
use crate::tls::sources::self_signed::{
    self, Authority, AuthorityError, LEAF_TTL_SECONDS, Pair, TRUST_DOMAIN, Wish, fulfils,
};
use crate::tls::{MaterialError, SpiffeId};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub const ISSUER: &str = "https://issuer.outrider.local";
pub const AUDIENCE: &str = "outrider";
const SUBJECT: &str = "developer";
const DAY: u64 = 86_400;
const TOKEN_TTL_SECONDS: u64 = 30 * DAY;

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{error}; remove {} and {} to have an authority made anew (what the old one signed ends with it)",
        directory.join("ca.pem").display(), directory.join("ca.key").display())]
    Authority { directory: PathBuf, error: AuthorityError },
    #[error("{} is damaged: {reason}; remove it to have it made anew", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{} is damaged: {error}; remove it to have it made anew (tokens signed by the old one end with it)", path.display())]
    IssuerKey { path: PathBuf, error: IssuerError },
    #[error("{}: the authority's certificate is here, but its key is not; put it back, or remove {} as well",
        key.display(), certificate.display())]
    KeyMissing { key: PathBuf, certificate: PathBuf },
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("cannot sign: {0}")]
    Sign(AuthorityError),
}

pub fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The id of a service account of the development trust domain.
pub fn spiffe_of(account: &str) -> Result<SpiffeId, crate::tls::identity::SpiffeIdError> {
    SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{account}"))
}

/// Makes or renews everything a development server needs. `address` is one callers will find it at, beside loopback.
pub fn ensure(state: &State, address: Option<IpAddr>, now_unix: u64) -> Result<(), TrustError> {
    let _making = state.lock_making()?;
    let authority = authority(state, now_unix)?;
    let mut ip = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    ip.extend(address.filter(|address| !address.is_loopback() && !address.is_unspecified()));
    let server = Wish { spiffe: account("outrider"), dns: vec!["localhost".into()], ip, ttl_seconds: LEAF_TTL_SECONDS };
    let client = Wish { spiffe: account("client"), dns: vec![], ip: vec![], ttl_seconds: LEAF_TTL_SECONDS };
    identity(state, &authority, "server", &server, now_unix)?;
    identity(state, &authority, "client", &client, now_unix)?;
    let issuer = issuer(state)?;
    token(state, &issuer, now_unix)
}

fn account(name: &str) -> SpiffeId {
    spiffe_of(name).expect("a plain word is a path segment")
}

fn read(state: &State, name: &str) -> Result<Option<String>, TrustError> {
    let path = state.file(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TrustError::Read { path, error }),
    }
}

/// The authority of this directory; made if there is none.
pub fn authority(state: &State, now_unix: u64) -> Result<Authority, TrustError> {
    let pair = match (read(state, "ca.pem")?, read(state, "ca.key")?) {
        (Some(certificate), Some(key)) => Pair { certificate, key },
        (Some(_), None) => {
            return Err(TrustError::KeyMissing { key: state.file("ca.key"), certificate: state.file("ca.pem") });
        }
        // The key is written first: a key alone has signed nothing yet.
        (None, _) => {
            let pair = self_signed::make_authority(TRUST_DOMAIN, now_unix);
            state.write("ca.key", pair.key.as_bytes())?;
            state.write("ca.pem", pair.certificate.as_bytes())?;
            pair
        }
    };
    Authority::parse(&pair.certificate, &pair.key, now_unix)
        .map_err(|error| TrustError::Authority { directory: state.path().into(), error })
}

/// `NAME.pem` and `NAME.key`, unless they are there, fit the wish, and have a third of their life before them.
fn identity(state: &State, authority: &Authority, name: &str, wish: &Wish, now: u64) -> Result<(), TrustError> {
    if is_fresh(state, name, wish, now)? {
        return Ok(());
    }
    let pair = authority.sign(wish, now).map_err(TrustError::Sign)?;
    state.write(&format!("{name}.key"), pair.key.as_bytes())?;
    state.write(&format!("{name}.pem"), pair.certificate.as_bytes())?;
    tracing::info!(name, spiffe = %wish.spiffe, "certificate made");
    Ok(())
}

fn is_fresh(state: &State, name: &str, wish: &Wish, now: u64) -> Result<bool, TrustError> {
    let files = Files {
        certificate: state.file(&format!("{name}.pem")),
        key: state.file(&format!("{name}.key")),
        trust_bundle: Some(state.file("ca.pem")),
        trust_domain: TRUST_DOMAIN.into(),
        trust: config::TrustFiles::default(),
    };
    let material = match files.load() {
        Ok(material) => material,
        Err(SourceError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(SourceError::Read { path, error }) => return Err(TrustError::Read { path, error }),
        // Stopped between the writing of the two: both are whole, but not of one pair.
        Err(SourceError::Material { error: MaterialError::Key(rustls::Error::InconsistentKeys(_)), .. }) => {
            return Ok(false);
        }
        Err(SourceError::Nothing { path, what }) => {
            return Err(TrustError::Damaged { path, reason: format!("it holds no {what}") });
        }
        Err(
            SourceError::Pem { path, reason }
            | SourceError::Crl { path, reason }
            | SourceError::Authority { path, reason },
        ) => return Err(TrustError::Damaged { path, reason }),
        Err(SourceError::Material { key: path, error: MaterialError::Key(error), .. }) => {
            return Err(TrustError::Damaged { path, reason: error.to_string() });
        }
        Err(SourceError::Material { certificate: path, error, .. } | SourceError::Bundle { path, error }) => {
            return Err(TrustError::Damaged { path, reason: error.to_string() });
        }
    };
    let left = u64::try_from(material.not_after_unix()).unwrap_or(0).saturating_sub(now);
    let said = certificates(&files.certificate).is_ok_and(|chain| fulfils(&chain[0], wish));
    Ok(said && left > wish.ttl_seconds / 3 && material.verify_own(now).is_ok())
}

/// The issuer of this directory, made if there is none, with its key set beside it.
pub fn issuer(state: &State) -> Result<Issuer, TrustError> {
    let issuer = match read(state, "issuer.key")? {
        Some(pem) => {
            Issuer::parse(&pem).map_err(|error| TrustError::IssuerKey { path: state.file("issuer.key"), error })?
        }
        None => {
            let issuer = Issuer::generate();
            state.write("issuer.key", issuer.pem().as_bytes())?;
            issuer
        }
    };
    // Follows from the key, so whatever else is there is made right.
    let jwks = issuer.jwks();
    if fs::read(state.file("jwks.json")).ok().as_deref() != Some(jwks.as_bytes()) {
        state.write("jwks.json", jwks.as_bytes())?;
    }
    Ok(issuer)
}

/// `token`, unless the one there will still be good tomorrow.
fn token(state: &State, issuer: &Issuer, now_unix: u64) -> Result<(), TrustError> {
    let (keys, _) = KeySet::parse(issuer.jwks().as_bytes()).expect("the issuer's own key set can be read");
    let expected = Expected { issuer: Some(ISSUER.into()), audiences: vec![AUDIENCE.into()], ..Expected::default() };
    let held = fs::read_to_string(state.file("token")).unwrap_or_default();
    if jwt::verify(held.trim(), &keys, &expected, now_unix + DAY).is_ok() {
        return Ok(());
    }
    let minted = issuer.mint(Token {
        issuer: ISSUER,
        subject: SUBJECT,
        audience: AUDIENCE,
        issued_at_unix: now_unix,
        ttl_seconds: TOKEN_TTL_SECONDS,
        claims: serde_json::Map::new(),
    });
    Ok(state.write("token", format!("{minted}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const NOW: u64 = 1_800_000_000;
    const FILES: [&str; 9] = [
        "ca.key",
        "ca.pem",
        "client.key",
        "client.pem",
        "issuer.key",
        "jwks.json",
        "server.key",
        "server.pem",
        "token",
    ];

    fn made() -> (tempfile::TempDir, State) {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path().join("state")).unwrap();
        ensure(&state, None, NOW).unwrap();
        (directory, state)
    }

    fn contents(state: &State) -> Vec<Vec<u8>> {
        FILES.iter().map(|name| fs::read(state.file(name)).unwrap()).collect()
    }

    fn changed(before: &[Vec<u8>], after: &[Vec<u8>]) -> Vec<&'static str> {
        (0..FILES.len()).filter(|at| before[*at] != after[*at]).map(|at| FILES[at]).collect()
    }

    #[test]
    fn what_is_made_once_and_reused() {
        let (_directory, state) = made();
        for name in FILES {
            assert_eq!(fs::metadata(state.file(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
        let before = contents(&state);
        ensure(&state, None, NOW + DAY).unwrap();
        assert_eq!(changed(&before, &contents(&state)), [""; 0]);
    }

    #[test]
    fn what_is_renewed_and_when() {
        let (_directory, state) = made();
        let before = contents(&state);
        ensure(&state, Some([10, 0, 0, 5].into()), NOW).unwrap();
        assert_eq!(changed(&before, &contents(&state)), ["server.key", "server.pem"], "a new address to be found at");
        let leaves = ["client.key", "client.pem", "server.key", "server.pem"];
        let before = contents(&state);
        ensure(&state, None, NOW + 21 * DAY).unwrap();
        assert_eq!(changed(&before, &contents(&state)), leaves);
        let before = contents(&state);
        ensure(&state, None, NOW + 29 * DAY + 60).unwrap();
        assert_eq!(changed(&before, &contents(&state)), ["token"]);
        // Stopped between key and certificate.
        let other = authority(&state, NOW).unwrap();
        let wish = Wish { spiffe: account("client"), dns: vec![], ip: vec![], ttl_seconds: 60 };
        state.write("client.key", other.sign(&wish, NOW).unwrap().key.as_bytes()).unwrap();
        ensure(&state, None, NOW + 22 * DAY).unwrap();
        ensure(&state, None, NOW + 22 * DAY).unwrap();
    }

    #[test]
    fn what_a_damaged_file_is_told() {
        for name in ["ca.pem", "ca.key", "server.pem", "client.key", "issuer.key"] {
            let (_directory, state) = made();
            for garbage in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
                fs::write(state.file(name), garbage).unwrap();
                let words = ensure(&state, None, NOW).unwrap_err().to_string();
                assert!(words.contains("remove") && words.contains(name), "{name}: {words}");
            }
            fs::remove_file(state.file(name)).unwrap();
            match name {
                "ca.key" => assert!(ensure(&state, None, NOW).unwrap_err().to_string().contains("ca.pem")),
                _ => ensure(&state, None, NOW).unwrap(),
            }
        }
        let (_directory, state) = made();
        for name in ["token", "jwks.json"] {
            fs::write(state.file(name), "garbage").unwrap();
            ensure(&state, None, NOW).unwrap();
            assert_ne!(fs::read(state.file(name)).unwrap(), b"garbage");
        }
    }

    #[test]
    fn do_two_at_once_make_one_trust_domain() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path().join("state")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| ensure(&state, None, NOW).unwrap());
            }
        });
        assert!(
            is_fresh(
                &state,
                "client",
                &Wish { spiffe: account("client"), dns: vec![], ip: vec![], ttl_seconds: 60 },
                NOW
            )
            .unwrap()
        );
    }
}
