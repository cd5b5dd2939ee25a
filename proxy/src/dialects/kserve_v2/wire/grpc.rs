//! V2 over gRPC: frames, trailers, and the protobuf messages to and from [`Question`] and [`Outcome`].
//!
//! Unary only, and never compressed. Sources: gRPC over HTTP/2 ("Length-Prefixed-Message"), `grpc_predict_v2.proto`.

use super::{Form, Outcome, Question, Wanted, tensor};
use crate::dialects::common::percent;
use crate::dialects::kserve_v2::VERSION;
use crate::error::{Error, Verdict, grpc};
use crate::message::{Head, Part};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use outrider_protos::inference as pb;
use outrider_protos::worker::v1 as worker;
use pb::infer_parameter::ParameterChoice;
use prost::Message;
use serde_json::{Map, Value};

const MEDIA_TYPE: &str = "application/grpc";
/// Trailers share one header block with its own limit.
const MESSAGE_CHARS_MAX: usize = 2048;

/// Refuses what is no gRPC with protobuf.
pub fn expect(head: &Head) -> Result<(), Error> {
    let got = head.header("content-type").unwrap_or_default().trim();
    let plain = got
        .get(..MEDIA_TYPE.len())
        .filter(|start| start.eq_ignore_ascii_case(MEDIA_TYPE))
        .map(|start| &got[start.len()..]);
    match plain {
        Some("" | "+proto") => Ok(()),
        Some(rest) if rest.starts_with(';') || rest.starts_with("+proto;") => Ok(()),
        _ => Err(Error::UnsupportedMediaType { got: got.chars().take(128).collect(), want: MEDIA_TYPE }),
    }
}

/// The one message of a unary request.
pub fn message<M: Message + Default>(body: &Bytes) -> Result<M, Error> {
    let Some((prefix, rest)) = body.split_first_chunk::<5>() else {
        return Err(Error::invalid(format!(
            "the gRPC message is truncated: {} bytes came, its prefix alone has 5",
            body.len()
        )));
    };
    match prefix[0] {
        0 => {}
        1 => {
            return Err(Error::Unsupported {
                feature: "a compressed gRPC message (send it with grpc-encoding identity)".into(),
            });
        }
        flag => {
            return Err(Error::invalid(format!(
                "the gRPC message begins with {flag}, where 0 (not compressed) belongs"
            )));
        }
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > rest.len() {
        return Err(Error::invalid(format!(
            "the gRPC message is truncated: {length} bytes were announced, {} came",
            rest.len()
        )));
    }
    if length < rest.len() {
        let trailing = rest.len() - length;
        return Err(Error::invalid(format!(
            "{trailing} bytes follow the gRPC message; this method takes exactly one message"
        )));
    }
    // From `Bytes`, so that raw tensors are slices of the body and not copies.
    M::decode(body.slice(5..)).map_err(|error| Error::invalid(format!("the gRPC message cannot be decoded: {error}")))
}

/// A complete answer.
pub fn whole(message: &impl Message) -> Vec<Part> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(length as u32);
    message.encode(&mut frame).expect("the buffer grows");
    vec![head(), Part::Body(frame.freeze()), Part::End(Some(trailers(0, None)))]
}

/// A complete refusal: no message, and the status in the trailers.
pub fn refusal(verdict: &Verdict) -> Vec<Part> {
    let mut trailers = trailers(verdict.grpc, Some(&verdict.words));
    if let Some(after) = verdict.retry_after {
        // gRFC A6: clients that retry wait this long.
        trailers.insert("grpc-retry-pushback-ms", HeaderValue::from(after.as_millis().clamp(1, 86_400_000) as u64));
    }
    vec![head(), Part::End(Some(trailers))]
}

fn head() -> Part {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    Part::Head { status: StatusCode::OK, headers }
}

fn trailers(code: i32, words: Option<&str>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // A worker's code that is none would make clients invent one.
    let code = if (0..=grpc::UNAUTHENTICATED).contains(&code) { code } else { grpc::INTERNAL };
    trailers.insert("grpc-status", HeaderValue::from(code));
    if let Some(words) = words {
        let words: String = words.chars().take(MESSAGE_CHARS_MAX).collect();
        let value = HeaderValue::from_str(&percent::encode_message(&words)).expect("percent-encoded words are ASCII");
        trailers.insert("grpc-message", value);
    }
    trailers
}

/// Understands the message's tensors.
pub fn question(request: pb::ModelInferRequest) -> Result<Question, Error> {
    let raw = request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        let words = format!(
            "raw_input_contents has {} entries for {} inputs; it must have one for each",
            raw.len(),
            request.inputs.len()
        );
        return Err(Error::invalid(words));
    }
    let form = Form::Grpc { raw: !raw.is_empty() || request.inputs.is_empty() };
    let mut raw = raw.into_iter();
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        let data_type = tensor::datatype(&input.name, &input.datatype)?;
        if input.parameters.contains_key("shared_memory_region") {
            return Err(Error::Unsupported { feature: format!("shared memory (input `{}`)", input.name) });
        }
        let data = match (raw.next(), input.contents) {
            (Some(_), Some(contents)) if contents.encoded_len() > 0 => {
                return Err(tensor::refuse(&input.name, "has both contents and raw_input_contents; send one of them"));
            }
            (Some(raw), _) => raw,
            (None, contents) => tensor::pack_contents(&input.name, data_type, &contents.unwrap_or_default())?,
        };
        let tensor = worker::Tensor { name: input.name, data_type: data_type.into(), shape: input.shape, data };
        tensor::check(&tensor)?;
        inputs.push(tensor);
    }
    Ok(Question {
        model: request.model_name,
        version: request.model_version,
        id: request.id,
        parameters: parameters(request.parameters)?,
        inputs,
        outputs: request.outputs.into_iter().map(|output| Wanted { name: output.name, binary: None }).collect(),
        form,
    })
}

fn parameters(parameters: std::collections::HashMap<String, pb::InferParameter>) -> Result<Map<String, Value>, Error> {
    let value = |(name, parameter): (String, pb::InferParameter)| {
        let value = match parameter.parameter_choice {
            None => Value::Null,
            Some(ParameterChoice::BoolParam(value)) => value.into(),
            Some(ParameterChoice::Int64Param(value)) => value.into(),
            Some(ParameterChoice::Uint64Param(value)) => value.into(),
            Some(ParameterChoice::StringParam(value)) => value.into(),
            Some(ParameterChoice::DoubleParam(value)) if value.is_finite() => value.into(),
            Some(ParameterChoice::DoubleParam(value)) => {
                let at = format!("parameters.{name}");
                return Err(Error::invalid_param(at.clone(), format!("`{at}` must be a finite number, got {value}")));
            }
        };
        Ok((name, value))
    };
    parameters.into_iter().map(value).collect()
}

/// Spells an answer.
///
/// # Errors
/// [`Error::Invalid`] where an output has no typed spelling.
pub fn outcome(outcome: Outcome<'_>, raw: bool) -> Result<Vec<Part>, Error> {
    let mut outputs = Vec::with_capacity(outcome.outputs.len());
    let mut raw_output_contents = Vec::new();
    for (tensor, _) in outcome.outputs {
        let contents = match raw {
            true => None,
            false => Some(tensor::to_contents(&tensor).ok_or_else(|| {
                let words = format!(
                    "output `{}` has no typed contents; send the inputs in raw_input_contents to get it raw",
                    tensor.name
                );
                Error::invalid_param(tensor.name.clone(), words)
            })?),
        };
        outputs.push(pb::model_infer_response::InferOutputTensor {
            datatype: tensor::name_of(tensor.data_type()).into(),
            name: tensor.name,
            shape: tensor.shape,
            parameters: Default::default(),
            contents,
        });
        if raw {
            raw_output_contents.push(tensor.data);
        }
    }
    let parameter = |(name, value): &(&str, u64)| {
        let choice = ParameterChoice::Int64Param(i64::try_from(*value).unwrap_or(i64::MAX));
        ((*name).to_owned(), pb::InferParameter { parameter_choice: Some(choice) })
    };
    Ok(whole(&pb::ModelInferResponse {
        model_name: outcome.model.into(),
        model_version: VERSION.into(),
        id: outcome.id.into(),
        parameters: outcome.parameters.iter().map(parameter).collect(),
        outputs,
        raw_output_contents,
    }))
}
