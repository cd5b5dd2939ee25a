//! A certificate revocation list: who signed it, what it revokes, and until when it is fresh.
//!
//! Pure. Never believes a list because of its issuer's name alone: the signature must be of the key that issued the
//! certificate asked about.

use super::material::MaterialError;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use std::sync::Mutex;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Keys whose verdict is remembered for each list; an issuer has one key, and two while it rotates.
const VERDICTS_MAX: usize = 16;

/// One list.
pub struct Crl {
    der: Vec<u8>,
    list: CertRevocationList<'static>,
    next_update_unix: i64,
    /// Keys asked about, and whether they signed this: a signature costs more to check than all the rest.
    verdicts: Mutex<Vec<(Vec<u8>, bool)>>,
}

impl std::fmt::Debug for Crl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crl").field("bytes", &self.der.len()).field("next_update_unix", &self.next_update_unix).finish()
    }
}

impl Crl {
    /// RFC 5280 section 5: version 2, complete, with a `nextUpdate`; the words say what is wrong.
    pub fn parse(der: &[u8]) -> Result<Crl, String> {
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let (rest, dated) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("bytes follow the list".into());
        }
        let next_update = dated.next_update().ok_or("it has no nextUpdate")?;
        let next_update_unix = next_update.timestamp();
        Ok(Crl { der: der.to_vec(), list: list.into(), next_update_unix, verdicts: Mutex::default() })
    }

    /// All of them, or what is wrong with the first bad one.
    pub fn parse_all(ders: &[impl AsRef<[u8]>]) -> Result<Vec<Crl>, MaterialError> {
        let parse =
            |index: usize| Crl::parse(ders[index].as_ref()).map_err(|reason| MaterialError::BadCrl { index, reason });
        (0..ders.len()).map(parse).collect()
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub fn next_update_unix(&self) -> i64 {
        self.next_update_unix
    }

    /// Whether this list speaks of certificates with this issuer, signed by this key. `issuer` is the name's DER
    /// without its outer tag and length, as webpki gives it.
    pub fn covers(&self, issuer: &[u8], key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        self.list.issuer() == issuer && self.signed_by(key)
    }

    pub fn revokes(&self, serial: &[u8]) -> bool {
        // An owned list has been read to its end already; should reading fail all the same, nothing of it is believed
        // to be good.
        !matches!(self.list.find_serial(serial), Ok(None))
    }

    fn signed_by(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, verdict)) = verdicts.iter().find(|(known, _)| known == key.as_ref()) {
            return *verdict;
        }
        let verdict = self.check(key);
        if verdicts.len() == VERDICTS_MAX {
            verdicts.remove(0);
        }
        verdicts.push((key.as_ref().to_vec(), verdict));
        verdict
    }

    fn check(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        let Ok((_, key)) = SubjectPublicKeyInfo::from_der(key) else { return false };
        let Ok((_, list)) = CertificateRevocationList::from_der(&self.der) else { return false };
        list.verify_signature(&key).is_ok()
    }
}
