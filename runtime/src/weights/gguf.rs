//! GGUF files (llama.cpp's format, versions 2 and 3, little-endian) through a memory map.
//!
//! Every length, offset and count is compared with the file before it is used, so that a hostile file costs bounded
//! memory and gets an error that names the place. Never copies a weight. What this cannot guard against is a file
//! that is cut shorter while it is mapped: the operating system ends the process with SIGBUS then.

mod cursor;
mod metadata;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use super::{ElementType, TensorView, WeightsError};
use cursor::{Cursor, Fault};
use memmap2::Mmap;
pub use metadata::{Metadata, Number, WrongType};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8] = b"GGUF";
/// Where the data section and each tensor begin, unless `general.alignment` says otherwise.
const ALIGNMENT: usize = 32;
/// Tensors a file may have: a bound for hostile files; the largest published models have a few thousand.
const TENSORS_MAX: usize = 1 << 16;
/// Bytes of a tensor's name; the specification says 64.
const NAME_BYTES_MAX: usize = 255;
const DIMS_MAX: usize = 4;

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    map: Arc<Mmap>,
    version: u32,
    index: metadata::Index,
    tensors: Vec<Stored>,
    by_name: HashMap<String, usize>,
}

/// One row of the tensor table.
#[derive(Clone, Debug)]
struct Stored {
    name: String,
    element: ElementType,
    rows: usize,
    cols: usize,
    bytes: Range<usize>,
}

/// What can be wrong with the tensor table.
enum TableFault {
    At(Fault),
    Tensor { name: String, offset: usize, reason: String },
    Element { name: String, number: u32 },
}

impl From<Fault> for TableFault {
    fn from(fault: Fault) -> Self {
        TableFault::At(fault)
    }
}

impl Gguf {
    /// Maps a file and checks its header, metadata and tensor table.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let opened = File::open(path).and_then(|file| {
            // SAFETY: the map is only read; the caveat about a file cut while mapped is in the module's comment.
            unsafe { Mmap::map(&file) }
        });
        let map = opened.map_err(|source| WeightsError::Open { path: path.to_owned(), source })?;
        Self::from_map(path, Arc::new(map))
    }

    /// As [`Gguf::open`], of a file already mapped.
    pub fn from_map(path: &Path, map: Arc<Mmap>) -> Result<Self, WeightsError> {
        let parsed = parse(&map);
        let (version, index, tensors) = parsed.map_err(|fault| words(path, fault))?;
        let by_name = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Self { path: path.to_owned(), map, version, index, tensors, by_name })
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    pub fn metadata(&self) -> Metadata<'_> {
        self.index.view(&self.map)
    }

    /// The tensor of this name; `None` if there is none.
    pub fn find(&self, name: &str) -> Option<TensorView<'_>> {
        self.by_name.get(name).map(|i| self.view(&self.tensors[*i]))
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        self.find(name).ok_or_else(|| WeightsError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() })
    }

    /// All tensors, in the order of the file's table.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|tensor| self.view(tensor))
    }

    fn view<'a>(&'a self, tensor: &'a Stored) -> TensorView<'a> {
        let bytes = &self.map[tensor.bytes.clone()];
        TensorView { name: &tensor.name, element: tensor.element, rows: tensor.rows, cols: tensor.cols, bytes }
    }

    /// Gives a metadata error its file.
    pub fn wrong(&self, wrong: WrongType) -> WeightsError {
        WeightsError::Parameter { path: self.path.clone(), key: wrong.key, reason: wrong.reason }
    }
}

/// A fault in the words of the room, with the file's path.
fn words(path: &Path, fault: ParseFault) -> WeightsError {
    let path = path.to_owned();
    match fault {
        ParseFault::Version(reason) => WeightsError::UnsupportedVersion { path, reason },
        ParseFault::Metadata(wrong) => WeightsError::Parameter { path, key: wrong.key, reason: wrong.reason },
        ParseFault::Table(TableFault::At(Fault { offset, reason })) => {
            WeightsError::Corrupt { path, offset: offset as u64, reason }
        }
        ParseFault::Table(TableFault::Tensor { name, offset, reason }) => {
            WeightsError::Tensor { path, tensor: name, offset: offset as u64, reason }
        }
        ParseFault::Table(TableFault::Element { name, number }) => WeightsError::UnsupportedElement {
            path,
            tensor: name,
            found: ggml_name(number).map_or_else(|| format!("ggml type {number}"), str::to_owned),
            supported: ElementType::names(),
        },
    }
}

/// What can be wrong with a file.
enum ParseFault {
    Version(String),
    Metadata(WrongType),
    Table(TableFault),
}

impl<F: Into<TableFault>> From<F> for ParseFault {
    fn from(fault: F) -> Self {
        ParseFault::Table(fault.into())
    }
}

fn parse(bytes: &[u8]) -> Result<(u32, metadata::Index, Vec<Stored>), ParseFault> {
    let mut cursor = Cursor::new(bytes, 0);
    let magic = cursor.take(4, "the magic number")?;
    if magic != MAGIC {
        let reason = format!("begins with {:?}, not with \"GGUF\"", String::from_utf8_lossy(magic));
        return Err(Fault { offset: 0, reason }.into());
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err(ParseFault::Version("is a big-endian GGUF file; convert it to little-endian".into()));
        }
        _ => {
            let reason = format!("is GGUF version {version}; supported are 2 and 3: convert the model again");
            return Err(ParseFault::Version(reason));
        }
    }
    // A table row takes at least a name's length, the number of dims, the type and the offset; a pair, its key's
    // length, its type and one byte.
    let tensors = cursor.count(24, "the number of tensors")?;
    let pairs = cursor.count(13, "the number of metadata pairs")?;
    if tensors > TENSORS_MAX {
        let reason = format!("{tensors} tensors; at most {TENSORS_MAX} are accepted");
        return Err(Fault { offset: 8, reason }.into());
    }
    let index = metadata::Index::read(&mut cursor, pairs)?;
    let alignment = alignment(index.view(bytes)).map_err(ParseFault::Metadata)?;
    let tensors = table(&mut cursor, tensors, alignment)?;
    Ok((version, index, tensors))
}

fn alignment(metadata: Metadata<'_>) -> Result<usize, WrongType> {
    const KEY: &str = "general.alignment";
    match metadata.u64(KEY)? {
        None => Ok(ALIGNMENT),
        Some(n) if n.is_power_of_two() && n <= 1 << 20 => Ok(n as usize),
        Some(n) => Err(WrongType { key: KEY.into(), reason: format!("is {n}, not a power of two of at most 1 MiB") }),
    }
}

/// One row of the table before the start of the data section is known.
struct Row {
    name: String,
    element: ElementType,
    rows: usize,
    cols: usize,
    /// From the start of the data section.
    offset: u64,
    length: usize,
}

fn table(cursor: &mut Cursor<'_>, tensors: usize, alignment: usize) -> Result<Vec<Stored>, TableFault> {
    let mut rows = Vec::with_capacity(tensors);
    let mut names = std::collections::HashSet::with_capacity(tensors);
    for number in 0..tensors {
        let offset = cursor.at;
        let row = row(cursor, number)?;
        if !names.insert(row.name.clone()) {
            return Err(TableFault::Tensor { name: row.name, offset, reason: "appears twice in the table".into() });
        }
        rows.push(row);
    }
    let data = cursor.at.next_multiple_of(alignment);
    let end = cursor.bytes.len();
    rows.into_iter().map(|row| place(row, data, end, alignment)).collect()
}

/// Reads one row of the table.
fn row(cursor: &mut Cursor<'_>, number: usize) -> Result<Row, TableFault> {
    let offset = cursor.at;
    let name = cursor.string(&format!("the name of tensor {number}"))?;
    if name.len() > NAME_BYTES_MAX {
        let reason = format!("the name of tensor {number} has {} bytes, more than {NAME_BYTES_MAX}", name.len());
        return Err(Fault { offset, reason }.into());
    }
    let name = name.to_owned();
    let bad = |name: &str, reason: String| TableFault::Tensor { name: name.to_owned(), offset, reason };
    let dims = cursor.u32(&name)? as usize;
    if dims > DIMS_MAX {
        return Err(bad(&name, format!("has {dims} dimensions; at most {DIMS_MAX} are possible")));
    }
    let (mut cols, mut rows) = (1usize, 1usize);
    for dim in 0..dims {
        let extent = cursor.u64(&name)?;
        let extent = usize::try_from(extent).ok().filter(|n| *n > 0);
        let extent = extent.ok_or_else(|| bad(&name, format!("extent {dim} is zero or too large")))?;
        if dim == 0 {
            cols = extent;
        } else {
            rows = rows.checked_mul(extent).ok_or_else(|| bad(&name, "the number of elements overflows".into()))?;
        }
    }
    let kind = cursor.u32(&name)?;
    let element =
        ElementType::from_ggml(kind).ok_or_else(|| TableFault::Element { name: name.clone(), number: kind })?;
    let start = cursor.u64(&name)?;
    let row_bytes = element.bytes(cols).ok_or_else(|| {
        let block = element.block_elements();
        bad(&name, format!("rows of {cols} elements are not whole blocks of {block} ({})", element.name()))
    })?;
    let length = row_bytes.checked_mul(rows).filter(|_| cols.checked_mul(rows).is_some());
    let length = length.ok_or_else(|| bad(&name, "the number of elements overflows".into()))?;
    Ok(Row { name, element, rows, cols, offset: start, length })
}

/// Where a tensor lies in the file, if it does.
fn place(row: Row, data: usize, end: usize, alignment: usize) -> Result<Stored, TableFault> {
    let Row { name, element, rows, cols, offset, length } = row;
    let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
    let range = start.and_then(|start| start.checked_add(length).map(|stop| start..stop));
    match range {
        Some(range) if offset % alignment as u64 != 0 => {
            let reason = format!("is not aligned to {alignment} bytes in the data section");
            Err(TableFault::Tensor { name, offset: range.start, reason })
        }
        Some(range) if range.end <= end => Ok(Stored { name, element, rows, cols, bytes: range }),
        Some(range) => {
            let reason = format!("needs {length} bytes, but the file ends at byte {end}: it is truncated");
            Err(TableFault::Tensor { name, offset: range.start, reason })
        }
        None => Err(TableFault::Tensor { name, offset: data, reason: format!("offset {offset} overflows") }),
    }
}

/// Names of ggml's types that are not supported, so that an error can say which it is.
fn ggml_name(number: u32) -> Option<&'static str> {
    Some(match number {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}
