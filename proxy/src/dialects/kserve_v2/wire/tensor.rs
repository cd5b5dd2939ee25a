//! Tensors between their spellings: packed little-endian bytes (what the worker takes), JSON values, typed lists.
//!
//! Every function checks what a stranger claims about lengths before it believes it; none allocates by a claim.

use crate::dialects::common::fields::{kind, whole};
use crate::error::Error;
use bytes::{BufMut, Bytes, BytesMut};
use outrider_protos::inference::InferTensorContents;
use outrider_protos::worker::v1 as worker;
use serde_json::Value;
use worker::DataType;

/// Name on the wire, type, bytes of an element (0: each has its own length).
pub static DATATYPES: &[(&str, DataType, usize)] = &[
    ("BF16", DataType::Bf16, 2),
    ("BOOL", DataType::Bool, 1),
    ("BYTES", DataType::Bytes, 0),
    ("FP16", DataType::Fp16, 2),
    ("FP32", DataType::Fp32, 4),
    ("FP64", DataType::Fp64, 8),
    ("INT16", DataType::Int16, 2),
    ("INT32", DataType::Int32, 4),
    ("INT64", DataType::Int64, 8),
    ("INT8", DataType::Int8, 1),
    ("UINT16", DataType::Uint16, 2),
    ("UINT32", DataType::Uint32, 4),
    ("UINT64", DataType::Uint64, 8),
    ("UINT8", DataType::Uint8, 1),
];

/// The protocol's longest shapes are far shorter.
const RANK_MAX: usize = 32;

pub fn name_of(data_type: DataType) -> &'static str {
    DATATYPES.iter().find(|(_, one, _)| *one == data_type).map_or("UNKNOWN", |(name, ..)| name)
}

fn size_of(data_type: DataType) -> Option<usize> {
    DATATYPES.iter().find(|(_, one, _)| *one == data_type).map(|(.., size)| *size)
}

/// # Errors
/// [`Error::Invalid`] naming the input and the datatypes there are.
pub fn datatype(input: &str, name: &str) -> Result<DataType, Error> {
    DATATYPES.iter().find(|(one, ..)| *one == name).map(|(_, data_type, _)| *data_type).ok_or_else(|| {
        let known = DATATYPES.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
        let name: String = name.chars().take(64).collect();
        refuse(input, format!("has datatype `{name}`; it must be one of {known}"))
    })
}

/// "input `name` …".
pub fn refuse(input: &str, words: impl std::fmt::Display) -> Error {
    let input: String = input.chars().take(256).collect();
    Error::invalid_param(input.clone(), format!("input `{input}` {words}"))
}

/// How many elements a shape has.
///
/// # Errors
/// [`Error::Invalid`] for a negative extent, a product past 2⁶³, an absurd rank.
pub fn elements(input: &str, shape: &[i64]) -> Result<usize, Error> {
    if shape.len() > RANK_MAX {
        return Err(refuse(input, format!("has {} dimensions; at most {RANK_MAX} are allowed", shape.len())));
    }
    let product = shape.iter().try_fold(1usize, |product, extent| {
        usize::try_from(*extent).ok().and_then(|extent| product.checked_mul(extent))
    });
    product.ok_or_else(|| {
        refuse(input, format!("has shape {shape:?}; every extent must be 0 or more, and their product small"))
    })
}

/// Checks that packed bytes are what type and shape say.
///
/// # Errors
/// [`Error::Invalid`] with both numbers.
pub fn check(tensor: &worker::Tensor) -> Result<(), Error> {
    let (name, shape) = (&tensor.name, &tensor.shape);
    let elements = elements(name, shape)?;
    let data_type = tensor.data_type();
    let size = size_of(data_type).ok_or_else(|| refuse(name, "has no datatype"))?;
    if size == 0 {
        let mut count = 0usize;
        walk_packed(name, &tensor.data, |_, _| count += 1)?;
        if count != elements {
            return Err(refuse(
                name,
                format!("has shape {shape:?}, which is {elements} elements, but its data holds {count}"),
            ));
        }
        return Ok(());
    }
    let got = tensor.data.len();
    if elements.checked_mul(size) != Some(got) {
        let want = elements.saturating_mul(size);
        let data_type = name_of(data_type);
        return Err(refuse(
            name,
            format!("has shape {shape:?} of {data_type}, which is {want} bytes, but its data is {got} bytes"),
        ));
    }
    if data_type == DataType::Bool && tensor.data.iter().any(|byte| *byte > 1) {
        return Err(refuse(name, "is BOOL, so every byte of its data must be 0 or 1"));
    }
    Ok(())
}

/// The elements of packed BYTES, which share their bytes.
pub fn packed_elements(input: &str, data: &Bytes) -> Result<Vec<Bytes>, Error> {
    let mut elements = Vec::new();
    walk_packed(input, data, |from, to| elements.push(data.slice(from..to)))?;
    Ok(elements)
}

/// Finds each element of packed BYTES: a 4-byte little-endian length, then that many bytes.
fn walk_packed(input: &str, data: &[u8], mut found: impl FnMut(usize, usize)) -> Result<(), Error> {
    let (mut at, mut place) = (0, 0usize);
    while at < data.len() {
        let Some(length) = data[at..].first_chunk::<4>() else {
            let words =
                format!("ends within the length of element {place}; each element begins with 4 bytes of length");
            return Err(refuse(input, words));
        };
        let length = u32::from_le_bytes(*length) as usize;
        at += 4;
        let left = data.len() - at;
        if length > left {
            return Err(refuse(input, format!("announces {length} bytes for element {place}, but {left} are left")));
        }
        found(at, at + length);
        at += length;
        place += 1;
    }
    Ok(())
}

/// Packs byte strings.
pub fn pack_bytes<T: AsRef<[u8]>>(items: impl IntoIterator<Item = T>) -> Bytes {
    let mut out = BytesMut::new();
    for item in items {
        let item = item.as_ref();
        // A message is limited to far less than 4 GiB long before it comes here.
        out.put_u32_le(item.len() as u32);
        out.put_slice(item);
    }
    out.freeze()
}

/// Packs JSON data, flat or nested.
///
/// # Errors
/// [`Error::Invalid`] naming the element.
pub fn pack_json(input: &str, data_type: DataType, data: &[Value]) -> Result<Bytes, Error> {
    if matches!(data_type, DataType::Fp16 | DataType::Bf16) {
        return Err(refuse(
            input,
            format!("is {}, which JSON cannot carry; send it as binary data", name_of(data_type)),
        ));
    }
    let mut out = BytesMut::new();
    let mut count = 0usize;
    flatten(data, &mut |value| {
        let done = put_json(&mut out, data_type, value);
        done.ok_or_else(|| {
            refuse(
                input,
                format!(
                    "is {}, so element {count} of its data must be {}, got {}",
                    name_of(data_type),
                    wanted(data_type),
                    kind(value)
                ),
            )
        })?;
        count += 1;
        Ok(())
    })?;
    Ok(out.freeze())
}

/// Nesting is as deep as the JSON parser allows (128), so recursion is bounded.
fn flatten(items: &[Value], take: &mut dyn FnMut(&Value) -> Result<(), Error>) -> Result<(), Error> {
    for item in items {
        match item {
            Value::Array(inner) => flatten(inner, take)?,
            scalar => take(scalar)?,
        }
    }
    Ok(())
}

fn wanted(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "true or false",
        DataType::Bytes => "a string",
        DataType::Fp32 | DataType::Fp64 => "a number it can hold",
        _ => "a whole number it can hold",
    }
}

fn put_json(out: &mut BytesMut, data_type: DataType, value: &Value) -> Option<()> {
    match data_type {
        DataType::Bool => out.put_u8(
            value.as_bool().map(u8::from).or_else(|| whole(value).filter(|n| (0..=1).contains(n)).map(|n| n as u8))?,
        ),
        DataType::Bytes => {
            let text = value.as_str()?;
            out.put_u32_le(u32::try_from(text.len()).ok()?);
            out.put_slice(text.as_bytes());
        }
        DataType::Fp32 => out.put_f32_le(Some(value.as_f64()? as f32).filter(|number| number.is_finite())?),
        DataType::Fp64 => out.put_f64_le(value.as_f64()?),
        DataType::Uint64 => out.put_u64_le(value.as_u64().or_else(|| whole(value)?.try_into().ok())?),
        _ => put_integer(out, data_type, whole(value)?)?,
    }
    Some(())
}

fn put_integer(out: &mut BytesMut, data_type: DataType, value: i64) -> Option<()> {
    match data_type {
        DataType::Int8 => out.put_i8(value.try_into().ok()?),
        DataType::Int16 => out.put_i16_le(value.try_into().ok()?),
        DataType::Int32 => out.put_i32_le(value.try_into().ok()?),
        DataType::Int64 => out.put_i64_le(value),
        DataType::Uint8 => out.put_u8(value.try_into().ok()?),
        DataType::Uint16 => out.put_u16_le(value.try_into().ok()?),
        DataType::Uint32 => out.put_u32_le(value.try_into().ok()?),
        _ => return None,
    }
    Some(())
}

/// Packs typed lists.
///
/// # Errors
/// [`Error::Invalid`] where the wrong list is filled, or an element does not fit.
pub fn pack_contents(input: &str, data_type: DataType, contents: &InferTensorContents) -> Result<Bytes, Error> {
    use DataType::*;
    let c = contents;
    let lists = [
        (c.bool_contents.len(), "bool_contents", data_type == Bool),
        (c.int_contents.len(), "int_contents", matches!(data_type, Int8 | Int16 | Int32)),
        (c.int64_contents.len(), "int64_contents", data_type == Int64),
        (c.uint_contents.len(), "uint_contents", matches!(data_type, Uint8 | Uint16 | Uint32)),
        (c.uint64_contents.len(), "uint64_contents", data_type == Uint64),
        (c.fp32_contents.len(), "fp32_contents", data_type == Fp32),
        (c.fp64_contents.len(), "fp64_contents", data_type == Fp64),
        (c.bytes_contents.len(), "bytes_contents", data_type == Bytes),
    ];
    let Some((_, right, _)) = lists.iter().find(|(.., right)| *right) else {
        return Err(refuse(
            input,
            format!("is {}, which has no typed contents; send it in raw_input_contents", name_of(data_type)),
        ));
    };
    if let Some((_, filled, _)) = lists.iter().find(|(count, _, right)| *count > 0 && !right) {
        return Err(refuse(
            input,
            format!("is {}, so its data belongs in contents.{right}, not in contents.{filled}", name_of(data_type)),
        ));
    }
    if data_type == Bytes {
        return Ok(pack_bytes(&c.bytes_contents));
    }
    let mut out = BytesMut::new();
    match data_type {
        Bool => c.bool_contents.iter().for_each(|value| out.put_u8(u8::from(*value))),
        Int64 => c.int64_contents.iter().for_each(|value| out.put_i64_le(*value)),
        Uint64 => c.uint64_contents.iter().for_each(|value| out.put_u64_le(*value)),
        Fp32 => c.fp32_contents.iter().for_each(|value| out.put_f32_le(*value)),
        Fp64 => c.fp64_contents.iter().for_each(|value| out.put_f64_le(*value)),
        _ => {
            let wide = c.int_contents.iter().map(|value| i64::from(*value));
            for value in wide.chain(c.uint_contents.iter().map(|value| i64::from(*value))) {
                put_integer(&mut out, data_type, value)
                    .ok_or_else(|| refuse(input, format!("is {}, which cannot hold {value}", name_of(data_type))))?;
            }
        }
    }
    Ok(out.freeze())
}

/// The elements of a fixed width, widened by `read`.
fn each<const N: usize, T>(data: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.chunks_exact(N).map(|chunk| read(chunk.try_into().expect("chunks are exact"))).collect()
}

/// Unpacks into typed lists. `None` for a type that has none.
pub fn to_contents(tensor: &worker::Tensor) -> Option<InferTensorContents> {
    let data = &tensor.data;
    let mut c = InferTensorContents::default();
    match tensor.data_type() {
        DataType::Bool => c.bool_contents = data.iter().map(|byte| *byte != 0).collect(),
        DataType::Int8 => c.int_contents = each(data, |b: [u8; 1]| i32::from(b[0] as i8)),
        DataType::Int16 => c.int_contents = each(data, |b| i32::from(i16::from_le_bytes(b))),
        DataType::Int32 => c.int_contents = each(data, i32::from_le_bytes),
        DataType::Int64 => c.int64_contents = each(data, i64::from_le_bytes),
        DataType::Uint8 => c.uint_contents = each(data, |b: [u8; 1]| u32::from(b[0])),
        DataType::Uint16 => c.uint_contents = each(data, |b| u32::from(u16::from_le_bytes(b))),
        DataType::Uint32 => c.uint_contents = each(data, u32::from_le_bytes),
        DataType::Uint64 => c.uint64_contents = each(data, u64::from_le_bytes),
        DataType::Fp32 => c.fp32_contents = each(data, f32::from_le_bytes),
        DataType::Fp64 => c.fp64_contents = each(data, f64::from_le_bytes),
        DataType::Bytes => c.bytes_contents = packed_elements(&tensor.name, data).ok()?,
        DataType::Fp16 | DataType::Bf16 | DataType::Unspecified => return None,
    }
    Some(c)
}

/// Unpacks into a flat JSON array. `None` for what JSON cannot carry: 16-bit floats, byte strings that are no UTF-8.
/// What is not finite becomes null.
pub fn to_json(tensor: &worker::Tensor) -> Option<Value> {
    if tensor.data_type() == DataType::Bytes {
        let elements = packed_elements(&tensor.name, &tensor.data).ok()?;
        let text = |element: &Bytes| std::str::from_utf8(element).ok().map(Value::from);
        return elements.iter().map(text).collect();
    }
    let c = to_contents(tensor)?;
    Some(match tensor.data_type() {
        DataType::Bool => c.bool_contents.into(),
        DataType::Int64 => c.int64_contents.into(),
        DataType::Uint64 => c.uint64_contents.into(),
        // By its own digits: widened to f64 first, 0.1 would be 0.10000000149011612.
        DataType::Fp32 => serde_json::to_value(ShortFloats(c.fp32_contents)).ok()?,
        DataType::Fp64 => c.fp64_contents.into(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => c.int_contents.into(),
        _ => c.uint_contents.into(),
    })
}

struct ShortFloats(Vec<f32>);

impl serde::Serialize for ShortFloats {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0.iter().map(|value| value.to_string().parse::<f64>().ok().filter(|value| value.is_finite())),
        )
    }
}
