//! An inference request: is it text to go on with, text to embed, or tensors for the model itself?
//!
//! Names and datatypes decide, with the model's tasks where they are known. A model that never ran is asked for by the
//! names its metadata would give: `text` embeds, every other text generates.

use super::{knobs, named_model};
use crate::dialects::common::fields::Fields;
use crate::dialects::kserve_v2::response::{infer as answers, texts};
use crate::dialects::kserve_v2::wire::Question;
use crate::dialects::kserve_v2::wire::tensor::{elements, name_of, packed_elements, refuse};
use crate::dialects::kserve_v2::{EMBED_INPUT, GENERATE_INPUT};
use crate::dialects::{Ask, Facts, ModelFacts, Parsed};
use crate::error::Error;
use crate::message::Head;
use outrider_protos::worker::v1 as worker;
use worker::{DataType, Task};

/// Names callers give a text, the likeliest first.
static TEXT_NAMES: &[&str] = &[GENERATE_INPUT, EMBED_INPUT, "prompt", "input", "input-0", "predict"];

/// What Triton's vLLM backend takes beside the text. The flags choose outputs; all outputs are always given.
static SIDE_INPUTS: &[(&str, DataType)] = &[
    ("exclude_input_in_output", DataType::Bool),
    ("return_finish_reason", DataType::Bool),
    ("return_num_input_tokens", DataType::Bool),
    ("return_num_output_tokens", DataType::Bool),
    ("sampling_parameters", DataType::Bytes),
    ("stream", DataType::Bool),
];

/// Each text is a sequence in the worker.
const TEXTS_MAX: usize = 1024;

pub fn parse(head: &Head, question: Question, facts: &Facts) -> Result<Parsed, Error> {
    let model = named_model(facts, &question.model, &question.version)?;
    if question.inputs.is_empty() {
        return Err(Error::invalid_param("inputs", "`inputs` must hold at least one tensor"));
    }
    for (place, input) in question.inputs.iter().enumerate() {
        if question.inputs[..place].iter().any(|earlier| earlier.name == input.name) {
            return Err(refuse(&input.name, "is there twice"));
        }
    }
    match text_place(model, &question.inputs) {
        None => tensors(head, question, model),
        Some(place) if embeds(model, &question.inputs[place].name)? => embed(head, question, place),
        Some(place) => generate(head, question, place, model),
    }
}

/// Which input is the text, if this is about text at all.
fn text_place(model: &ModelFacts, inputs: &[worker::Tensor]) -> Option<usize> {
    let own =
        |name: &str| model.info.as_ref().is_some_and(|info| info.infer_inputs.iter().any(|input| input.name == name));
    TEXT_NAMES.iter().filter(|name| !own(name)).find_map(|name| inputs.iter().position(|input| input.name == *name))
}

fn embeds(model: &ModelFacts, name: &str) -> Result<bool, Error> {
    match (model.can(Task::Generate), model.can(Task::Embed)) {
        (true, true) => Ok(name == EMBED_INPUT),
        (false, true) => Ok(true),
        (true, false) => Ok(false),
        (false, false) => Err(refuse(name, "is text, and this model takes none")),
    }
}

/// Texts of a BYTES tensor of shape [n] or [n, 1].
fn texts(tensor: &worker::Tensor) -> Result<Vec<String>, Error> {
    let name = &tensor.name;
    if tensor.data_type() != DataType::Bytes {
        return Err(refuse(
            name,
            format!("is text, so its datatype must be BYTES, not {}", name_of(tensor.data_type())),
        ));
    }
    let shape = &tensor.shape;
    if !matches!(shape[..], [_] | [_, 1]) {
        return Err(refuse(name, format!("has shape {shape:?}; texts come as [n] or [n, 1]")));
    }
    match elements(name, shape)? {
        0 => return Err(refuse(name, "must hold at least one text")),
        count if count > TEXTS_MAX => {
            return Err(refuse(name, format!("holds {count} texts; at most {TEXTS_MAX} are allowed")));
        }
        _ => {}
    }
    let text = |(place, bytes): (usize, bytes::Bytes)| {
        String::from_utf8(bytes.into()).map_err(|error| {
            let byte = error.utf8_error().valid_up_to();
            refuse(name, format!("must be UTF-8: element {place} is not, from its byte {byte} on"))
        })
    };
    packed_elements(name, &tensor.data)?.into_iter().enumerate().map(text).collect()
}

/// Refuses outputs that will not be there.
fn check_outputs(question: &Question, there: &[&str]) -> Result<(), Error> {
    match question.outputs.iter().find(|wanted| !there.contains(&wanted.name.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            let name: String = unknown.name.chars().take(256).collect();
            let there = there.join("`, `");
            Err(Error::invalid_param(name.clone(), format!("there is no output `{name}`; this model gives `{there}`")))
        }
    }
}

fn generate(head: &Head, question: Question, place: usize, model: &ModelFacts) -> Result<Parsed, Error> {
    check_outputs(&question, texts::OUTPUTS)?;
    let texts_in = texts(&question.inputs[place])?;
    let mut params = question.parameters.clone();
    for (_, input) in question.inputs.iter().enumerate().filter(|(other, _)| *other != place) {
        side_input(&mut params, input)?;
    }
    if Fields::new(&params).at("parameters").texts_count().flag("stream")? {
        return Err(Error::Unsupported {
            feature: "`stream` in an inference request (POST to …/generate_stream)".into(),
        });
    }
    let template = knobs::template(&params, &model.name, &head.request_id)?;
    let answer = texts::Texts::new(
        texts::Style::Tensors(question.outputs, question.form),
        model.name.clone(),
        question.id,
        texts_in.len(),
    );
    let mut requests: Vec<_> = texts_in.into_iter().map(|text| knobs::with_text(&template, text)).collect();
    let ask = if requests.len() == 1 { Ask::Generate(requests.remove(0)) } else { Ask::GenerateMany(requests) };
    Ok(Parsed { model: Some(model.name.clone()), ask, answer: Box::new(answer) })
}

/// An input beside the text becomes a knob.
fn side_input(params: &mut serde_json::Map<String, serde_json::Value>, input: &worker::Tensor) -> Result<(), Error> {
    let name = &input.name;
    let Some((_, data_type)) = SIDE_INPUTS.iter().find(|(side, _)| side == name) else {
        let side = SIDE_INPUTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("`, `");
        return Err(refuse(name, format!("is unknown; beside one text, this model takes `{side}`")));
    };
    if input.data_type() != *data_type {
        return Err(refuse(name, format!("must be {}, not {}", name_of(*data_type), name_of(input.data_type()))));
    }
    if elements(name, &input.shape)? != 1 {
        return Err(refuse(name, format!("has shape {:?}; it must hold exactly one element", input.shape)));
    }
    if *data_type == DataType::Bool {
        params.insert(name.clone(), input.data.iter().any(|byte| *byte != 0).into());
        return Ok(());
    }
    let json = packed_elements(name, &input.data)?.remove(0);
    let json = std::str::from_utf8(&json).map_err(|_| refuse(name, "must be UTF-8"))?;
    knobs::overlay(params, json)
}

fn embed(head: &Head, question: Question, place: usize) -> Result<Parsed, Error> {
    check_outputs(&question, &[answers::EMBEDDING])?;
    if let Some(other) = question.inputs.iter().enumerate().find(|(other, _)| *other != place) {
        return Err(refuse(
            &other.1.name,
            format!("is unknown; this model embeds one tensor of texts, `{}`", question.inputs[place].name),
        ));
    }
    let texts = texts(&question.inputs[place])?;
    let params = Fields::new(&question.parameters).at("parameters").texts_count();
    let normalize = if params.get("normalize").is_some() { Some(params.flag("normalize")?) } else { None };
    let truncate = params.flag("truncate")?;
    let input = |text| worker::EmbedInput { input: Some(worker::embed_input::Input::Text(text)) };
    let inputs: Vec<_> = texts.into_iter().map(input).collect();
    let count = inputs.len();
    let model = question.model.clone();
    let request =
        worker::EmbedRequest { model: model.clone(), request_id: head.request_id.clone(), inputs, normalize, truncate };
    let answer = answers::embedding(answers::Reply::of(question), count);
    Ok(Parsed { model: Some(model), ask: Ask::Embed(request), answer })
}

fn tensors(head: &Head, question: Question, model: &ModelFacts) -> Result<Parsed, Error> {
    if let Some(info) = &model.info {
        for input in &question.inputs {
            check_input(input, info)?;
        }
        if !info.infer_outputs.is_empty() {
            check_outputs(
                &question,
                &info.infer_outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(),
            )?;
        }
    }
    let request = worker::InferRequest {
        model: model.name.clone(),
        request_id: head.request_id.clone(),
        inputs: question.inputs.clone(),
        outputs: question.outputs.iter().map(|wanted| wanted.name.clone()).collect(),
    };
    let answer = answers::tensors(answers::Reply::of(question));
    Ok(Parsed { model: Some(model.name.clone()), ask: Ask::Infer(request), answer })
}

/// An input must be one the model has, of its datatype, and of a shape it takes.
fn check_input(input: &worker::Tensor, info: &worker::Model) -> Result<(), Error> {
    let Some(known) = info.infer_inputs.iter().find(|known| known.name == input.name) else {
        let text = info.tasks().find_map(|task| match task {
            Task::Generate => Some(GENERATE_INPUT),
            Task::Embed => Some(EMBED_INPUT),
            _ => None,
        });
        let tensors = info.infer_inputs.iter().map(|known| known.name.as_str());
        let names = text.into_iter().chain(tensors).collect::<Vec<_>>().join("`, `");
        return Err(refuse(&input.name, format!("is unknown; this model takes `{names}`")));
    };
    if known.data_type() != input.data_type() {
        return Err(refuse(
            &input.name,
            format!("must be {}, not {}", name_of(known.data_type()), name_of(input.data_type())),
        ));
    }
    let fits = known.shape.len() == input.shape.len()
        && known.shape.iter().zip(&input.shape).all(|(known, extent)| *known < 0 || known == extent);
    match fits {
        true => Ok(()),
        false => Err(refuse(
            &input.name,
            format!("has shape {:?}; this model takes {:?}, where -1 is free", input.shape, known.shape),
        )),
    }
}
