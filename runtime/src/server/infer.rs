//! Infer: named tensors in and out. What each architecture takes and gives is also what ModelInfo says.

use std::sync::Arc;

use outrider_protos::worker::v1 as wire;
use tonic::Status;
use wire::DataType;

use super::catalog::{Served, Work};
use super::status;
use crate::executor::EncoderHandle;
use crate::models::{Encoder, Normalize, Wanted};

/// What Infer takes and gives: (inputs, outputs).
pub fn signature(work: &Work, vocabulary: usize, hidden: usize) -> (Vec<wire::TensorInfo>, Vec<wire::TensorInfo>) {
    let info = |name: &str, data_type: DataType, shape: &[i64]| wire::TensorInfo {
        name: name.to_string(),
        data_type: data_type.into(),
        shape: shape.to_vec(),
    };
    let (vocabulary, hidden) = (vocabulary as i64, hidden as i64);
    match work {
        Work::Generate { .. } => (
            vec![info("input_ids", DataType::Int64, &[1, -1])],
            vec![info("logits", DataType::Fp32, &[1, -1, vocabulary])],
        ),
        Work::Encode { .. } => (
            vec![info("input_ids", DataType::Int64, &[-1, -1]), info("attention_mask", DataType::Int64, &[-1, -1])],
            vec![
                info("last_hidden_state", DataType::Fp32, &[-1, -1, hidden]),
                info("sentence_embedding", DataType::Fp32, &[-1, hidden]),
            ],
        ),
    }
}

/// Runs the model on the inputs.
pub async fn infer(
    request: wire::InferRequest,
    served: Arc<Served>,
    output_bytes_max: usize,
) -> Result<wire::InferResponse, Status> {
    let outputs = &served.info.infer_outputs;
    for name in &request.outputs {
        if !outputs.iter().any(|output| output.name == *name) {
            return Err(invalid(format!("outputs: there is no {name:?}; this model gives {}", describe(outputs))));
        }
    }
    for (i, input) in request.inputs.iter().enumerate() {
        if !served.info.infer_inputs.iter().any(|info| info.name == input.name) {
            let wanted = describe(&served.info.infer_inputs);
            return Err(invalid(format!("inputs: there is no {:?}; this model takes {wanted}", input.name)));
        }
        if request.inputs[..i].iter().any(|other| other.name == input.name) {
            return Err(invalid(format!("inputs: {:?} is given twice", input.name)));
        }
    }
    let wanted = |name: &str| request.outputs.is_empty() || request.outputs.iter().any(|output| output == name);
    match &served.work {
        Work::Generate { prober, .. } => {
            let ids = matrix(&request, &served, "input_ids")?;
            if ids.rows != 1 || ids.cols == 0 || ids.cols > prober.tokens_max() {
                let (rows, cols, max) = (ids.rows, ids.cols, prober.tokens_max());
                return Err(invalid(format!(
                    "input_ids: shape [{rows}, {cols}]; wanted is [1, S] with S from 1 to {max}"
                )));
            }
            let (prober, vocabulary) = (Arc::clone(prober), served.vocabulary as i64);
            let ids = token_ids(&ids.values, served.vocabulary)?;
            let shape = [1, ids.len() as i64, vocabulary];
            let logits =
                status::blocking(move || prober.logits(&ids).map_err(|error| Status::internal(error.to_string())));
            Ok(wire::InferResponse { outputs: vec![tensor("logits", &shape, &logits.await?)] })
        }
        Work::Encode { encoder, model } => {
            let normalize = if model.sentence().normalize { Normalize::Yes } else { Normalize::No };
            let wanted = Wanted {
                hidden: wanted("last_hidden_state"),
                sentence: wanted("sentence_embedding").then_some(normalize),
            };
            let ids = matrix(&request, &served, "input_ids")?;
            let mask = matrix(&request, &served, "attention_mask")?;
            run_encoder((ids, mask), wanted, (encoder, &**model), output_bytes_max).await
        }
    }
}

async fn run_encoder(
    (ids, mask): (Matrix, Matrix),
    wanted: Wanted,
    (encoder, model): (&EncoderHandle, &dyn Encoder),
    output_bytes_max: usize,
) -> Result<wire::InferResponse, Status> {
    let (facts, rows, cols) = (model.facts(), ids.rows, ids.cols);
    if rows == 0 || cols == 0 || cols > facts.context_length {
        let max = facts.context_length;
        return Err(invalid(format!("input_ids: shape [{rows}, {cols}]; wanted is [B, S], B ≥ 1, S from 1 to {max}")));
    }
    if (mask.rows, mask.cols) != (rows, cols) {
        let (r, c) = (mask.rows, mask.cols);
        return Err(invalid(format!(
            "attention_mask: shape [{r}, {c}]; it must be that of input_ids, [{rows}, {cols}]"
        )));
    }
    let width = facts.hidden_size;
    if rows.saturating_mul(cols).saturating_mul(4 * width) > output_bytes_max {
        return Err(invalid(format!(
            "input_ids: [{rows}, {cols}] gives outputs over {output_bytes_max} bytes; send fewer rows"
        )));
    }
    let mut texts = Vec::with_capacity(rows);
    for (row, (ids, mask)) in ids.values.chunks(cols).zip(mask.values.chunks(cols)).enumerate() {
        let length = mask.iter().take_while(|m| **m == 1).count();
        if length == 0 || mask[length..].iter().any(|m| *m != 0) {
            return Err(invalid(format!("attention_mask: row {row} must be ones, at least one, and then zeros")));
        }
        texts.push(token_ids(&ids[..length], facts.vocabulary)?);
    }
    let vectors = encoder
        .encode(texts, wanted)
        .await
        .ok_or_else(|| Status::resource_exhausted("too many calls wait; ask again later"))?
        .map_err(status::encode)?;
    let mut outputs = Vec::new();
    let (b, s, h) = (rows as i64, cols as i64, width as i64);
    if wanted.hidden {
        // Rows that the mask leaves out are zero.
        let mut hidden = vec![0.0; rows * cols * width];
        for (to, vectors) in hidden.chunks_mut(cols * width).zip(&vectors) {
            to[..vectors.hidden.len()].copy_from_slice(&vectors.hidden);
        }
        outputs.push(tensor("last_hidden_state", &[b, s, h], &hidden));
    }
    if wanted.sentence.is_some() {
        let sentences: Vec<f32> = vectors.into_iter().flat_map(|vectors| vectors.sentence).collect();
        outputs.push(tensor("sentence_embedding", &[b, h], &sentences));
    }
    Ok(wire::InferResponse { outputs })
}

/// An INT64 input of two dimensions.
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<i64>,
}

fn matrix(request: &wire::InferRequest, served: &Served, name: &str) -> Result<Matrix, Status> {
    let Some(input) = request.inputs.iter().find(|input| input.name == name) else {
        return Err(invalid(format!(
            "inputs: {name:?} is missing; this model takes {}",
            describe(&served.info.infer_inputs)
        )));
    };
    if input.data_type() != DataType::Int64 {
        return Err(invalid(format!("{name}: is {}; wanted is INT64", type_name(input.data_type()))));
    }
    let extents: Option<Vec<usize>> = input.shape.iter().map(|extent| usize::try_from(*extent).ok()).collect();
    let (rows, cols) = match extents.as_deref() {
        Some([rows, cols]) => (*rows, *cols),
        _ => return Err(invalid(format!("{name}: shape {:?}; wanted are two extents, [B, S]", input.shape))),
    };
    let bytes = rows.checked_mul(cols).and_then(|elements| elements.checked_mul(8));
    if bytes != Some(input.data.len()) {
        let have = input.data.len();
        return Err(invalid(format!("{name}: {have} bytes of data do not fill INT64 [{rows}, {cols}]")));
    }
    let value = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
    Ok(Matrix { rows, cols, values: input.data.chunks_exact(8).map(value).collect() })
}

fn token_ids(values: &[i64], vocabulary: usize) -> Result<Vec<u32>, Status> {
    let id = |value: &i64| match u32::try_from(*value) {
        Ok(id) if (id as usize) < vocabulary => Ok(id),
        _ => Err(invalid(format!("input_ids: {value} is not in the vocabulary of {vocabulary}"))),
    };
    values.iter().map(id).collect()
}

fn tensor(name: &str, shape: &[i64], values: &[f32]) -> wire::Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    wire::Tensor { name: name.to_string(), data_type: DataType::Fp32.into(), shape: shape.to_vec(), data: data.into() }
}

fn invalid(reason: String) -> Status {
    Status::invalid_argument(reason)
}

fn type_name(data_type: DataType) -> &'static str {
    data_type.as_str_name().trim_start_matches("DATA_TYPE_")
}

/// `input_ids INT64 [1, -1], …`
fn describe(infos: &[wire::TensorInfo]) -> String {
    let each = infos.iter().map(|info| format!("{} {} {:?}", info.name, type_name(info.data_type()), info.shape));
    each.collect::<Vec<_>>().join(", ")
}
