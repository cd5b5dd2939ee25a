//! A forward pass as data: values, inputs and a list of fused ops. Recording one computes nothing.
//!
//! The same program runs on every device and can be printed and read (`Display`), which is how models are tested
//! without a device. All values are f32 matrices `[rows, cols]`; ids are plain indices into the program's tables.

/// A value a program computes: index into [`Program::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueId(pub u32);
/// An input of unsigned integers: index into [`Program::indices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexId(pub u32);
/// An input of reals: index into [`Program::reals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealId(pub u32);
/// A weight packed by a device; means something to that device only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub u32);
/// A KV cache allocated by a device; means something to that device only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvId(pub u32);

/// Extents of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
}

/// Applied to each output of a linear layer, after the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    None,
    /// x · Φ(x), with the error function (BERT's `gelu`).
    GeluErf,
    /// The hyperbolic-tangent approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    Silu,
    Relu,
    Tanh,
}

/// How a pooled row is made of a sequence's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over the rows.
    Mean,
    /// The first row.
    Cls,
    /// The last row.
    Last,
}

/// How rotary embedding pairs the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Elements 2i and 2i + 1 (GGUF's permuted llama weights).
    Interleaved,
    /// Elements i and i + rope_dim / 2 (Hugging Face checkpoints).
    Halves,
}

/// One fused op. `m` is the number of rows of the values it works on.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `out[r] = table[ids[r]]`, or `out[r] += …` with `accumulate`.
    Embed { table: WeightId, ids: IndexId, accumulate: bool, out: ValueId },

    /// With `add`: first `x += add`, kept in `x`. Then `out = x / sqrt(mean(x²) + eps) · weight`, by row.
    RmsNorm { x: ValueId, add: Option<ValueId>, weight: WeightId, eps: f32, out: ValueId },

    /// With `add`: first `x += add`, kept in `x`. Then `out = (x − mean) / sqrt(var + eps) · weight + bias`, by row.
    LayerNorm { x: ValueId, add: Option<ValueId>, weight: WeightId, bias: WeightId, eps: f32, out: ValueId },

    /// `out = activation(x · weightᵀ + bias)`: `x [m, cols]`, `weight [rows, cols]`, `out [m, rows]`.
    Linear { x: ValueId, weight: WeightId, bias: Option<WeightId>, activation: Activation, out: ValueId },

    /// Rotates q and k and stores k and v.
    ///
    /// `qkv [m, (heads + 2 · kv_heads) · head_dim]` holds q, then k, then v; q and k are rotated in place.
    /// `cos_sin` is `[m, rope_dim]`: the cosines of `rope_dim / 2` angles, then their sines. Elements of a head from
    /// `rope_dim` on are not rotated. Row r's rotated k and its v go to slot `slots[r]` of `layer`.
    RopeKv {
        qkv: ValueId,
        cos_sin: RealId,
        slots: IndexId,
        kv: KvId,
        layer: usize,
        heads: HeadShape,
        rope_dim: usize,
        style: RopeStyle,
    },

    /// Causal attention over the paged cache, by row; it sees what `RopeKv` of the same program has stored.
    ///
    /// Row r belongs to sequence `sequence[r]` and attends to that sequence's positions `0 ..= position[r]`, whose
    /// slots are in blocks `block_tables[sequence[r] · table_width + position / block_tokens]`.
    /// q is the first `heads · head_dim` columns of `qkv`; query head h reads kv head `h / (heads / kv_heads)`.
    /// `out [m, heads · head_dim]`.
    PagedAttention {
        qkv: ValueId,
        kv: KvId,
        layer: usize,
        sequence: IndexId,
        position: IndexId,
        block_tables: IndexId,
        table_width: usize,
        heads: HeadShape,
        scale: f32,
        out: ValueId,
    },

    /// Bidirectional attention within each sequence, without a cache: sequence s is rows `starts[s] .. starts[s + 1]`.
    /// `qkv [m, 3 · heads · head_dim]`, `out [m, heads · head_dim]`; `kv_heads == heads`.
    EncoderAttention { qkv: ValueId, starts: IndexId, heads: HeadShape, scale: f32, out: ValueId },

    /// `out = activation(gate) · up`: `gate_up [m, 2 · n]` holds gate, then up; `out [m, n]`.
    GatedActivation { gate_up: ValueId, activation: Activation, out: ValueId },

    /// `out[i] = x[rows[i]]`.
    Gather { x: ValueId, rows: IndexId, out: ValueId },

    /// One row for each sequence: sequence s is rows `starts[s] .. starts[s + 1]` (never empty).
    Pool { x: ValueId, starts: IndexId, pooling: Pooling, out: ValueId },

    /// `out = x / max(‖x‖₂, 1e-12)`, by row.
    L2Normalize { x: ValueId, out: ValueId },
}

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// A recorded forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Shapes of all values. A value is written by an op before any op reads it.
    pub values: Vec<Shape>,
    pub indices: Vec<Vec<u32>>,
    pub reals: Vec<Vec<f32>>,
    pub ops: Vec<Op>,
    /// Values handed back to the caller.
    pub outputs: Vec<ValueId>,
}

impl Program {
    /// Extents of a value.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.values[value.0 as usize]
    }
}

/// Records a program.
#[derive(Debug, Default)]
pub struct ProgramBuilder {
    program: Program,
}

impl ProgramBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// A new value, written by no op yet.
    pub fn value(&mut self, rows: usize, cols: usize) -> ValueId {
        self.program.values.push(Shape { rows, cols });
        ValueId(self.program.values.len() as u32 - 1)
    }

    pub fn indices(&mut self, input: Vec<u32>) -> IndexId {
        self.program.indices.push(input);
        IndexId(self.program.indices.len() as u32 - 1)
    }

    pub fn reals(&mut self, input: Vec<f32>) -> RealId {
        self.program.reals.push(input);
        RealId(self.program.reals.len() as u32 - 1)
    }

    pub fn rows(&self, value: ValueId) -> usize {
        self.program.shape(value).rows
    }

    /// Elements of an input.
    pub fn index_len(&self, input: IndexId) -> usize {
        self.program.indices[input.0 as usize].len()
    }

    pub fn push(&mut self, op: Op) {
        self.program.ops.push(op);
    }

    pub fn output(&mut self, value: ValueId) {
        self.program.outputs.push(value);
    }

    pub fn finish(self) -> Program {
        self.program
    }
}
