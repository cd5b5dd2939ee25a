//! Key-value pairs of a GGUF file: typed getters that read the map in place.
//!
//! Opening checks the extent of every value and remembers where it lies; nothing is copied, so that a vocabulary of
//! 50,000 strings costs one walk. Never trusts a length: each is compared with the bytes left before it is used.

use super::cursor::{Cursor, Fault};
use std::collections::HashMap;

/// Pairs a file may have. Published files have fewer than 100; the limit bounds what a hostile one can cost.
const PAIRS_MAX: usize = 1 << 16;
/// The GGUF specification's limit on the length of a key.
const KEY_BYTES_MAX: usize = 65_535;
/// How deep arrays may be nested. Published files do not nest them at all.
const DEPTH_MAX: usize = 4;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of one value of a scalar type, and the type's name.
fn scalar(kind: u32) -> Option<(usize, &'static str)> {
    Some(match kind {
        0 => (1, "u8"),
        1 => (1, "i8"),
        2 => (2, "u16"),
        3 => (2, "i16"),
        4 => (4, "u32"),
        5 => (4, "i32"),
        6 => (4, "f32"),
        7 => (1, "bool"),
        10 => (8, "u64"),
        11 => (8, "i64"),
        12 => (8, "f64"),
        _ => return None,
    })
}

fn type_name(kind: u32) -> &'static str {
    match kind {
        STRING => "string",
        ARRAY => "array",
        kind => scalar(kind).map_or("unknown", |scalar| scalar.1),
    }
}

/// Where a value lies: its type and its first byte.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: u32,
    at: usize,
}

/// Where all values lie.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<String, Entry>,
}

impl Index {
    /// Walks `pairs` pairs; the cursor is left behind the last.
    pub fn read(cursor: &mut Cursor<'_>, pairs: usize) -> Result<Self, Fault> {
        if pairs > PAIRS_MAX {
            let reason = format!("{pairs} metadata pairs; at most {PAIRS_MAX} are accepted");
            return Err(Fault { offset: cursor.at, reason });
        }
        let mut entries = HashMap::with_capacity(pairs);
        for number in 0..pairs {
            let offset = cursor.at;
            let key = cursor.string(&format!("the key of metadata pair {number}"))?;
            if key.len() > KEY_BYTES_MAX {
                let reason = format!("the key of metadata pair {number} has {} bytes", key.len());
                return Err(Fault { offset, reason });
            }
            let kind = cursor.u32(&format!("the type of {key:?}"))?;
            let entry = Entry { kind, at: cursor.at };
            skip(cursor, kind, key, 0)?;
            if entries.insert(key.to_owned(), entry).is_some() {
                return Err(Fault { offset, reason: format!("metadata key {key:?} appears twice") });
            }
        }
        Ok(Self { entries })
    }

    pub fn view<'a>(&'a self, bytes: &'a [u8]) -> Metadata<'a> {
        Metadata { index: self, bytes }
    }
}

/// Steps over one value and checks that it lies inside the file.
fn skip(cursor: &mut Cursor<'_>, kind: u32, key: &str, depth: usize) -> Result<(), Fault> {
    if let Some((size, _)) = scalar(kind) {
        return cursor.take(size, key).map(drop);
    }
    let offset = cursor.at;
    match kind {
        STRING => {
            let length = cursor.count(1, key)?;
            cursor.take(length, key).map(drop)
        }
        ARRAY if depth == DEPTH_MAX => {
            Err(Fault { offset, reason: format!("{key}: arrays are nested more than {DEPTH_MAX} deep") })
        }
        ARRAY => {
            let kind = cursor.u32(key)?;
            // An empty string or array still takes a length of 8 bytes, so the count is bounded by the file.
            let unit = scalar(kind).map_or(8, |scalar| scalar.0);
            let count = cursor.count(unit, key)?;
            if scalar(kind).is_some() {
                return cursor.take(count * unit, key).map(drop);
            }
            (0..count).try_for_each(|_| skip(cursor, kind, key, depth + 1))
        }
        kind => Err(Fault { offset, reason: format!("{key}: value type {kind} is unknown") }),
    }
}

/// A scalar of any width, widened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Unsigned(u64),
    Signed(i64),
    Real(f64),
    Bool(bool),
}

impl Number {
    /// As an unsigned integer, if it is one.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Number::Unsigned(n) => Some(n),
            Number::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// As a real; integers are converted.
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Number::Unsigned(n) => Some(n as f64),
            Number::Signed(n) => Some(n as f64),
            Number::Real(n) => Some(n),
            Number::Bool(_) => None,
        }
    }
}

/// Widens one scalar; `bytes` holds exactly its bytes.
fn number(kind: u32, bytes: &[u8]) -> Number {
    let mut wide = [0u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    match kind {
        1 => Number::Signed(i64::from(unsigned as u8 as i8)),
        3 => Number::Signed(i64::from(unsigned as u16 as i16)),
        5 => Number::Signed(i64::from(unsigned as u32 as i32)),
        6 => Number::Real(f64::from(f32::from_bits(unsigned as u32))),
        7 => Number::Bool(unsigned != 0),
        11 => Number::Signed(unsigned as i64),
        12 => Number::Real(f64::from_bits(unsigned)),
        _ => Number::Unsigned(unsigned),
    }
}

/// Why a value could not be had: the key is there, but it is not what was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct WrongType {
    pub key: String,
    pub reason: String,
}

/// The metadata of an open file. Every getter says `None` where there is no such key.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    index: &'a Index,
    bytes: &'a [u8],
}

impl<'a> Metadata<'a> {
    /// All keys, in no order.
    pub fn keys(self) -> impl Iterator<Item = &'a str> {
        self.index.entries.keys().map(String::as_str)
    }

    pub fn contains(self, key: &str) -> bool {
        self.index.entries.contains_key(key)
    }

    fn wrong(key: &str, kind: u32, wanted: &str) -> WrongType {
        WrongType { key: key.to_owned(), reason: format!("is of type {}, not {wanted}", type_name(kind)) }
    }

    /// Value of a scalar.
    pub fn number(self, key: &str) -> Result<Option<Number>, WrongType> {
        let Some(entry) = self.index.entries.get(key) else { return Ok(None) };
        let (size, _) = scalar(entry.kind).ok_or_else(|| Self::wrong(key, entry.kind, "a number"))?;
        Ok(Some(number(entry.kind, &self.bytes[entry.at..entry.at + size])))
    }

    /// Value of an integer that is not negative.
    pub fn u64(self, key: &str) -> Result<Option<u64>, WrongType> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        let reason = format!("is {number:?}, not an integer of at least 0");
        number.as_u64().map(Some).ok_or(WrongType { key: key.to_owned(), reason })
    }

    /// Value of a real or an integer.
    pub fn f64(self, key: &str) -> Result<Option<f64>, WrongType> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        number.as_f64().map(Some).ok_or(WrongType { key: key.to_owned(), reason: format!("is {number:?}, not a real") })
    }

    pub fn bool(self, key: &str) -> Result<Option<bool>, WrongType> {
        match self.number(key)? {
            None => Ok(None),
            Some(Number::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(WrongType { key: key.to_owned(), reason: format!("is {other:?}, not a bool") }),
        }
    }

    pub fn str(self, key: &str) -> Result<Option<&'a str>, WrongType> {
        let Some(entry) = self.index.entries.get(key) else { return Ok(None) };
        if entry.kind != STRING {
            return Err(Self::wrong(key, entry.kind, "a string"));
        }
        let read = Cursor::new(self.bytes, entry.at).string(key);
        read.map(Some).map_err(|fault| WrongType { key: key.to_owned(), reason: fault_words(&fault) })
    }

    /// The array under `key`, or an error if it is none.
    fn array(self, key: &str) -> Result<Option<(u32, usize, Cursor<'a>)>, WrongType> {
        let Some(entry) = self.index.entries.get(key) else { return Ok(None) };
        if entry.kind != ARRAY {
            return Err(Self::wrong(key, entry.kind, "an array"));
        }
        let mut cursor = Cursor::new(self.bytes, entry.at);
        let head = cursor.u32(key).and_then(|kind| Ok((kind, cursor.count(1, key)?)));
        let (kind, count) = head.map_err(|fault| WrongType { key: key.to_owned(), reason: fault_words(&fault) })?;
        Ok(Some((kind, count, cursor)))
    }

    /// Elements of an array of strings, borrowed from the map.
    pub fn strings(self, key: &str) -> Result<Option<Vec<&'a str>>, WrongType> {
        let Some((kind, count, mut cursor)) = self.array(key)? else { return Ok(None) };
        if kind != STRING {
            return Err(Self::wrong(key, kind, "an array of strings"));
        }
        let mut strings = Vec::with_capacity(count);
        for number in 0..count {
            let read = cursor.string(key);
            strings.push(
                read.map_err(|fault| WrongType { key: format!("{key}[{number}]"), reason: fault_words(&fault) })?,
            );
        }
        Ok(Some(strings))
    }

    /// Elements of an array of scalars.
    pub fn numbers(self, key: &str) -> Result<Option<Vec<Number>>, WrongType> {
        let Some((kind, count, mut cursor)) = self.array(key)? else { return Ok(None) };
        let (size, _) = scalar(kind).ok_or_else(|| Self::wrong(key, kind, "an array of numbers"))?;
        let read = cursor.take(count.saturating_mul(size), key);
        let bytes = read.map_err(|fault| WrongType { key: key.to_owned(), reason: fault_words(&fault) })?;
        Ok(Some(bytes.chunks_exact(size).map(|bytes| number(kind, bytes)).collect()))
    }
}

fn fault_words(fault: &Fault) -> String {
    format!("byte {}: {}", fault.offset, fault.reason)
}
