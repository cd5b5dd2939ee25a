//! JSON to CEL and back: strings are borrowed, and only what an expression names is looked at.
//!
//! Numbers are doubles, as for Authorino, which hands CEL a protobuf Struct: `request.size > 10` compares across types,
//! and a whole number comes back without a fraction.

use super::analyse::Want;
use cel::common::types::{CelBool, CelDouble, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::Val;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Larger whole numbers are not exact as doubles.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

pub(super) fn lift<'a>(value: &'a Value, want: &Want) -> Box<dyn Val + 'a> {
    match (value, want) {
        (Value::Object(map), Want::Keys(keys)) => {
            let wanted = keys.iter().filter_map(|(key, want)| {
                let (key, value) = map.get_key_value(key)?;
                Some((CelMapKey::from(key.as_str()), lift(value, want)))
            });
            Box::new(CelMap::from(wanted.collect::<HashMap<_, _>>()))
        }
        (Value::Object(map), Want::All) => {
            let all = map.iter().map(|(key, value)| (CelMapKey::from(key.as_str()), lift(value, &Want::All)));
            Box::new(CelMap::from(all.collect::<HashMap<_, _>>()))
        }
        (Value::Array(items), _) => {
            let items: Vec<Box<dyn Val + 'a>> = items.iter().map(|item| lift(item, &Want::All)).collect();
            Box::new(CelList::from(items))
        }
        (Value::String(string), _) => Box::new(CelString::from(string.as_str())),
        (Value::Number(number), _) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        (Value::Bool(bool), _) => Box::new(CelBool::from(*bool)),
        (Value::Null, _) => Box::new(CelNull),
    }
}

/// `None` for what JSON has no form for: types, optionals, and numbers that are none.
pub(super) fn to_json(value: &cel::Value) -> Option<Value> {
    Some(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(bool) => Value::Bool(*bool),
        cel::Value::String(string) => Value::String(string.to_string()),
        cel::Value::Int(int) => Value::from(*int),
        cel::Value::UInt(uint) => Value::from(*uint),
        cel::Value::Float(float) if float.fract() == 0.0 && float.abs() < WHOLE_MAX => Value::from(*float as i64),
        cel::Value::Float(float) => Value::Number(serde_json::Number::from_f64(*float)?),
        cel::Value::Bytes(bytes) => {
            use base64::Engine;
            Value::String(base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()))
        }
        cel::Value::Timestamp(time) => Value::String(time.to_rfc3339()),
        // As protobuf writes a Duration: seconds, with as much of a fraction as there is.
        cel::Value::Duration(duration) => {
            let seconds = duration.num_nanoseconds()? as f64 / 1e9;
            Value::String(format!("{seconds}s"))
        }
        cel::Value::List(items) => Value::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        cel::Value::Map(map) => {
            let mut entries: Vec<_> = map.map.iter().map(|(key, value)| (key.to_string(), value)).collect();
            // CEL's maps have no order; answers should.
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            let entries = entries.into_iter().map(|(key, value)| Some((key, to_json(value)?)));
            Value::Object(entries.collect::<Option<Map<_, _>>>()?)
        }
        _ => return None,
    })
}
