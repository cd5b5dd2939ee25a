//! The Llama architecture (Llama 1 to 3, SmolLM, TinyLlama …), from GGUF and from Hugging Face safetensors.
//!
//! Hyper-parameters are spelled as in config.json. Records programs; computes nothing but cosines and sines.

use super::{Facts, Generator, KvNeed, Model, ModelError, extent};
use crate::device::Device;
use crate::device::program::{
    Activation, HeadShape, IndexId, KvId, Op, Program, ProgramBuilder, RealId, RopeStyle, ValueId, WeightId,
};
use crate::engine::Batch;
use crate::layers::{Parts, RopeScaling, Rotary, rope_scaling};
use crate::weights::{Checkpoint, Naming, Parameters};

/// transformers' defaults.
const ROPE_THETA: f32 = 10_000.0;
const RMS_NORM_EPS: f32 = 1e-6;

/// Hyper-parameters of a Llama, checked.
#[derive(Clone, Debug)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: f32,
    /// Elements of a head that are rotated.
    rope_dim: usize,
    activation: Activation,
    heads: HeadShape,
}

impl Config {
    fn read(config: &Parameters) -> Result<Self, ModelError> {
        let heads = HeadShape {
            heads: extent(config, "num_attention_heads")?,
            kv_heads: extent(config, "num_key_value_heads")?,
            head_dim: extent(config, "head_dim")?,
        };
        if !heads.heads.is_multiple_of(heads.kv_heads) {
            let reason = format!("must divide num_attention_heads, {}; is {}", heads.heads, heads.kv_heads);
            return Err(config.refuse("num_key_value_heads", reason).into());
        }
        for key in ["num_local_experts", "quantization_config"] {
            if config.contains(key) {
                return Err(config.refuse(key, "is not supported for this architecture").into());
            }
        }
        let partial = match config.section("rope_scaling")? {
            Some(rope) => rope.f32_or("partial_rotary_factor", 1.0)?,
            None => 1.0,
        };
        let rope_dim = config.usize_or("rope_dim", (heads.head_dim as f32 * partial) as usize)?;
        if rope_dim == 0 || rope_dim % 2 != 0 || rope_dim > heads.head_dim {
            let reason = format!("must be even and at most head_dim, {}; is {rope_dim}", heads.head_dim);
            return Err(config.refuse("rope_dim", reason).into());
        }
        let rope_theta = config.f32_or("rope_theta", ROPE_THETA)?;
        if rope_theta <= 1.0 {
            return Err(config.refuse("rope_theta", format!("must be above 1, is {rope_theta}")).into());
        }
        Ok(Config {
            hidden_size: extent(config, "hidden_size")?,
            intermediate_size: extent(config, "intermediate_size")?,
            num_hidden_layers: extent(config, "num_hidden_layers")?,
            vocab_size: extent(config, "vocab_size")?,
            max_position_embeddings: extent(config, "max_position_embeddings")?,
            rms_norm_eps: config.f32_or("rms_norm_eps", RMS_NORM_EPS)?,
            rope_theta,
            rope_dim,
            activation: super::activation(config, "silu")?,
            heads,
        })
    }
}

struct Layer {
    attention_norm: WeightId,
    qkv: WeightId,
    qkv_bias: Option<WeightId>,
    attention_out: WeightId,
    attention_out_bias: Option<WeightId>,
    mlp_norm: WeightId,
    gate_up: WeightId,
    gate_up_bias: Option<WeightId>,
    down: WeightId,
    down_bias: Option<WeightId>,
}

struct Llama {
    facts: Facts,
    config: Config,
    style: RopeStyle,
    rotary: Rotary,
    embedding: WeightId,
    layers: Vec<Layer>,
    final_norm: WeightId,
    head: WeightId,
}

/// Loads a Llama: packs its weights into the device.
///
/// # Errors
/// Hyper-parameters that contradict each other, a tensor missing or of another shape, a full device.
pub fn load(checkpoint: &Checkpoint, device: &dyn Device) -> Result<Model, ModelError> {
    let parts = Parts::new(checkpoint, device);
    let config = Config::read(checkpoint.config())?;
    let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);

    // GGUF has Llama 3's scaling as a tensor of divisors.
    let scaling = match parts.reals("rope_freqs.weight", config.rope_dim / 2)? {
        Some(factors) => RopeScaling::Factors(factors),
        None => rope_scaling(checkpoint.config())?,
    };
    let rotary = Rotary::new(config.rope_theta, config.rope_dim, &scaling, config.max_position_embeddings);
    let embedding_name = parts.name("token_embd.weight", "model.embed_tokens.weight");
    let embedding = parts.pack(&[parts.matrix(embedding_name, vocabulary, hidden)?])?;
    let head_name = parts.name("output.weight", "lm_head.weight");
    // `tie_word_embeddings` goes before a head in the file: some checkpoints hold a copy.
    let tied = checkpoint.config().bool_or("tie_word_embeddings", false)?;
    let head = match parts.optional_matrix(head_name, vocabulary, hidden)? {
        Some(own) if !tied => parts.pack(&[own])?,
        _ => embedding,
    };
    let layers = (0..config.num_hidden_layers).map(|i| load_layer(&parts, &config, i)).collect::<Result<_, _>>()?;
    let facts = Facts {
        architecture: "llama",
        context_length: config.max_position_embeddings,
        vocabulary,
        hidden_size: hidden,
    };
    Ok(Model::Generator(Box::new(Llama {
        facts,
        style: match checkpoint.naming() {
            Naming::Gguf => RopeStyle::Interleaved,
            Naming::HuggingFace => RopeStyle::Halves,
        },
        rotary,
        embedding,
        layers,
        final_norm: parts.vector(parts.name("output_norm.weight", "model.norm.weight"), hidden)?,
        head,
        config,
    })))
}

fn load_layer(parts: &Parts<'_>, config: &Config, i: usize) -> Result<Layer, ModelError> {
    let (hidden, inner, heads) = (config.hidden_size, config.intermediate_size, config.heads);
    let (q, kv) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    let name = |gguf: &str, hf: &str, kind: &str| {
        let (prefix, name) = (parts.name("blk", "model.layers"), parts.name(gguf, hf));
        format!("{prefix}.{i}.{name}.{kind}")
    };
    // One linear layer: the names of its stacked parts and their output features.
    let linear = |stack: &[(&str, &str, usize)], cols: usize| -> Result<(WeightId, Option<WeightId>), ModelError> {
        let views = stack.iter().map(|(g, h, rows)| parts.matrix(&name(g, h, "weight"), *rows, cols));
        let weight = parts.pack(&views.collect::<Result<Vec<_>, _>>()?)?;
        let biases: Vec<_> = stack.iter().map(|(g, h, rows)| (name(g, h, "bias"), *rows)).collect();
        Ok((weight, parts.stacked_bias(&biases)?))
    };
    let norm = |g: &str, h: &str| parts.vector(&name(g, h, "weight"), hidden);

    let (qkv, qkv_bias) = linear(
        &[("attn_q", "self_attn.q_proj", q), ("attn_k", "self_attn.k_proj", kv), ("attn_v", "self_attn.v_proj", kv)],
        hidden,
    )?;
    let (attention_out, attention_out_bias) = linear(&[("attn_output", "self_attn.o_proj", hidden)], q)?;
    let (gate_up, gate_up_bias) =
        linear(&[("ffn_gate", "mlp.gate_proj", inner), ("ffn_up", "mlp.up_proj", inner)], hidden)?;
    let (down, down_bias) = linear(&[("ffn_down", "mlp.down_proj", hidden)], inner)?;
    Ok(Layer {
        attention_norm: norm("attn_norm", "input_layernorm")?,
        qkv,
        qkv_bias,
        attention_out,
        attention_out_bias,
        mlp_norm: norm("ffn_norm", "post_attention_layernorm")?,
        gate_up,
        gate_up_bias,
        down,
        down_bias,
    })
}

impl Generator for Llama {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn kv(&self) -> KvNeed {
        KvNeed { layers: self.layers.len(), kv_heads: self.config.heads.kv_heads, head_dim: self.config.heads.head_dim }
    }

    fn record(&self, batch: &Batch, kv: KvId) -> Program {
        let HeadShape { heads, kv_heads, head_dim } = self.config.heads;
        let m = batch.ids.len();
        let mut b = ProgramBuilder::new();
        let ids = b.indices(batch.ids.clone());
        let position = b.indices(batch.positions.clone());
        let sequence = b.indices(batch.sequence.clone());
        let slots = b.indices(batch.slots.clone());
        let block_tables = b.indices(batch.block_tables.clone());
        let cos_sin = b.reals(self.rotary.cos_sin(&batch.positions));

        let inputs = Inputs { position, sequence, slots, block_tables, table_width: batch.table_width, cos_sin, kv };
        // Every layer uses the same values again: a device holds one layer's worth of them, not all.
        let hidden = self.config.hidden_size;
        let v = Values {
            x: b.value(m, hidden),
            normed: b.value(m, hidden),
            qkv: b.value(m, (heads + 2 * kv_heads) * head_dim),
            attended: b.value(m, heads * head_dim),
            projected: b.value(m, hidden),
            gate_up: b.value(m, 2 * self.config.intermediate_size),
            gated: b.value(m, self.config.intermediate_size),
        };
        b.push(Op::Embed { table: self.embedding, ids, accumulate: false, out: v.x });
        for layer in 0..self.layers.len() {
            self.record_layer(&mut b, &inputs, &v, layer);
        }
        if !batch.logit_rows.is_empty() {
            self.record_head(&mut b, &v, &batch.logit_rows);
        }
        b.finish()
    }
}

/// A program's inputs.
struct Inputs {
    position: IndexId,
    sequence: IndexId,
    slots: IndexId,
    block_tables: IndexId,
    table_width: usize,
    cos_sin: RealId,
    kv: KvId,
}

/// Values that every layer writes anew; `x` alone lives through all of them.
struct Values {
    x: ValueId,
    normed: ValueId,
    qkv: ValueId,
    attended: ValueId,
    /// What the sub-layer before gave: the next norm adds it to `x`.
    projected: ValueId,
    gate_up: ValueId,
    gated: ValueId,
}

impl Llama {
    fn record_layer(&self, b: &mut ProgramBuilder, inputs: &Inputs, v: &Values, layer: usize) {
        let (w, heads, eps) = (&self.layers[layer], self.config.heads, self.config.rms_norm_eps);
        let linear = |x, weight, bias, out| Op::Linear { x, weight, bias, activation: Activation::None, out };
        let add = (layer > 0).then_some(v.projected);
        b.push(Op::RmsNorm { x: v.x, add, weight: w.attention_norm, eps, out: v.normed });
        b.push(linear(v.normed, w.qkv, w.qkv_bias, v.qkv));
        b.push(Op::RopeKv {
            qkv: v.qkv,
            cos_sin: inputs.cos_sin,
            slots: inputs.slots,
            kv: inputs.kv,
            layer,
            heads,
            rope_dim: self.rotary.dim(),
            style: self.style,
        });
        b.push(Op::PagedAttention {
            qkv: v.qkv,
            kv: inputs.kv,
            layer,
            sequence: inputs.sequence,
            position: inputs.position,
            block_tables: inputs.block_tables,
            table_width: inputs.table_width,
            heads,
            scale: 1.0 / (heads.head_dim as f32).sqrt(),
            out: v.attended,
        });
        b.push(linear(v.attended, w.attention_out, w.attention_out_bias, v.projected));
        b.push(Op::RmsNorm { x: v.x, add: Some(v.projected), weight: w.mlp_norm, eps, out: v.normed });
        b.push(linear(v.normed, w.gate_up, w.gate_up_bias, v.gate_up));
        b.push(Op::GatedActivation { gate_up: v.gate_up, activation: self.config.activation, out: v.gated });
        b.push(linear(v.gated, w.down, w.down_bias, v.projected));
    }

    /// Final norm and head, for the rows whose logits are wanted: the head is the largest matrix of a small model.
    fn record_head(&self, b: &mut ProgramBuilder, v: &Values, rows: &[u32]) {
        let (add, normed) = (Some(v.projected), v.normed);
        b.push(Op::RmsNorm { x: v.x, add, weight: self.final_norm, eps: self.config.rms_norm_eps, out: normed });
        let index = b.indices(rows.to_vec());
        let wanted = b.value(rows.len(), self.config.hidden_size);
        let logits = b.value(rows.len(), self.config.vocab_size);
        b.push(Op::Gather { x: normed, rows: index, out: wanted });
        b.push(Op::Linear { x: wanted, weight: self.head, bias: None, activation: Activation::None, out: logits });
        b.output(logits);
    }
}
