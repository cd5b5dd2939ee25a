//! The worker's YAML: the file's shape (`Raw`), then a validated [`Config`] with every default named.
//!
//! All contradictions are reported at once, each with its path. Never opens what a path names.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::StartError;

/// Longest socket path there can be: `sun_path` holds 108 bytes, the last is 0 (unix(7)); a temporary name beside it
/// is 8 bytes longer.
const SOCKET_PATH_BYTES_MAX: usize = 99;
/// Rows of one step. More raises throughput of prefill a little and the wait of running sequences a lot.
const TOKENS_PER_STEP_MAX: usize = 512;
/// Sequences in one step.
const SEQUENCES_MAX: usize = 64;
/// Sequences that may wait in the worker; the sidecar's queue is where callers should wait.
const WAITING_MAX: usize = 1024;
/// Long enough for most answers to end.
const DRAIN_SECONDS_MAX: u64 = 30;
/// Texts of one Embed call: bounds what one caller holds in memory.
const EMBED_INPUTS_MAX: usize = 2048;
/// Bytes of one text or conversation before it is tokenized: about 8 bytes for each token of a context of 128 Ki.
const PROMPT_BYTES_MAX: usize = 1 << 20;
/// Rows of one program of an encoder: enough to fill a GEMM, little enough to stay in the cache.
const EMBED_TOKENS_PER_STEP_MAX: usize = 2048;

/// Where programs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A real GPU if an adapter is one, else the CPU.
    Auto,
    Cpu,
    /// A wgpu adapter, software ones too, whose name contains this.
    Wgpu(Option<String>),
}

/// How much KV cache to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCache {
    /// Eight full contexts, bounded by a share of the memory.
    Default,
    Bytes(u64),
    Tokens(u64),
}

/// A model to serve.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// What callers call it.
    pub name: String,
    /// A `.gguf` file, a `.safetensors` file or a folder in Hugging Face layout.
    pub path: PathBuf,
}

/// Bounds of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    pub tokens_per_step_max: usize,
    pub sequences_max: usize,
    pub waiting_max: usize,
    /// Whether equal beginnings of prompts share their keys and values. It lets a caller learn from the time its answer
    /// takes whether somebody else has asked the same.
    pub prefix_sharing: bool,
}

/// Bounds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub prompt_bytes_max: usize,
    pub embed_inputs_max: usize,
    pub embed_tokens_per_step_max: usize,
}

/// The worker's configuration, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub socket: PathBuf,
    pub models: Vec<ModelConfig>,
    pub device: DeviceChoice,
    /// Threads of the cpu device; `None`: one for each core this process may use.
    pub threads: Option<usize>,
    pub kv_cache: KvCache,
    pub engine: EngineConfig,
    pub limits: Limits,
    pub drain_seconds_max: u64,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    socket: PathBuf,
    models: Vec<ModelConfig>,
    device: Option<String>,
    threads: Option<usize>,
    kv_cache: Option<RawKvCache>,
    engine: Option<RawEngine>,
    limits: Option<RawLimits>,
    drain_seconds_max: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKvCache {
    bytes: Option<u64>,
    tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEngine {
    tokens_per_step_max: Option<usize>,
    sequences_max: Option<usize>,
    waiting_max: Option<usize>,
    prefix_sharing: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    prompt_bytes_max: Option<usize>,
    embed_inputs_max: Option<usize>,
    embed_tokens_per_step_max: Option<usize>,
}

impl Config {
    /// Reads and validates a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// The file cannot be read, is no such YAML, or contradicts itself: then every problem is listed.
    pub fn read(path: &Path) -> Result<Self, StartError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| StartError::ReadConfig { path: path.to_path_buf(), source })?;
        let mut config =
            Self::parse(&text).map_err(|problems| StartError::Config { path: path.to_path_buf(), problems })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.socket = folder.join(&config.socket);
        for model in &mut config.models {
            model.path = folder.join(&model.path);
        }
        Ok(config)
    }

    /// As [`Config::read`], from text; problems as `path.of.field: reason`.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let raw: Raw = serde_yaml_ng::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut problems = Problems::default();
        problems.socket(&raw.socket);
        problems.models(&raw.models);
        let device = problems.device(raw.device.as_deref().unwrap_or("auto"));
        if let Some(threads) = raw.threads {
            problems.range("threads", threads, 1, 1024);
        }
        let kv_cache = problems.kv_cache(raw.kv_cache.unwrap_or_default());
        let engine = problems.engine(raw.engine.unwrap_or_default());
        let limits = problems.limits(raw.limits.unwrap_or_default());
        if !problems.0.is_empty() {
            return Err(problems.0);
        }
        Ok(Config {
            socket: raw.socket,
            models: raw.models,
            device,
            threads: raw.threads,
            kv_cache,
            engine,
            limits,
            drain_seconds_max: raw.drain_seconds_max.unwrap_or(DRAIN_SECONDS_MAX),
        })
    }
}

/// What is wrong so far.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, path: &str, reason: &str) {
        self.0.push(format!("{path}: {reason}"));
    }

    fn range(&mut self, path: &str, value: usize, min: usize, max: usize) {
        if !(min..=max).contains(&value) {
            self.add(path, &format!("must be from {min} to {max}, is {value}"));
        }
    }

    fn socket(&mut self, socket: &Path) {
        let bytes = socket.as_os_str().len();
        if bytes == 0 {
            self.add("socket", "is empty; give the path of the Unix socket to serve on");
        } else if bytes > SOCKET_PATH_BYTES_MAX {
            self.add("socket", &format!("has {bytes} bytes; a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX}"));
        }
    }

    fn models(&mut self, models: &[ModelConfig]) {
        if models.is_empty() {
            self.add("models", "names no model; give at least one");
        }
        for (i, model) in models.iter().enumerate() {
            if model.name.trim().is_empty() {
                self.add(&format!("models[{i}].name"), "is empty");
            }
            if let Some(first) = models[..i].iter().position(|other| other.name == model.name) {
                self.add(&format!("models[{i}].name"), &format!("{:?} is models[{first}]'s name too", model.name));
            }
            if model.path.as_os_str().is_empty() {
                self.add(&format!("models[{i}].path"), "is empty");
            }
        }
    }

    fn kv_cache(&mut self, raw: RawKvCache) -> KvCache {
        let choice = match (raw.bytes, raw.tokens) {
            (None, None) => KvCache::Default,
            (Some(bytes), None) => KvCache::Bytes(bytes),
            (None, Some(tokens)) => KvCache::Tokens(tokens),
            (Some(_), Some(_)) => {
                self.add("kv_cache", "give bytes or tokens, not both");
                KvCache::Default
            }
        };
        if matches!(choice, KvCache::Bytes(0) | KvCache::Tokens(0)) {
            self.add("kv_cache", "0 holds no sequence; leave it out for the default");
        }
        choice
    }

    fn engine(&mut self, raw: RawEngine) -> EngineConfig {
        let engine = EngineConfig {
            tokens_per_step_max: raw.tokens_per_step_max.unwrap_or(TOKENS_PER_STEP_MAX),
            sequences_max: raw.sequences_max.unwrap_or(SEQUENCES_MAX),
            waiting_max: raw.waiting_max.unwrap_or(WAITING_MAX),
            prefix_sharing: raw.prefix_sharing.unwrap_or(true),
        };
        self.range("engine.tokens_per_step_max", engine.tokens_per_step_max, 1, 1 << 16);
        self.range("engine.sequences_max", engine.sequences_max, 1, 4096);
        self.range("engine.waiting_max", engine.waiting_max, 1, 1 << 20);
        if engine.sequences_max > engine.tokens_per_step_max {
            let tokens = engine.tokens_per_step_max;
            let reason = format!("above engine.tokens_per_step_max ({tokens}): not all could decode");
            self.add("engine.sequences_max", &reason);
        }
        engine
    }

    fn limits(&mut self, raw: RawLimits) -> Limits {
        let limits = Limits {
            prompt_bytes_max: raw.prompt_bytes_max.unwrap_or(PROMPT_BYTES_MAX),
            embed_inputs_max: raw.embed_inputs_max.unwrap_or(EMBED_INPUTS_MAX),
            embed_tokens_per_step_max: raw.embed_tokens_per_step_max.unwrap_or(EMBED_TOKENS_PER_STEP_MAX),
        };
        self.range("limits.prompt_bytes_max", limits.prompt_bytes_max, 1, 64 << 20);
        self.range("limits.embed_inputs_max", limits.embed_inputs_max, 1, 1 << 20);
        self.range("limits.embed_tokens_per_step_max", limits.embed_tokens_per_step_max, 1, 1 << 20);
        limits
    }

    fn device(&mut self, text: &str) -> DeviceChoice {
        match text.split_once(':') {
            None if text == "auto" => DeviceChoice::Auto,
            None if text == "cpu" => DeviceChoice::Cpu,
            None if text == "wgpu" => DeviceChoice::Wgpu(None),
            Some(("wgpu", adapter)) if !adapter.is_empty() => DeviceChoice::Wgpu(Some(adapter.to_string())),
            _ => {
                self.add("device", &format!("{text:?} is none of auto, cpu, wgpu, wgpu:<part of an adapter's name>"));
                DeviceChoice::Auto
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_short_file_enough() {
        let config = Config::parse("socket: w.sock\nmodels: [{name: m, path: m.gguf}]\n").expect("valid");
        assert_eq!(config.device, DeviceChoice::Auto);
        assert_eq!(config.kv_cache, KvCache::Default);
        assert_eq!(config.engine.sequences_max, SEQUENCES_MAX);
    }

    #[test]
    fn are_all_problems_told_at_once_with_their_paths() {
        let text = "socket: ''\ndevice: gpu\nthreads: 0\nkv_cache: {bytes: 1, tokens: 1}\n\
                    engine: {tokens_per_step_max: 2, sequences_max: 3}\n\
                    models: [{name: a, path: x}, {name: a, path: ''}]\n";
        let problems = Config::parse(text).expect_err("all of it is wrong");
        for path in
            ["socket", "device", "threads", "kv_cache", "engine.sequences_max", "models[1].name", "models[1].path"]
        {
            assert!(problems.iter().any(|p| p.starts_with(&format!("{path}: "))), "{path} in {problems:?}");
        }
    }

    #[test]
    fn is_an_unknown_field_refused_by_name() {
        let problems = Config::parse("socket: a\nmodels: []\nsokcet: b\n").expect_err("a typing error");
        assert!(problems[0].contains("sokcet"), "{problems:?}");
    }

    #[test]
    fn is_every_spelling_of_a_device_understood() {
        let device = |text: &str| {
            Config::parse(&format!("socket: s\nmodels: [{{name: m, path: p}}]\ndevice: '{text}'\n")).map(|c| c.device)
        };
        assert_eq!(device("cpu"), Ok(DeviceChoice::Cpu));
        assert_eq!(device("wgpu"), Ok(DeviceChoice::Wgpu(None)));
        assert_eq!(device("wgpu:llvmpipe"), Ok(DeviceChoice::Wgpu(Some("llvmpipe".into()))));
        for wrong in ["wgpu:", "cuda", "", "cpu:1"] {
            assert!(device(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn does_the_example_in_config_parse() {
        let text = include_str!("../../config/worker.yaml");
        Config::parse(text).expect("config/worker.yaml is valid");
    }
}
