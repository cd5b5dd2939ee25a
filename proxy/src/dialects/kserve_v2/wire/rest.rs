//! V2 over REST: JSON, with Triton's binary tensor data extension (raw tensors behind the JSON, whose length a header
//! tells), to and from [`Question`] and [`Outcome`].

use super::{Form, Outcome, Question, Wanted, tensor};
use crate::dialects::common::fields::{Fields, expect_identity, object, whole as whole_number};
use crate::dialects::kserve_v2::VERSION;
use crate::error::{Error, Verdict};
use crate::message::{Head, Part};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use outrider_protos::worker::v1 as worker;
use serde::Serialize;
use serde_json::{Map, Value, json};

const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A complete answer in JSON.
pub fn whole(status: StatusCode, value: &impl Serialize) -> Vec<Part> {
    let body = serde_json::to_vec(value).expect("our own structs have string keys only");
    Part::whole(status, "application/json", body)
}

/// A complete refusal: `{"error": words}`.
pub fn refusal(verdict: &Verdict) -> Vec<Part> {
    let status = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut parts = whole(status, &json!({ "error": verdict.words }));
    if let (Some(after), Some(Part::Head { headers, .. })) = (verdict.retry_after, parts.first_mut()) {
        // Whole seconds (RFC 9110 §10.2.3), and never 0: that would invite a busy loop.
        headers
            .insert(header::RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000).clamp(1, 86_400) as u64));
    }
    parts
}

/// Understands a body and its tensors. Model and version are the path's.
pub fn question(head: &Head, body: &Bytes, model: String, version: String) -> Result<Question, Error> {
    let (map, mut binary) = split(head, body)?;
    let fields = Fields::new(&map);
    let Some(items) = fields.array("inputs")? else { return Err(fields.refuse("inputs", "is required")) };
    let mut inputs = Vec::with_capacity(items.len().min(64));
    for (place, item) in items.iter().enumerate() {
        let tensor = input(&Fields::of(item, format!("inputs[{place}]"))?, &mut binary)?;
        tensor::check(&tensor)?;
        inputs.push(tensor);
    }
    if !binary.is_empty() {
        return Err(Error::invalid(format!("{} bytes of binary data are left over after all inputs", binary.len())));
    }
    let mut parameters = match fields.get("parameters") {
        None => Map::new(),
        Some(Value::Object(map)) => map.clone(),
        Some(_) => return Err(fields.wrong("parameters", "an object")),
    };
    let all_binary = Fields::new(&parameters).at("parameters").flag("binary_data_output")?;
    parameters.remove("binary_data_output");
    let outputs = fields.array("outputs")?.unwrap_or_default().iter().enumerate();
    let outputs = outputs.map(|(place, item)| wanted(&Fields::of(item, format!("outputs[{place}]"))?));
    Ok(Question {
        model,
        version,
        id: fields.string("id")?.unwrap_or_default().to_owned(),
        parameters,
        inputs,
        outputs: outputs.collect::<Result<_, _>>()?,
        form: Form::Rest { binary: all_binary },
    })
}

/// The JSON, and what lies behind it.
fn split(head: &Head, body: &Bytes) -> Result<(Map<String, Value>, Bytes), Error> {
    let Some(length) = head.headers.get(&JSON_LENGTH) else { return Ok((object(head, body)?, Bytes::new())) };
    let length = length.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok());
    let length = length.filter(|length| *length <= body.len()).ok_or_else(|| {
        Error::invalid(format!(
            "the header {JSON_LENGTH} must be the JSON's length in bytes, at most the body's {}",
            body.len()
        ))
    })?;
    // With binary data behind it, the body's media type is rightly not JSON's.
    expect_identity(head)?;
    let json = serde_json::from_slice(&body[..length]).map_err(|error| {
        Error::invalid(format!("the first {length} bytes of the request body are not valid JSON: {error}"))
    })?;
    match json {
        Value::Object(map) => Ok((map, body.slice(length..))),
        _ => Err(Error::invalid("the JSON of the request body must be an object")),
    }
}

/// One input; takes its own share off the front of `binary`.
fn input(fields: &Fields<'_>, binary: &mut Bytes) -> Result<worker::Tensor, Error> {
    let name = fields.required_string("name")?;
    let data_type = tensor::datatype(name, fields.required_string("datatype")?)?;
    let Some(shape) = fields.array("shape")? else { return Err(fields.refuse("shape", "is required")) };
    let shape = shape.iter().map(whole_number).collect::<Option<Vec<_>>>();
    let shape = shape.ok_or_else(|| fields.wrong("shape", "an array of whole numbers"))?;
    let parameters = fields.fields("parameters")?;
    if parameters.as_ref().is_some_and(|parameters| parameters.get("shared_memory_region").is_some()) {
        return Err(Error::Unsupported { feature: format!("shared memory (input `{name}`)") });
    }
    let size = match &parameters {
        Some(parameters) => parameters.integer("binary_data_size", 0..=i64::MAX)?,
        None => None,
    };
    let data = match (size, fields.get("data")) {
        (Some(_), Some(_)) => {
            return Err(tensor::refuse(name, "has both `data` and `binary_data_size`; send one of them"));
        }
        (Some(size), None) if size as u64 > binary.len() as u64 => {
            return Err(tensor::refuse(
                name,
                format!("announces {size} bytes of binary data, but {} are left", binary.len()),
            ));
        }
        (Some(size), None) => binary.split_to(size as usize),
        (None, Some(Value::Array(data))) => tensor::pack_json(name, data_type, data)?,
        (None, Some(_)) => return Err(fields.wrong("data", "an array")),
        (None, None) => return Err(fields.refuse("data", "is required")),
    };
    Ok(worker::Tensor { name: name.into(), data_type: data_type.into(), shape, data })
}

fn wanted(fields: &Fields<'_>) -> Result<Wanted, Error> {
    let name = fields.required_string("name")?.to_owned();
    let Some(parameters) = fields.fields("parameters")? else { return Ok(Wanted { name, binary: None }) };
    if parameters.integer("classification", 0..=i64::MAX)?.is_some_and(|count| count > 0) {
        return Err(Error::Unsupported { feature: format!("classification (output `{name}`)") });
    }
    if parameters.get("shared_memory_region").is_some() {
        return Err(Error::Unsupported { feature: format!("shared memory (output `{name}`)") });
    }
    let binary = if parameters.get("binary_data").is_some() { Some(parameters.flag("binary_data")?) } else { None };
    Ok(Wanted { name, binary })
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    parameters: Map<String, Value>,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Output {
    name: String,
    datatype: &'static str,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// Spells an answer; `binary` is for the outputs that say nothing themselves.
///
/// # Errors
/// [`Error::Invalid`] where JSON cannot carry an output.
pub fn outcome(outcome: Outcome<'_>, binary: bool) -> Result<Vec<Part>, Error> {
    let mut outputs = Vec::with_capacity(outcome.outputs.len());
    let mut behind = Vec::new();
    for (tensor, own) in outcome.outputs {
        let (parameters, data) = if own.unwrap_or(binary) {
            behind.push(tensor.data.clone());
            (Some(json!({ "binary_data_size": tensor.data.len() })), None)
        } else {
            let data = tensor::to_json(&tensor).ok_or_else(|| {
                let words = format!("JSON cannot carry output `{}`; ask for it with `binary_data`: true", tensor.name);
                Error::invalid_param(tensor.name.clone(), words)
            })?;
            (None, Some(data))
        };
        let datatype = tensor::name_of(tensor.data_type());
        outputs.push(Output { name: tensor.name, datatype, shape: tensor.shape, parameters, data });
    }
    let parameters = outcome.parameters.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    let answer = Answer { id: outcome.id, model_name: outcome.model, model_version: VERSION, parameters, outputs };
    if behind.is_empty() {
        return Ok(whole(StatusCode::OK, &answer));
    }
    let mut body = serde_json::to_vec(&answer).expect("our own structs have string keys only");
    let length = body.len();
    behind.iter().for_each(|data| body.extend_from_slice(data));
    let mut parts = Part::whole(StatusCode::OK, "application/octet-stream", body);
    if let Some(Part::Head { headers, .. }) = parts.first_mut() {
        headers.insert(JSON_LENGTH, length.into());
    }
    Ok(parts)
}
