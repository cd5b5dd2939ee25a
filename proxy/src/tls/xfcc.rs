//! `x-forwarded-client-cert`, Envoy's header that tells the server behind a proxy who called it: read, made and passed on
//! by Envoy's five settings.
//!
//! Written as Envoy 1.40 writes it, with one difference: a value with a comma, a semicolon or a quote is quoted, where
//! Envoy quotes the subject alone, so that no name in a certificate can pass for another key. Never believes what it reads.

use super::subject::rfc2253;
use crate::config::Xfcc;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use std::fmt;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// More than any chain of certificates needs; headers are bounded before this anyway.
const BYTES_MAX: usize = 64 << 10;
/// One for each proxy on the way.
const ELEMENTS_MAX: usize = 32;
/// Names in a certificate, mostly.
const PAIRS_MAX: usize = 128;
/// PEM, RFC 7468 section 2.
const PEM_LINE: usize = 64;

/// What one proxy saw of its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// URI names of the certificate the proxy showed.
    pub by: Vec<String>,
    /// SHA-256 of the caller's certificate (DER), in hexadecimal.
    pub hash: Option<String>,
    /// The caller's certificate as PEM, URL-encoded.
    pub cert: Option<String>,
    /// It and those it came with, likewise.
    pub chain: Option<String>,
    /// RFC 2253.
    pub subject: Option<String>,
    /// URI names of the caller's certificate. One that is empty says that it has none.
    pub uri: Vec<String>,
    pub dns: Vec<String>,
}

/// What beside By and Hash is told of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Details {
    pub subject: bool,
    pub uri: bool,
    pub dns: bool,
    pub cert: bool,
    pub chain: bool,
}

impl Default for Details {
    /// What Istio's sidecars tell.
    fn default() -> Self {
        Details { subject: true, uri: true, dns: true, cert: false, chain: false }
    }
}

/// What is wrong with a received header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XfccError {
    #[error("x-forwarded-client-cert has more than {BYTES_MAX} bytes, {ELEMENTS_MAX} elements or {PAIRS_MAX} pairs")]
    TooLong,
    #[error("a quote in x-forwarded-client-cert does not end, or goes on after its end")]
    Quote,
    #[error("a part of x-forwarded-client-cert is not KEY=VALUE")]
    Pair,
}

/// The header that goes on to the server behind us; `None` for none, whatever came.
///
/// `ours` is an [`Element`] as text, made once for each connection. `received` is all lines of the header, joined by commas; `mutual_tls` whether the caller showed a certificate that was
/// verified, without which nothing it says is passed on but by `always_forward_only`.
pub fn forwarded(setting: Xfcc, received: Option<&str>, mutual_tls: bool, ours: Option<&str>) -> Option<String> {
    let received = received.filter(|text| !text.is_empty());
    let ours = ours.filter(|_| mutual_tls).map(str::to_owned);
    match setting {
        Xfcc::Sanitize => None,
        Xfcc::SanitizeSet => ours,
        Xfcc::ForwardOnly => received.filter(|_| mutual_tls).map(str::to_owned),
        Xfcc::AppendForward => match (received.filter(|_| mutual_tls), ours) {
            (Some(received), Some(ours)) => Some(format!("{received},{ours}")),
            (received, ours) => ours.or(received.map(str::to_owned)),
        },
        Xfcc::AlwaysForwardOnly => received.map(str::to_owned),
    }
}

/// What we saw: `chain` is the caller's certificates (DER) as they came, its own first; `own_uri` our own name.
///
/// `None` without a certificate, or with one that cannot be read. Names that could not stand in a header are left out.
pub fn made_from(chain: &[impl AsRef<[u8]>], own_uri: Option<&str>, details: Details) -> Option<Element> {
    let leaf = chain.first()?.as_ref();
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let (mut uri, mut dns) = (Vec::new(), Vec::new());
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(name) if details.uri && can_stand(name) => uri.push((*name).to_owned()),
                GeneralName::DNSName(name) if details.dns && can_stand(name) => dns.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    if details.uri && uri.is_empty() {
        uri.push(String::new());
    }
    let hash = digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let whole = || chain.iter().map(|der| url_encoded(&pem(der.as_ref()))).collect();
    Some(Element {
        by: own_uri.map(str::to_owned).into_iter().collect(),
        hash: Some(hash),
        cert: details.cert.then(|| url_encoded(&pem(leaf))),
        chain: details.chain.then(whole),
        subject: details.subject.then(|| rfc2253(certificate.subject())),
        uri,
        dns,
    })
}

fn can_stand(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(PEM_LINE) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// RFC 3986 section 2.3: all but the unreserved.
fn url_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

impl fmt::Display for Element {
    /// In Envoy's order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs: Vec<String> = self.by.iter().map(|name| format!("By={}", quoted_at_need(name))).collect();
        pairs.extend(self.hash.iter().map(|hash| format!("Hash={}", quoted_at_need(hash))));
        pairs.extend(self.cert.iter().map(|cert| format!("Cert={}", quoted(cert))));
        pairs.extend(self.chain.iter().map(|chain| format!("Chain={}", quoted(chain))));
        pairs.extend(self.subject.iter().map(|subject| format!("Subject=\"{}\"", closed(subject))));
        pairs.extend(self.uri.iter().map(|name| format!("URI={}", quoted_at_need(name))));
        pairs.extend(self.dns.iter().map(|name| format!("DNS={}", quoted_at_need(name))));
        f.write_str(&pairs.join(";"))
    }
}

fn quoted_at_need(value: &str) -> String {
    let need = |c: char| matches!(c, ',' | ';' | '"') || c.is_whitespace();
    if value.contains(need) { quoted(value) } else { value.to_owned() }
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A subject as it may stand between quotes: RFC 2253 escapes its quotes already, and Envoy leaves it at that.
fn closed(subject: &str) -> String {
    let mut text = String::with_capacity(subject.len());
    let mut characters = subject.chars();
    while let Some(c) = characters.next() {
        match (c, characters.clone().next()) {
            ('"', _) => text.push_str("\\\""),
            ('\\', None) => text.push_str("\\\\"),
            ('\\', Some(next)) => {
                text.extend([c, next]);
                characters.next();
            }
            _ => text.push(c),
        }
    }
    text
}

/// Reads a header, all of its lines joined by commas. Keys it does not know are left out.
pub fn parse(text: &str) -> Result<Vec<Element>, XfccError> {
    if text.len() > BYTES_MAX {
        return Err(XfccError::TooLong);
    }
    let mut elements = Vec::new();
    let mut pairs = 0;
    for part in split(text, ',')? {
        let mut element = Element::default();
        let before = pairs;
        for pair in split(part, ';')?.into_iter().map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(XfccError::Pair)?;
            element.take(key.trim(), value.trim())?;
            pairs += 1;
            if pairs > PAIRS_MAX {
                return Err(XfccError::TooLong);
            }
        }
        if pairs > before {
            elements.push(element);
        }
        if elements.len() > ELEMENTS_MAX {
            return Err(XfccError::TooLong);
        }
    }
    Ok(elements)
}

impl Element {
    fn take(&mut self, key: &str, value: &str) -> Result<(), XfccError> {
        let inner = inside(value)?;
        let whole = || inner.map_or_else(|| value.to_owned(), unquoted);
        match key.to_ascii_lowercase().as_str() {
            "by" => self.by.push(whole()),
            "hash" => self.hash = Some(whole()),
            "cert" => self.cert = Some(whole()),
            "chain" => self.chain = Some(whole()),
            // Its escapes are its own: RFC 2253 has the same, and more.
            "subject" => self.subject = Some(closed(inner.unwrap_or(value))),
            "uri" => self.uri.push(whole()),
            "dns" => self.dns.push(whole()),
            _ => {}
        }
        Ok(())
    }
}

/// Parts between separators that stand outside quotes.
fn split(text: &str, separator: char) -> Result<Vec<&str>, XfccError> {
    let (mut parts, mut start, mut in_quotes, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_quotes => escaped = true,
            '"' => in_quotes = !in_quotes,
            c if c == separator && !in_quotes => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    if in_quotes { Err(XfccError::Quote) } else { Ok(parts) }
}

/// What stands between the quotes of a quoted value; `None` of one that is not.
fn inside(value: &str) -> Result<Option<&str>, XfccError> {
    let Some(rest) = value.strip_prefix('"') else {
        return if value.contains('"') { Err(XfccError::Quote) } else { Ok(None) };
    };
    let mut escaped = false;
    let end = rest.char_indices().find(|(_, c)| {
        let end = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        end
    });
    match end {
        Some((at, _)) if at + 1 == rest.len() => Ok(Some(&rest[..at])),
        _ => Err(XfccError::Quote),
    }
}

fn unquoted(inside: &str) -> String {
    let mut text = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => text.extend(characters.next()),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: &str = "spiffe://td/ns/a/sa/srv";

    #[test]
    fn is_it_what_envoy_says() {
        // What Envoy 1.40 with `sanitize_set` sent on when shown these certificates, but for the quotes it lacks.
        let rows: serde_json::Value = serde_json::from_str(include_str!("xfcc.golden.json")).unwrap();
        for row in rows.as_array().unwrap() {
            let leaf = STANDARD.decode(row["certificate"].as_str().unwrap()).unwrap();
            let asked: Vec<&str> = row["details"].as_str().unwrap().split(' ').collect();
            let details = Details {
                subject: asked.contains(&"subject"),
                uri: asked.contains(&"uri"),
                dns: asked.contains(&"dns"),
                cert: asked.contains(&"cert"),
                chain: asked.contains(&"chain"),
            };
            let element = made_from(&[&leaf], Some(OURS), details).unwrap();
            let envoy = row["envoy"].as_str().unwrap();
            let envoy = envoy.replace("URI=http://x/a,b;c=d", "URI=\"http://x/a,b;c=d\"").replace("=q;r", "=\"q;r\"");
            assert_eq!(element.to_string(), envoy, "{}", row["what"]);
            assert_eq!(parse(&envoy), Ok(vec![element]), "{}", row["what"]);
        }
    }

    #[test]
    fn is_the_chain_told_whole_and_nothing_of_no_certificate() {
        let rows: serde_json::Value = serde_json::from_str(include_str!("xfcc.golden.json")).unwrap();
        let [a, b] = [0, 1].map(|row| STANDARD.decode(rows[row]["certificate"].as_str().unwrap()).unwrap());
        let details = Details { subject: false, uri: false, dns: false, cert: true, chain: true };
        let element = made_from(&[&a, &b], None, details).unwrap();
        let both = made_from(&[&b], None, details).unwrap().cert.unwrap();
        assert_eq!(element.chain.unwrap(), element.cert.unwrap() + &both);
        assert_eq!(made_from(&[] as &[&[u8]], Some(OURS), details), None);
        assert_eq!(made_from(&[b"no certificate"], Some(OURS), details), None);
    }

    #[test]
    fn what_goes_on_by_each_setting() {
        let ours = Element { hash: Some("1f".into()), ..Element::default() };
        let all = [Xfcc::Sanitize, Xfcc::SanitizeSet, Xfcc::ForwardOnly, Xfcc::AppendForward, Xfcc::AlwaysForwardOnly];
        type Row = (Option<&'static str>, bool, [Option<&'static str>; 5]);
        let rows: [Row; 6] = [
            (Some("By=z"), true, [None, Some("Hash=1f"), Some("By=z"), Some("By=z,Hash=1f"), Some("By=z")]),
            (Some("By=z"), false, [None, None, None, None, Some("By=z")]),
            (None, true, [None, Some("Hash=1f"), None, Some("Hash=1f"), None]),
            (Some(""), true, [None, Some("Hash=1f"), None, Some("Hash=1f"), None]),
            (None, false, [None; 5]),
            (Some("A=1,B=2"), true, [None, Some("Hash=1f"), Some("A=1,B=2"), Some("A=1,B=2,Hash=1f"), Some("A=1,B=2")]),
        ];
        for (received, mutual_tls, wanted) in rows {
            for (setting, wanted) in all.into_iter().zip(wanted) {
                let goes_on = forwarded(setting, received, mutual_tls, Some(&ours.to_string()));
                assert_eq!(goes_on.as_deref(), wanted, "{setting:?} {received:?} {mutual_tls}");
            }
        }
        assert_eq!(forwarded(Xfcc::AppendForward, Some("By=z"), true, None).as_deref(), Some("By=z"));
    }

    #[test]
    fn which_headers_can_be_read() {
        let read = |text: &str| parse(text).unwrap();
        assert_eq!(read(""), []);
        assert_eq!(read(" , ;, "), []);
        let element = &read(r#"by=a; HASH = 1 ;Subject="CN=x\"y\,z,O=\\";DNS=p;DNS="q;r";New=1"#)[0];
        assert_eq!((element.by.as_slice(), element.hash.as_deref()), (&["a".to_owned()][..], Some("1")));
        assert_eq!(element.subject.as_deref(), Some(r#"CN=x\"y\,z,O=\\"#));
        assert_eq!(element.dns, ["p", "q;r"]);
        assert_eq!(read("By=a,By=b").len(), 2);
        let bad = [
            ("By", XfccError::Pair),
            ("By=\"a", XfccError::Quote),
            ("By=\"a\"b", XfccError::Quote),
            ("By=a\"b\"", XfccError::Quote),
            ("By=\"a\\\"", XfccError::Quote),
        ];
        for (text, error) in bad {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        for long in ["By=a,".repeat(ELEMENTS_MAX + 1), "By=a;".repeat(PAIRS_MAX + 1), "x".repeat(BYTES_MAX + 1)] {
            assert_eq!(parse(&long), Err(XfccError::TooLong));
        }
    }

    fn elements() -> impl Strategy<Value = Element> {
        let names = || proptest::collection::vec("[ -~]{0,12}", 0..3);
        let subject = proptest::option::of(r#"([ !#-\[\]-~]|\\[ -~]){0,12}"#);
        let [hash, cert, chain] = [(); 3].map(|()| proptest::option::of("[ -~]{0,12}"));
        (names(), hash, cert, chain, subject, names(), names()).prop_map(
            |(by, hash, cert, chain, subject, uri, dns)| {
                let hash = Some(hash.unwrap_or_default());
                Element { by, hash, cert, chain, subject, uri, dns }
            },
        )
    }

    proptest! {
        #[test]
        fn is_what_was_written_read_again(elements in proptest::collection::vec(elements(), 0..5)) {
            let text: Vec<String> = elements.iter().map(Element::to_string).collect();
            prop_assert_eq!(parse(&text.join(",")), Ok(elements));
        }

        #[test]
        fn is_what_was_read_written_so_that_it_reads_the_same(
            pairs in proptest::collection::vec(r#"(By|Hash|subject|uri|DNS|New)=("([a,;=]|\\.){0,4}"|[a=\\ ]{0,4})[,;]"#, 0..6),
        ) {
            if let Ok(elements) = parse(&pairs.concat()) {
                let known: Vec<Element> = elements.into_iter().filter(|e| *e != Element::default()).collect();
                let text: Vec<String> = known.iter().map(Element::to_string).collect();
                prop_assert_eq!(parse(&text.join(",")), Ok(known));
            }
        }

        #[test]
        fn do_strangers_bytes_never_panic(text in "\\PC{0,64}", subject in "\\PC{0,16}") {
            let _ = parse(&text);
            let element = Element { subject: Some(subject), ..Element::default() };
            prop_assert!(parse(&element.to_string()).is_ok());
        }
    }
}
