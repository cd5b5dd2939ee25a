//! A checkpoint: weights, hyper-parameters, and what lies beside them, whatever format they are stored in.
//!
//! Never judges whether the architecture is one we can run: that is the models room's to say.

mod from_directory;
mod from_gguf;

use super::{ElementType, Gguf, Parameters, SafetensorsFiles, TensorView, WeightsError};
use crate::device::program::Pooling;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Size at most of a JSON file or template beside the weights; the largest published `tokenizer.json` has about 35 MB.
const SIDE_FILE_BYTES_MAX: u64 = 128 << 20;

/// Tokens that end a turn in published vocabularies, where the metadata names only one end of sequence.
const TURN_ENDS: &[&str] = &[
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|end|>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|return|>",
    "<｜end▁of▁sentence｜>",
];

/// By whose rules tensors are named and q and k are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `blk.0.attn_q.weight`; llama's q and k rows are permuted for interleaved rotation.
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`; rotation pairs the halves of a head.
    HuggingFace,
}

/// Where the tokenizer is described.
#[derive(Clone, Copy, Debug)]
pub enum TokenizerSource<'a> {
    /// Metadata of a GGUF file.
    Gguf(&'a Gguf),
    /// A Hugging Face `tokenizer.json`.
    Json(&'a Path),
    /// There is none.
    Absent,
}

/// Ids with a meaning of their own. Texts are what a chat template calls `bos_token` and `eos_token`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub bos_text: Option<String>,
    pub eos: Option<u32>,
    pub eos_text: Option<String>,
    pub pad: Option<u32>,
    /// Every id that ends a generation: EOS, end of turn, and what the generation config lists. Ascending.
    pub end_of_generation: Vec<u32>,
}

/// How a sentence encoder makes one vector of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SentenceEncoder {
    pub pooling: Pooling,
    /// Whether the vector is scaled to length 1.
    pub normalize: bool,
    /// Tokens of a text at most, special tokens included; what is over is cut off.
    pub max_tokens: usize,
}

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    weights: Weights,
    described: Described,
}

#[derive(Debug)]
enum Weights {
    Gguf(Gguf),
    Safetensors { files: SafetensorsFiles, tokenizer: Option<PathBuf> },
}

/// What each format tells about a model, in the same words.
#[derive(Debug)]
struct Described {
    architecture: String,
    name: Option<String>,
    config: Parameters,
    special: SpecialTokens,
    chat_template: Option<String>,
    sentence_encoder: Option<SentenceEncoder>,
}

impl Checkpoint {
    /// Opens a `.gguf` file, a `.safetensors` file (its `config.json` beside it) or a directory in Hugging Face layout.
    ///
    /// A directory without safetensors that holds exactly one `.gguf` file stands for that file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let found = std::fs::metadata(path).map_err(|source| WeightsError::Open { path: path.to_owned(), source })?;
        if found.is_dir() {
            return match only_gguf(path) {
                Some(file) => Self::open_gguf(&file),
                None => Self::open_safetensors(path, path, SafetensorsFiles::open_directory(path)?),
            };
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => {
                let directory = path.parent().unwrap_or(Path::new("."));
                Self::open_safetensors(path, directory, SafetensorsFiles::open(path)?)
            }
            Some("gguf") => Self::open_gguf(path),
            _ if begins_with_gguf(path) => Self::open_gguf(path),
            _ => {
                let reason = "its name ends in neither, and it does not begin with \"GGUF\"".to_owned();
                Err(WeightsError::UnknownFormat { path: path.to_owned(), reason })
            }
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, WeightsError> {
        let gguf = Gguf::open(path)?;
        let described = from_gguf::describe(&gguf)?;
        Ok(Self { path: path.to_owned(), weights: Weights::Gguf(gguf), described })
    }

    fn open_safetensors(path: &Path, directory: &Path, files: SafetensorsFiles) -> Result<Self, WeightsError> {
        let described = from_directory::describe(directory)?;
        let tokenizer = Some(directory.join("tokenizer.json")).filter(|file| file.is_file());
        Ok(Self { path: path.to_owned(), weights: Weights::Safetensors { files, tokenizer }, described })
    }

    /// As the weights say: `"llama"`, `"bert"`.
    pub fn architecture(&self) -> &str {
        &self.described.architecture
    }

    /// The model's name for people, where the file has one.
    pub fn name(&self) -> Option<&str> {
        self.described.name.as_deref()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hyper-parameters under the names of `config.json`, derived from the metadata for a GGUF file.
    pub fn config(&self) -> &Parameters {
        &self.described.config
    }

    pub fn naming(&self) -> Naming {
        match self.weights {
            Weights::Gguf(_) => Naming::Gguf,
            Weights::Safetensors { .. } => Naming::HuggingFace,
        }
    }

    /// The tensor of this name, as the file spells it.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        match &self.weights {
            Weights::Gguf(gguf) => gguf.tensor(name),
            Weights::Safetensors { files, .. } => files.tensor(name),
        }
    }

    /// The tensor of this name, or `None`.
    pub fn find_tensor(&self, name: &str) -> Option<TensorView<'_>> {
        match &self.weights {
            Weights::Gguf(gguf) => gguf.find(name),
            Weights::Safetensors { files, .. } => files.find(name),
        }
    }

    /// All tensors of supported types.
    pub fn tensors(&self) -> Box<dyn Iterator<Item = TensorView<'_>> + '_> {
        match &self.weights {
            Weights::Gguf(gguf) => Box::new(gguf.tensors()),
            Weights::Safetensors { files, .. } => Box::new(files.tensors()),
        }
    }

    /// Elements of all tensors.
    pub fn parameter_count(&self) -> u64 {
        self.tensors().map(|tensor| tensor.rows as u64 * tensor.cols as u64).sum()
    }

    /// The element type that most parameters have, by name: `"Q4_1"`.
    pub fn quantization(&self) -> &'static str {
        let count = |element: ElementType| -> u64 {
            self.tensors().filter(|t| t.element == element).map(|t| t.rows as u64 * t.cols as u64).sum()
        };
        ElementType::all().max_by_key(|element| count(*element)).map_or("F32", ElementType::name)
    }

    /// Size of the weight files.
    pub fn file_bytes(&self) -> u64 {
        match &self.weights {
            Weights::Gguf(gguf) => gguf.file_bytes(),
            Weights::Safetensors { files, .. } => files.file_bytes(),
        }
    }

    /// Where the tokenizer is described.
    pub fn tokenizer(&self) -> TokenizerSource<'_> {
        match &self.weights {
            Weights::Gguf(gguf) if gguf.metadata().contains("tokenizer.ggml.model") => TokenizerSource::Gguf(gguf),
            Weights::Gguf(_) => TokenizerSource::Absent,
            Weights::Safetensors { tokenizer: Some(path), .. } => TokenizerSource::Json(path),
            Weights::Safetensors { tokenizer: None, .. } => TokenizerSource::Absent,
        }
    }

    /// Source of the chat template, where there is one.
    pub fn chat_template(&self) -> Option<&str> {
        self.described.chat_template.as_deref()
    }

    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.described.special
    }

    /// Pooling and normalisation, if this is a sentence encoder.
    pub fn sentence_encoder(&self) -> Option<SentenceEncoder> {
        self.described.sentence_encoder
    }

    /// Positions the model was made for: `max_position_embeddings`.
    pub fn context_length(&self) -> Result<usize, WeightsError> {
        self.described.config.extent("max_position_embeddings")
    }
}

/// The one `.gguf` file of a directory that has no safetensors.
fn only_gguf(directory: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?;
    let files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    let ends = |file: &&PathBuf, extension: &str| file.extension().is_some_and(|found| found == extension);
    let mut ggufs = files.iter().filter(|file| ends(file, "gguf"));
    match (ggufs.next(), ggufs.next()) {
        (Some(file), None) if !files.iter().any(|file| ends(&file, "safetensors")) => Some(file.clone()),
        _ => None,
    }
}

fn begins_with_gguf(path: &Path) -> bool {
    let mut magic = [0u8; 4];
    std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok() && &magic == b"GGUF")
}

/// A file beside the weights, unless it is absurdly large.
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let open = |source| WeightsError::Open { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(open)?;
    let mut bytes = Vec::new();
    file.take(SIDE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(open)?;
    if bytes.len() as u64 > SIDE_FILE_BYTES_MAX {
        let reason = format!("has more than {SIDE_FILE_BYTES_MAX} bytes");
        return Err(WeightsError::Corrupt { path: path.to_owned(), offset: SIDE_FILE_BYTES_MAX, reason });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
