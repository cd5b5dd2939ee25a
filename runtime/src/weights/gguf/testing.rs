//! Writes small GGUF files for tests. Never part of the worker.

use crate::weights::ElementType;

/// A value of a metadata pair.
#[derive(Clone, Debug)]
pub(crate) enum Pair {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// An array of arrays of integers.
    Nested(Vec<Vec<u32>>),
}

/// A file in the making. Fields are public, so that a test can spoil them.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    pub version: u32,
    pub pairs: Vec<(String, Pair)>,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    /// Where it says it begins; `None` for where it does.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl Builder {
    pub fn new(architecture: &str) -> Self {
        let pairs = vec![("general.architecture".to_owned(), Pair::Str(architecture.to_owned()))];
        Self { version: 3, pairs, tensors: Vec::new() }
    }

    pub fn pair(mut self, key: &str, value: Pair) -> Self {
        self.pairs.push((key.to_owned(), value));
        self
    }

    pub fn str(self, key: &str, value: &str) -> Self {
        self.pair(key, Pair::Str(value.to_owned()))
    }

    /// A tensor of zeros, extents as the file has them: the fastest first.
    pub fn zeros(mut self, name: &str, element: ElementType, dims: &[u64]) -> Self {
        let elements = dims.iter().product::<u64>() as usize;
        let data = vec![0; element.bytes(elements).expect("whole blocks")];
        let kind = (0..64).find(|n| ElementType::from_ggml(*n) == Some(element)).expect("a known type");
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), kind, offset: None, data });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            string(&mut out, key);
            self::value(&mut out, value);
        }
        let mut at = 0u64;
        for tensor in &self.tensors {
            string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|extent| out.extend(extent.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(at).to_le_bytes());
            at = (at + tensor.data.len() as u64).next_multiple_of(32);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.data);
        }
        out
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value(out: &mut Vec<u8>, value: &Pair) {
    let head = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Pair::U32(n) => {
            out.extend(4u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Pair::F32(n) => {
            out.extend(6u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Pair::Bool(b) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*b));
        }
        Pair::Str(text) => {
            out.extend(8u32.to_le_bytes());
            string(out, text);
        }
        Pair::Strs(list) => {
            head(out, 8, list.len());
            list.iter().for_each(|text| string(out, text));
        }
        Pair::I32s(list) => {
            head(out, 5, list.len());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Pair::F32s(list) => {
            head(out, 6, list.len());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Pair::Nested(lists) => {
            head(out, 9, lists.len());
            for list in lists {
                out.extend(4u32.to_le_bytes());
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
    }
}
