//! What a gateway may say of a request beyond its head, as rules see it: places and names are Authorino's. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrider_protos::ext_authz::v3::attribute_context::{HttpRequest, Peer};
use outrider_protos::ext_authz::v3::value::Kind;
use outrider_protos::ext_authz::v3::{AttributeContext, ListValue, Metadata, Struct, Value as Wire};
use serde_json::{Map, Number, Value, json};
use std::collections::HashMap;

/// Goes over what is known of the head and the connection.
pub fn extra(attributes: &AttributeContext, http: &HttpRequest) -> Value {
    let mut request = Map::new();
    for (name, text) in [
        ("protocol", &http.protocol),
        ("scheme", &http.scheme),
        ("host", &http.host),
        ("fragment", &http.fragment),
        ("body", &http.body),
    ] {
        if !text.is_empty() {
            request.insert(name.into(), text.as_str().into());
        }
    }
    request.insert("size".into(), http.size.into());
    if !http.raw_body.is_empty() {
        request.insert("raw_body".into(), STANDARD.encode(&http.raw_body).into());
    }
    let time = attributes.request.as_ref().and_then(|request| request.time.as_ref());
    if let Some(time) = time {
        request.insert("time".into(), json!({"seconds": time.seconds, "nanos": time.nanos}));
    }
    if !attributes.context_extensions.is_empty() {
        request.insert("context_extensions".into(), texts(&attributes.context_extensions));
    }
    let mut extra = json!({
        "request": request,
        "source": attributes.source.as_ref().map_or_else(|| json!({}), peer),
        "destination": attributes.destination.as_ref().map_or_else(|| json!({}), peer),
    });
    if let Some(metadata) = &attributes.metadata_context {
        extra["metadata"] = metadata_json(metadata);
    }
    extra
}

fn peer(peer: &Peer) -> Value {
    let mut said = Map::new();
    for (name, text) in [("service", &peer.service), ("principal", &peer.principal), ("certificate", &peer.certificate)]
    {
        if !text.is_empty() {
            said.insert(name.into(), text.as_str().into());
        }
    }
    if !peer.labels.is_empty() {
        said.insert("labels".into(), texts(&peer.labels));
    }
    Value::Object(said)
}

/// In the order of their names: maps of the wire have none.
fn texts(map: &HashMap<String, String>) -> Value {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort();
    pairs.into_iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect()
}

fn metadata_json(metadata: &Metadata) -> Value {
    let mut filters: Vec<_> = metadata.filter_metadata.iter().collect();
    filters.sort_by_key(|(name, _)| name.as_str());
    let filters: Map<_, _> = filters.into_iter().map(|(name, fields)| (name.clone(), object(fields))).collect();
    json!({"filter_metadata": filters})
}

fn object(fields: &Struct) -> Value {
    let mut fields: Vec<_> = fields.fields.iter().collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    Value::Object(fields.into_iter().map(|(name, value)| (name.clone(), value_json(value))).collect())
}

fn value_json(value: &Wire) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::NumberValue(number)) => number_json(*number),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_json).collect(),
    }
}

/// Whole numbers as such, as far as a double tells them apart; what JSON cannot say is null.
fn number_json(number: f64) -> Value {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    match number.fract() == 0.0 && number.abs() < WHOLE_MAX {
        true => Value::from(number as i64),
        false => Number::from_f64(number).map_or(Value::Null, Value::Number),
    }
}

/// A JSON object as the wire has it.
pub fn wire_object(fields: &Map<String, Value>) -> Struct {
    Struct { fields: fields.iter().map(|(name, value)| (name.clone(), wire(value))).collect() }
}

fn wire(value: &Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(wire).collect() }),
        Value::Object(fields) => Kind::StructValue(wire_object(fields)),
    };
    Wire { kind: Some(kind) }
}
