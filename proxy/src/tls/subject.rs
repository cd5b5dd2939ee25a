//! A certificate's subject as the text that Envoy puts into `x-forwarded-client-cert`: RFC 2253, as BoringSSL prints it.
//!
//! Never fails: what has no text is printed as the hexadecimal of its DER.

use std::fmt::Write;
use x509_parser::der_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Short names of attribute types; others are printed as their number, with their value in hexadecimal.
const NAMES: &[(&[u64], &str)] = &[
    (&[0, 9, 2342, 19200300, 100, 1, 1], "UID"),
    (&[0, 9, 2342, 19200300, 100, 1, 25], "DC"),
    (&[1, 2, 840, 113549, 1, 9, 1], "emailAddress"),
    (&[1, 2, 840, 113549, 1, 9, 2], "unstructuredName"),
    (&[2, 5, 4, 3], "CN"),
    (&[2, 5, 4, 4], "SN"),
    (&[2, 5, 4, 5], "serialNumber"),
    (&[2, 5, 4, 6], "C"),
    (&[2, 5, 4, 7], "L"),
    (&[2, 5, 4, 8], "ST"),
    (&[2, 5, 4, 9], "street"),
    (&[2, 5, 4, 10], "O"),
    (&[2, 5, 4, 11], "OU"),
    (&[2, 5, 4, 12], "title"),
    (&[2, 5, 4, 13], "description"),
    (&[2, 5, 4, 15], "businessCategory"),
    (&[2, 5, 4, 17], "postalCode"),
    (&[2, 5, 4, 41], "name"),
    (&[2, 5, 4, 42], "GN"),
    (&[2, 5, 4, 43], "initials"),
    (&[2, 5, 4, 44], "generationQualifier"),
    (&[2, 5, 4, 45], "x500UniqueIdentifier"),
    (&[2, 5, 4, 46], "dnQualifier"),
    (&[2, 5, 4, 65], "pseudonym"),
    (&[2, 5, 4, 72], "role"),
];

/// The last attribute first (RFC 2253 section 2.1), those of one RDN too.
pub fn rfc2253(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let rdns: Vec<_> = name.iter().collect();
    for rdn in rdns.into_iter().rev() {
        let attributes: Vec<_> = rdn.iter().collect();
        for (i, attribute) in attributes.into_iter().rev().enumerate() {
            if !text.is_empty() {
                text.push(if i == 0 { ',' } else { '+' });
            }
            print(attribute, &mut text);
        }
    }
    text
}

fn print(attribute: &AttributeTypeAndValue<'_>, into: &mut String) {
    let value = attribute.attr_value();
    match (short_name(attribute.attr_type()), characters(value)) {
        (Some(name), Some(characters)) => {
            into.push_str(name);
            into.push('=');
            escape(&characters, into);
        }
        (name, _) => {
            match name {
                Some(name) => into.push_str(name),
                None => into.push_str(&attribute.attr_type().to_id_string()),
            }
            into.push_str("=#");
            for byte in value.to_der_vec().unwrap_or_default() {
                let _ = write!(into, "{byte:02X}");
            }
        }
    }
}

fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    let arcs: Vec<u64> = oid.iter()?.collect();
    NAMES.iter().find(|(known, _)| *known == arcs).map(|(_, name)| *name)
}

/// The text of a string type.
fn characters(value: &Any<'_>) -> Option<String> {
    let utf8 = || std::str::from_utf8(value.data).ok().map(str::to_owned);
    match value.tag() {
        Tag::Utf8String => utf8(),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString if value.data.is_ascii() => {
            utf8()
        }
        Tag::TeletexString => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let units = value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// RFC 2253 section 2.4; what is no printable ASCII becomes the hexadecimal of its UTF-8, so that it may stand in a
/// header.
fn escape(text: &str, into: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        let special = matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';');
        let edge = (at == 0 && matches!(byte, b'#' | b' ')) || (at == last && byte == b' ');
        match byte {
            b' '..=b'~' if special || edge => into.extend(['\\', char::from(byte)]),
            b' '..=b'~' => into.push(char::from(byte)),
            _ => {
                let _ = write!(into, "\\{byte:02X}");
            }
        }
    }
}
