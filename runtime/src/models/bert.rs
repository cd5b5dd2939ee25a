//! The BERT encoder, as sentence-transformers publishes it (MiniLM, BGE, E5 …), from safetensors and from GGUF.
//!
//! Post-LN: each sub-layer's output is added to its input, then normalised. Nothing is padded: a program's rows are
//! the rows of all sequences, end to end, and attention stays within each. Records programs; computes nothing.

use super::{Encoder, Facts, Model, ModelError, Normalize, Wanted, extent};
use crate::device::Device;
use crate::device::program::{Activation, HeadShape, IndexId, Op, Pooling, Program, ProgramBuilder, ValueId, WeightId};
use crate::layers::Parts;
use crate::weights::{Checkpoint, Parameters, SentenceEncoder};

/// transformers' default.
const LAYER_NORM_EPS: f32 = 1e-12;

/// Hyper-parameters of a BERT, checked.
#[derive(Clone, Debug)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    activation: Activation,
    heads: HeadShape,
}

impl Config {
    fn read(config: &Parameters) -> Result<Self, ModelError> {
        let (hidden_size, heads) = (extent(config, "hidden_size")?, extent(config, "num_attention_heads")?);
        if hidden_size % heads != 0 {
            let reason = format!("{hidden_size} is not a multiple of num_attention_heads, {heads}");
            return Err(config.refuse("hidden_size", reason).into());
        }
        let positions = config.optional_str("position_embedding_type")?.unwrap_or("absolute");
        if positions != "absolute" {
            let reason = format!("{positions:?} is not supported (supported: absolute)");
            return Err(config.refuse("position_embedding_type", reason).into());
        }
        Ok(Config {
            hidden_size,
            intermediate_size: extent(config, "intermediate_size")?,
            num_hidden_layers: extent(config, "num_hidden_layers")?,
            vocab_size: extent(config, "vocab_size")?,
            max_position_embeddings: extent(config, "max_position_embeddings")?,
            type_vocab_size: config.usize_or("type_vocab_size", 2)?,
            layer_norm_eps: config.f32_or("layer_norm_eps", LAYER_NORM_EPS)?,
            activation: super::activation(config, "gelu")?,
            heads: HeadShape { heads, kv_heads: heads, head_dim: hidden_size / heads },
        })
    }
}

#[derive(Clone, Copy)]
struct Linear {
    weight: WeightId,
    bias: Option<WeightId>,
}

#[derive(Clone, Copy)]
struct LayerNorm {
    weight: WeightId,
    bias: WeightId,
}

struct Layer {
    qkv: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
}

struct Bert {
    facts: Facts,
    config: Config,
    words: WeightId,
    positions: WeightId,
    types: WeightId,
    embedding_norm: LayerNorm,
    layers: Vec<Layer>,
    sentence: SentenceEncoder,
}

/// `"bert."` where the encoder was saved inside a larger model.
fn prefix(parts: &Parts<'_>) -> &'static str {
    if parts.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" }
}

/// Loads a BERT: packs its weights into the device.
///
/// # Errors
/// Hyper-parameters that contradict each other, a tensor missing or of another shape, a full device.
pub fn load(checkpoint: &Checkpoint, device: &dyn Device) -> Result<Model, ModelError> {
    let parts = Parts::new(checkpoint, device);
    let config = Config::read(checkpoint.config())?;
    let (prefix, hidden) = (prefix(&parts), config.hidden_size);
    let root = |gguf: &str, hf: &str| parts.name(gguf, &format!("{prefix}embeddings.{hf}")).to_string();
    let table = |gguf: &str, hf: &str, rows: usize| parts.pack(&[parts.matrix(&root(gguf, hf), rows, hidden)?]);
    let layers = (0..config.num_hidden_layers).map(|i| load_layer(&parts, prefix, &config, i));
    // Without files that say otherwise: the mean, as most sentence encoders.
    let sentence = checkpoint.sentence_encoder().unwrap_or(SentenceEncoder {
        pooling: Pooling::Mean,
        normalize: true,
        max_tokens: config.max_position_embeddings,
    });
    let max_tokens = sentence.max_tokens.clamp(1, config.max_position_embeddings);
    let bert = Bert {
        words: table("token_embd.weight", "word_embeddings.weight", config.vocab_size)?,
        positions: table("position_embd.weight", "position_embeddings.weight", config.max_position_embeddings)?,
        types: table("token_types.weight", "token_type_embeddings.weight", config.type_vocab_size)?,
        embedding_norm: layer_norm(&parts, &root("token_embd_norm", "LayerNorm"), hidden)?,
        layers: layers.collect::<Result<_, _>>()?,
        sentence: SentenceEncoder { max_tokens, ..sentence },
        facts: Facts {
            architecture: "bert",
            context_length: config.max_position_embeddings,
            vocabulary: config.vocab_size,
            hidden_size: hidden,
        },
        config,
    };
    Ok(Model::Encoder(Box::new(bert)))
}

fn layer_norm(parts: &Parts<'_>, name: &str, len: usize) -> Result<LayerNorm, ModelError> {
    let weight = parts.vector(&format!("{name}.weight"), len)?;
    Ok(LayerNorm { weight, bias: parts.vector(&format!("{name}.bias"), len)? })
}

fn load_layer(parts: &Parts<'_>, prefix: &str, config: &Config, i: usize) -> Result<Layer, ModelError> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let name = |gguf: &str, hf: &str| {
        parts.name(&format!("blk.{i}.{gguf}"), &format!("{prefix}encoder.layer.{i}.{hf}")).to_string()
    };
    let linear = |stack: &[(&str, &str)], rows: usize, cols: usize| -> Result<Linear, ModelError> {
        let stems: Vec<String> = stack.iter().map(|(gguf, hf)| name(gguf, hf)).collect();
        let views = stems.iter().map(|stem| parts.matrix(&format!("{stem}.weight"), rows, cols));
        let weight = parts.pack(&views.collect::<Result<Vec<_>, _>>()?)?;
        let biases: Vec<_> = stems.iter().map(|stem| (format!("{stem}.bias"), rows)).collect();
        Ok(Linear { weight, bias: parts.stacked_bias(&biases)? })
    };
    let norm = |gguf: &str, hf: &str| layer_norm(parts, &name(gguf, hf), hidden);
    Ok(Layer {
        qkv: linear(
            &[("attn_q", "attention.self.query"), ("attn_k", "attention.self.key"), ("attn_v", "attention.self.value")],
            hidden,
            hidden,
        )?,
        attention_out: linear(&[("attn_output", "attention.output.dense")], hidden, hidden)?,
        attention_norm: norm("attn_output_norm", "attention.output.LayerNorm")?,
        up: linear(&[("ffn_up", "intermediate.dense")], inner, hidden)?,
        down: linear(&[("ffn_down", "output.dense")], hidden, inner)?,
        output_norm: norm("layer_output_norm", "output.LayerNorm")?,
    })
}

impl Encoder for Bert {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn sentence(&self) -> &SentenceEncoder {
        &self.sentence
    }

    fn record(&self, sequences: &[&[u32]], wanted: Wanted) -> Program {
        let mut b = ProgramBuilder::new();
        let mut starts = vec![0u32];
        for sequence in sequences {
            starts.push(starts[starts.len() - 1] + sequence.len() as u32);
        }
        let ids = b.indices(sequences.concat());
        let position = b.indices(sequences.iter().flat_map(|s| 0..s.len() as u32).collect());
        let starts = b.indices(starts);
        let hidden = self.record_layers(&mut b, (ids, position, starts));
        if wanted.hidden {
            b.output(hidden);
        }
        if let Some(normalize) = wanted.sentence {
            let pooled = b.value(sequences.len(), self.config.hidden_size);
            b.push(Op::Pool { x: hidden, starts, pooling: self.sentence.pooling, out: pooled });
            if normalize == Normalize::Yes {
                let unit = b.value(sequences.len(), self.config.hidden_size);
                b.push(Op::L2Normalize { x: pooled, out: unit });
                b.output(unit);
            } else {
                b.output(pooled);
            }
        }
        b.finish()
    }
}

impl Bert {
    /// Embeddings and all layers; gives the last hidden state, a row for each token.
    fn record_layers(&self, b: &mut ProgramBuilder, (ids, position, starts): (IndexId, IndexId, IndexId)) -> ValueId {
        let m = b.index_len(ids);
        let zeros = b.indices(vec![0; m]);
        let (eps, none) = (self.config.layer_norm_eps, Activation::None);
        let hidden_size = self.config.hidden_size;
        // Two values take turns as the sub-layers' input: each norm reads one and writes the other.
        let x = b.value(m, hidden_size);
        let y = b.value(m, hidden_size);
        let qkv = b.value(m, 3 * hidden_size);
        let attended = b.value(m, hidden_size);
        let projected = b.value(m, hidden_size);
        let inner = b.value(m, self.config.intermediate_size);
        let norm = |x, add, w: LayerNorm, out| Op::LayerNorm { x, add, weight: w.weight, bias: w.bias, eps, out };
        let linear = |x, w: Linear, activation, out| Op::Linear { x, weight: w.weight, bias: w.bias, activation, out };

        b.push(Op::Embed { table: self.words, ids, accumulate: false, out: y });
        b.push(Op::Embed { table: self.positions, ids: position, accumulate: true, out: y });
        b.push(Op::Embed { table: self.types, ids: zeros, accumulate: true, out: y });
        b.push(norm(y, None, self.embedding_norm, x));
        for w in &self.layers {
            b.push(linear(x, w.qkv, none, qkv));
            let scale = 1.0 / (self.config.heads.head_dim as f32).sqrt();
            b.push(Op::EncoderAttention { qkv, starts, heads: self.config.heads, scale, out: attended });
            b.push(linear(attended, w.attention_out, none, projected));
            b.push(norm(x, Some(projected), w.attention_norm, y));
            b.push(linear(y, w.up, self.config.activation, inner));
            b.push(linear(inner, w.down, none, projected));
            b.push(norm(y, Some(projected), w.output_norm, x));
        }
        x
    }
}
