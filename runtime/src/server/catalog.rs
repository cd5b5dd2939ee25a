//! The models that are served, and how they are loaded: weights and tokenizers side by side.

use std::sync::Arc;

use outrider_protos::worker::v1 as wire;
use tonic::Status;

use super::lifecycle::{Lifecycle, Progress};
use super::{infer, service, status};
use crate::config::{Config, ModelConfig};
use crate::device::select::{self, Opened};
use crate::device::{Device, DeviceError, KvId, KvShape, Program, WeightId};
use crate::engine::{self, Engine, EngineConfig, EngineHandle};
use crate::error::{LoadError, StartError};
use crate::executor::{self, EncoderHandle, Executor, Prober};
use crate::models::{self, Encoder, Generator, Model};
use crate::tokenizer::{ChatTemplate, Tokenizer, TokenizerError, Vocabulary};
use crate::weights::{Checkpoint, TensorView};

/// Embed and Infer calls that may wait for the encoder's thread.
const ENCODER_WAITING_MAX: usize = 1024;

/// All models, in the order of the configuration.
pub struct Catalog(Vec<Arc<Served>>);

/// A model that is served.
pub struct Served {
    pub info: wire::Model,
    pub vocabulary: usize,
    tokenizer: Option<Arc<Tokenizer>>,
    pub template: Option<ChatTemplate>,
    pub work: Work,
}

/// What it does, and through whom.
pub enum Work {
    Generate { engine: EngineHandle, prober: Arc<Prober> },
    Encode { encoder: EncoderHandle, model: Arc<dyn Encoder> },
}

impl Catalog {
    pub fn all(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.0.iter()
    }

    pub fn engines(&self) -> impl Iterator<Item = &EngineHandle> {
        self.0.iter().filter_map(|served| match &served.work {
            Work::Generate { engine, .. } => Some(engine),
            Work::Encode { .. } => None,
        })
    }
}

impl Served {
    /// # Errors
    /// FAILED_PRECONDITION: the checkpoint has no tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Status> {
        self.tokenizer.as_deref().ok_or_else(|| status::tokenizer(TokenizerError::Absent))
    }
}

/// Loads everything; tells the lifecycle how it went.
pub fn load(config: &Config, lifecycle: &Arc<Lifecycle>) {
    let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| load_all(config, lifecycle)));
    match loaded {
        Ok(Ok(catalog)) => {
            tracing::info!(models = catalog.0.len(), "serving");
            lifecycle.loaded(catalog);
        }
        Ok(Err(error)) => lifecycle.failed(error),
        Err(_) => lifecycle.failed(StartError::Fault("loading panicked".to_string())),
    }
}

fn load_all(config: &Config, lifecycle: &Arc<Lifecycle>) -> Result<Catalog, StartError> {
    let opened = select::open(&config.device, config.threads)?;
    tracing::info!(device = opened.device.name(), "device");
    let load = |model: &ModelConfig| {
        Loader { config, lifecycle, opened: &opened, model }
            .load()
            .map_err(|source| StartError::Load { name: model.name.clone(), source: Box::new(source) })
    };
    let served = config.models.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    Ok(Catalog(served.into_iter().map(Arc::new).collect()))
}

/// One model on its way.
struct Loader<'a> {
    config: &'a Config,
    lifecycle: &'a Arc<Lifecycle>,
    opened: &'a Opened,
    model: &'a ModelConfig,
}

impl Loader<'_> {
    fn load(&self) -> Result<Served, LoadError> {
        let checkpoint = Checkpoint::open(&self.model.path)?;
        self.lifecycle.progress.stage("weights");
        self.lifecycle.progress.expect(checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum());
        let bytes_before = self.opened.device.weight_bytes();
        let (model, tokenizer) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| tokenizer(&checkpoint));
            let counting = Counting { device: &*self.opened.device, progress: &self.lifecycle.progress };
            let model = models::load(&checkpoint, &counting);
            (model, tokenizer.join())
        });
        let model = model?;
        let tokenizer = tokenizer.map_err(|_| LoadError::Panic("reading the tokenizer".to_string()))??;
        let template = match ChatTemplate::from_checkpoint(&checkpoint) {
            Ok(template) => Some(template),
            Err(TokenizerError::NoTemplate) => None,
            Err(error) => return Err(error.into()),
        };
        let facts = model.facts().clone();
        let mut info = wire::Model {
            name: self.model.name.clone(),
            architecture: facts.architecture.to_string(),
            context_length: facts.context_length as u32,
            parameters: checkpoint.parameter_count(),
            weight_bytes: self.opened.device.weight_bytes() - bytes_before,
            quantization: checkpoint.quantization().to_string(),
            device: self.opened.device.name(),
            ..Default::default()
        };
        let work = match model {
            Model::Generator(model) => self.generator(Arc::from(model), (&checkpoint, &tokenizer), &mut info)?,
            Model::Encoder(model) => self.encoder(Arc::from(model), &mut info)?,
        };
        (info.infer_inputs, info.infer_outputs) = infer::signature(&work, facts.vocabulary, facts.hidden_size);
        tracing::info!(model = info.name, parameters = info.parameters, quantization = info.quantization, "loaded");
        Ok(Served { info, vocabulary: facts.vocabulary, tokenizer, template, work })
    }

    fn generator(
        &self,
        model: Arc<dyn Generator>,
        (checkpoint, tokenizer): (&Checkpoint, &Option<Arc<Tokenizer>>),
        info: &mut wire::Model,
    ) -> Result<Work, LoadError> {
        let device = &self.opened.device;
        let (facts, config) = (model.facts().clone(), &self.config.engine);
        let blocks = executor::kv_blocks(self.config.kv_cache, model.kv(), facts.context_length, memory_bytes());
        let kv = device.allocate_kv(executor::kv_shape(model.kv(), blocks)).map_err(LoadError::KvCache)?;
        info.tasks = vec![wire::Task::Generate.into(), wire::Task::Infer.into()];
        info.kv_capacity_tokens = (blocks * executor::BLOCK_TOKENS) as u64;
        let prober = Prober::new(Arc::clone(device), Arc::clone(&model), service::OUTPUT_BYTES_MAX);
        if self.opened.compiles {
            self.lifecycle.progress.stage("warming");
            prober.logits(&[0]).map_err(LoadError::Warm)?;
        }
        let ends = checkpoint.special_tokens().end_of_generation.clone();
        let engine = Engine::new(
            EngineConfig {
                block_tokens: executor::BLOCK_TOKENS,
                tokens_per_step_max: config.tokens_per_step_max,
                sequences_max: config.sequences_max,
                waiting_max: config.waiting_max,
                prefix_sharing: config.prefix_sharing,
                seed: random_seed(),
                ..EngineConfig::new(facts.context_length, blocks, ends)
            },
            Arc::new(ModelVocabulary { tokenizer: tokenizer.clone(), len: facts.vocabulary }),
        );
        let executor = Box::new(Executor::new(Arc::clone(device), model, kv));
        let start = std::time::Instant::now();
        let clock = Box::new(move || start.elapsed().as_secs_f64());
        let (handle, thread) = engine::drive(engine, executor, clock).map_err(LoadError::Thread)?;
        let lifecycle = Arc::clone(self.lifecycle);
        let name = self.model.name.clone();
        spawn("watch", move || {
            if thread.join().is_err() {
                lifecycle.failed(StartError::Fault(format!("the engine of {name:?} panicked")));
            }
        })?;
        Ok(Work::Generate { engine: handle, prober: Arc::new(prober) })
    }

    fn encoder(&self, model: Arc<dyn Encoder>, info: &mut wire::Model) -> Result<Work, LoadError> {
        let device = Arc::clone(&self.opened.device);
        info.tasks = vec![wire::Task::Embed.into(), wire::Task::Infer.into()];
        info.embedding_dimensions = model.facts().hidden_size as u32;
        info.context_length = model.sentence().max_tokens as u32;
        if self.opened.compiles {
            self.lifecycle.progress.stage("warming");
            device.run(&model.record(&[&[0]], executor::sentence(true))).map_err(LoadError::Warm)?;
        }
        let tokens_max = self.config.limits.embed_tokens_per_step_max;
        let (encoder, run) = executor::encoder(device, Arc::clone(&model), tokens_max, ENCODER_WAITING_MAX);
        let lifecycle = Arc::clone(self.lifecycle);
        let name = self.model.name.clone();
        spawn("encoder", move || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.run())).is_err() {
                lifecycle.failed(StartError::Fault(format!("the encoder of {name:?} panicked")));
            }
        })?;
        Ok(Work::Encode { encoder, model })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), LoadError> {
    std::thread::Builder::new().name(name.to_string()).spawn(work).map(drop).map_err(LoadError::Thread)
}

/// A checkpoint without a tokenizer serves token ids and tensors.
fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Arc<Tokenizer>>, TokenizerError> {
    match Tokenizer::from_checkpoint(checkpoint) {
        Ok(tokenizer) => Ok(Some(Arc::new(tokenizer))),
        Err(TokenizerError::Absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The ids a model knows: more than the tokenizer's where an embedding is padded.
struct ModelVocabulary {
    tokenizer: Option<Arc<Tokenizer>>,
    len: usize,
}

impl Vocabulary for ModelVocabulary {
    fn len(&self) -> usize {
        self.len
    }

    fn token_bytes(&self, id: u32) -> &[u8] {
        match &self.tokenizer {
            Some(tokenizer) if (id as usize) < tokenizer.len() => tokenizer.token_bytes(id),
            _ => &[],
        }
    }
}

/// Counts the bytes that a device packs, so that Lifecycle can tell how far loading is.
struct Counting<'a> {
    device: &'a dyn Device,
    progress: &'a Progress,
}

impl Device for Counting<'_> {
    fn name(&self) -> String {
        self.device.name()
    }

    fn pack(&self, parts: &[TensorView<'_>]) -> Result<WeightId, DeviceError> {
        let packed = self.device.pack(parts)?;
        self.progress.packed(parts.iter().map(|part| part.bytes.len() as u64).sum());
        Ok(packed)
    }

    fn allocate_kv(&self, shape: KvShape) -> Result<KvId, DeviceError> {
        self.device.allocate_kv(shape)
    }

    fn run(&self, program: &Program) -> Result<Vec<Vec<f32>>, DeviceError> {
        self.device.run(program)
    }

    fn weight_bytes(&self) -> u64 {
        self.device.weight_bytes()
    }
}

/// Memory of the machine, or of the control group where that is less.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(group.map_or(total, |group: u64| group.min(total)))
}

/// From the process's hash keys, which the standard library draws from the system.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
