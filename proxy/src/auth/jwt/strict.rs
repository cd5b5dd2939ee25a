//! JSON in which no object has a member twice: two readers of one token must not see two subjects (RFC 7519, section 4).
//!
//! Never takes more than serde_json does: depth is bounded there, and what follows the value is an error.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// The value, or `None` if the bytes are no JSON or name a member twice, at any depth.
pub fn parse(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Strict>(bytes).ok().map(|strict| strict.0)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Strict)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a member given twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member given twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn which_texts_are_refused() {
        for good in
            ["{}", r#"{"a":{"a":[{"a":1},{"a":-2.5}]},"b":null}"#, r#""text""#, " [true, 18446744073709551615] "]
        {
            assert_eq!(parse(good.as_bytes()), serde_json::from_str(good).ok(), "{good}");
        }
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for bad in [
            "",
            "{",
            r#"{"a":1,"a":1}"#,
            r#"[{"b":{"a":1,"b":2,"a":3}}]"#,
            r#"{"a":1,"\u0061":2}"#,
            "{} {}",
            "1e999",
            &deep,
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(b"\xef\xbb\xbf{}"), None, "a byte order mark");
        assert_eq!(parse(b"{\"a\":\"\xff\"}"), None, "no UTF-8");
        assert_eq!(parse(b"{}\0"), None, "something after it");
    }

    proptest! {
        #[test]
        fn is_what_it_reads_what_everybody_reads(text in r#"[\[\]{}:," a-c0-9.\-e]{0,40}"#) {
            if let Some(value) = parse(text.as_bytes()) {
                prop_assert_eq!(Some(value), serde_json::from_str::<Value>(&text).ok());
            }
        }
    }
}
