//! Safetensors files through a memory map: one file, or the shards an index names.
//!
//! Never copies a weight. Tensors of a type that no kernel reads (`position_ids` in I64) are passed over until asked for.

use super::{ElementType, TensorView, WeightsError};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// Shards an index may name; the largest published models have under 300.
const SHARDS_MAX: usize = 4096;

/// Open safetensors files that together hold one model.
#[derive(Debug)]
pub struct SafetensorsFiles {
    path: PathBuf,
    maps: Vec<Mmap>,
    tensors: Vec<Stored>,
    by_name: HashMap<String, usize>,
    /// Tensors of types that are not supported, and the name of the type.
    ignored: HashMap<String, String>,
}

#[derive(Debug)]
struct Stored {
    name: String,
    map: usize,
    element: ElementType,
    rows: usize,
    cols: usize,
    bytes: Range<usize>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl SafetensorsFiles {
    /// Opens one file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::open_all(path, &[path.to_owned()])
    }

    /// Opens `model.safetensors` of a directory, or the shards that `model.safetensors.index.json` names.
    pub fn open_directory(directory: &Path) -> Result<Self, WeightsError> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        if single.is_file() {
            return Self::open(&single);
        }
        if !index.is_file() {
            let reason = "it holds neither model.safetensors nor model.safetensors.index.json".to_owned();
            return Err(WeightsError::UnknownFormat { path: directory.to_owned(), reason });
        }
        let text = super::checkpoint::read_bounded(&index)?;
        let parsed: ShardIndex = serde_json::from_slice(&text).map_err(|error| WeightsError::Corrupt {
            path: index.clone(),
            offset: 0,
            reason: format!("is no index of shards: {error}"),
        })?;
        let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
        if names.len() > SHARDS_MAX || names.iter().any(|name| !is_plain(name)) {
            let reason = format!("must name at most {SHARDS_MAX} shards, each a plain file name");
            return Err(WeightsError::Parameter { path: index, key: "weight_map".into(), reason });
        }
        let shards: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
        Self::open_all(directory, &shards)
    }

    fn open_all(path: &Path, files: &[PathBuf]) -> Result<Self, WeightsError> {
        let mut all = Self {
            path: path.to_owned(),
            maps: Vec::with_capacity(files.len()),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            ignored: HashMap::new(),
        };
        files.iter().try_for_each(|file| all.add(file))?;
        Ok(all)
    }

    /// Maps one file and takes up its tensors.
    fn add(&mut self, path: &Path) -> Result<(), WeightsError> {
        let opened = File::open(path).and_then(|file| {
            // SAFETY: the map is only read; a file cut shorter while mapped ends the process with SIGBUS, no worse.
            unsafe { Mmap::map(&file) }
        });
        let map = opened.map_err(|source| WeightsError::Open { path: path.to_owned(), source })?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| WeightsError::Corrupt {
            path: path.to_owned(),
            offset: 0,
            reason: format!("the safetensors header is wrong: {error}"),
        })?;
        self.take(path, header + 8, &metadata)?;
        self.maps.push(map);
        Ok(())
    }

    fn take(&mut self, path: &Path, data: usize, metadata: &Metadata) -> Result<(), WeightsError> {
        for (name, info) in metadata.tensors() {
            let Some(element) = element(info.dtype) else {
                self.ignored.insert(name, format!("{:?}", info.dtype));
                continue;
            };
            let offset = data + info.data_offsets.0;
            let stored = stored(name, info, element, data, self.maps.len()).map_err(|(tensor, reason)| {
                WeightsError::Tensor { path: path.to_owned(), tensor, offset: offset as u64, reason }
            })?;
            if self.by_name.insert(stored.name.clone(), self.tensors.len()).is_some() {
                let reason = "is in more than one shard".to_owned();
                let (path, tensor) = (path.to_owned(), stored.name);
                return Err(WeightsError::Tensor { path, tensor, offset: offset as u64, reason });
            }
            self.tensors.push(stored);
        }
        Ok(())
    }

    /// The tensor of this name; `None` if there is none of a supported type.
    pub fn find(&self, name: &str) -> Option<TensorView<'_>> {
        self.by_name.get(name).map(|i| self.view(&self.tensors[*i]))
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        let (path, tensor) = (self.path.clone(), name.to_owned());
        match (self.find(name), self.ignored.get(name)) {
            (Some(view), _) => Ok(view),
            (None, None) => Err(WeightsError::MissingTensor { path, tensor }),
            (None, Some(dtype)) => {
                let (found, supported) = (dtype.clone(), "F32, F16, BF16 (in safetensors)".to_owned());
                Err(WeightsError::UnsupportedElement { path, tensor, found, supported })
            }
        }
    }

    /// All tensors of supported types, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|stored| self.view(stored))
    }

    /// Size of all files.
    pub fn file_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.len() as u64).sum()
    }

    fn view<'a>(&'a self, stored: &'a Stored) -> TensorView<'a> {
        let bytes = &self.maps[stored.map][stored.bytes.clone()];
        TensorView { name: &stored.name, element: stored.element, rows: stored.rows, cols: stored.cols, bytes }
    }
}

/// Whether this is a plain file name: an index must not reach out of its directory.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

fn element(dtype: Dtype) -> Option<ElementType> {
    match dtype {
        Dtype::F32 => Some(ElementType::F32),
        Dtype::F16 => Some(ElementType::F16),
        Dtype::BF16 => Some(ElementType::BF16),
        _ => None,
    }
}

/// Extents and place of one tensor; on failure its name and the reason.
fn stored(
    name: String,
    info: &TensorInfo,
    element: ElementType,
    data: usize,
    map: usize,
) -> Result<Stored, (String, String)> {
    let cols = info.shape.last().copied().unwrap_or(1);
    let above = &info.shape[..info.shape.len().saturating_sub(1)];
    let rows = above.iter().try_fold(1usize, |rows, extent| rows.checked_mul(*extent));
    let elements = rows.and_then(|rows| rows.checked_mul(cols)).filter(|n| *n > 0);
    let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
    match (rows, elements) {
        // The crate has checked that the offsets are inside the file and agree with the shape; never rely on that alone.
        (Some(rows), Some(elements)) if element.bytes(elements) == Some(bytes.len()) => {
            Ok(Stored { name, map, element, rows, cols, bytes })
        }
        _ => Err((name, format!("shape {:?} does not agree with its {} bytes", info.shape, bytes.len()))),
    }
}
