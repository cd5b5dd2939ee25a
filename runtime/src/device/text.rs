//! Programs as text: one op a line, for goldens and for people. Never read back.

use std::fmt::{Display, Formatter, Result};

use super::program::{
    Activation, HeadShape, IndexId, KvId, Op, Pooling, Program, RealId, RopeStyle, ValueId, WeightId,
};

impl Display for ValueId {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "%{}", self.0)
    }
}

impl Display for IndexId {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "i{}", self.0)
    }
}

impl Display for RealId {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "r{}", self.0)
    }
}

impl Display for WeightId {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "w{}", self.0)
    }
}

impl Display for KvId {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "kv{}", self.0)
    }
}

impl Display for Activation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Activation::None => "none",
            Activation::GeluErf => "gelu_erf",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Silu => "silu",
            Activation::Relu => "relu",
            Activation::Tanh => "tanh",
        })
    }
}

impl Display for HeadShape {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "heads {}/{} of {}", self.heads, self.kv_heads, self.head_dim)
    }
}

/// `x`, or `x += add` where the op first adds.
fn added(x: ValueId, add: &Option<ValueId>) -> String {
    add.map_or_else(|| x.to_string(), |add| format!("{x} += {add}"))
}

impl Op {
    /// The value this op makes, if it makes one.
    pub fn out(&self) -> Option<ValueId> {
        match self {
            Op::Embed { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::LayerNorm { out, .. }
            | Op::Linear { out, .. }
            | Op::PagedAttention { out, .. }
            | Op::EncoderAttention { out, .. }
            | Op::GatedActivation { out, .. }
            | Op::Gather { out, .. }
            | Op::Pool { out, .. }
            | Op::L2Normalize { out, .. } => Some(*out),
            Op::RopeKv { .. } => None,
        }
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Op::Embed { table, ids, accumulate, .. } => {
                write!(f, "{}embed({table}, {ids})", if *accumulate { "+ " } else { "" })
            }
            Op::RmsNorm { x, add, weight, eps, .. } => {
                write!(f, "rms_norm({}, {weight}, eps {eps:e})", added(*x, add))
            }
            Op::LayerNorm { x, add, weight, bias, eps, .. } => {
                write!(f, "layer_norm({}, {weight}, {bias}, eps {eps:e})", added(*x, add))
            }
            Op::Linear { x, weight, bias, activation, .. } => {
                write!(f, "linear({x}, {weight}")?;
                if let Some(bias) = bias {
                    write!(f, ", {bias}")?;
                }
                if *activation != Activation::None {
                    write!(f, ", {activation}")?;
                }
                f.write_str(")")
            }
            Op::RopeKv { qkv, cos_sin, slots, kv, layer, heads, rope_dim, style } => {
                let style = match style {
                    RopeStyle::Interleaved => "interleaved",
                    RopeStyle::Halves => "halves",
                };
                write!(f, "rope_kv({qkv}, {cos_sin}, {slots}, {kv}[{layer}], {heads}, {style} {rope_dim})")
            }
            Op::PagedAttention {
                qkv, kv, layer, sequence, position, block_tables, table_width, heads, scale, ..
            } => write!(
                f,
                "paged_attention({qkv}, {kv}[{layer}], {sequence}, {position}, {block_tables} by {table_width}, {heads}, \
                 scale {scale})"
            ),
            Op::EncoderAttention { qkv, starts, heads, scale, .. } => {
                write!(f, "encoder_attention({qkv}, {starts}, {heads}, scale {scale})")
            }
            Op::GatedActivation { gate_up, activation, .. } => write!(f, "gated_activation({gate_up}, {activation})"),
            Op::Gather { x, rows, .. } => write!(f, "gather({x}, {rows})"),
            Op::Pool { x, starts, pooling, .. } => {
                let pooling = match pooling {
                    Pooling::Mean => "mean",
                    Pooling::Cls => "cls",
                    Pooling::Last => "last",
                };
                write!(f, "pool({x}, {starts}, {pooling})")
            }
            Op::L2Normalize { x, .. } => write!(f, "l2_normalize({x})"),
        }
    }
}

/// Inputs first (reals by length only: their values differ in the last bit between machines), then one op a line.
impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (i, input) in self.indices.iter().enumerate() {
            writeln!(f, "i{i} = {input:?}")?;
        }
        for (i, input) in self.reals.iter().enumerate() {
            writeln!(f, "r{i} = {} reals", input.len())?;
        }
        for op in &self.ops {
            match op.out() {
                Some(out) => {
                    let shape = self.shape(out);
                    writeln!(f, "{out} [{}, {}] = {op}", shape.rows, shape.cols)?;
                }
                None => writeln!(f, "{op}")?,
            }
        }
        let outputs: Vec<String> = self.outputs.iter().map(ToString::to_string).collect();
        writeln!(f, "-> {}", outputs.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::ProgramBuilder;
    use super::*;

    #[test]
    fn can_a_program_be_read() {
        let mut b = ProgramBuilder::new();
        let ids = b.indices(vec![3, 1]);
        let (x, y) = (b.value(2, 8), b.value(2, 4));
        b.push(Op::Embed { table: WeightId(0), ids, accumulate: false, out: x });
        b.push(Op::Embed { table: WeightId(1), ids, accumulate: true, out: x });
        let (weight, bias) = (WeightId(2), Some(WeightId(3)));
        b.push(Op::Linear { x, weight, bias, activation: Activation::GeluErf, out: y });
        b.output(y);
        assert_eq!(
            b.finish().to_string(),
            "i0 = [3, 1]\n%0 [2, 8] = embed(w0, i0)\n%0 [2, 8] = + embed(w1, i0)\n\
             %1 [2, 4] = linear(%0, w2, w3, gelu_erf)\n-> %1\n"
        );
    }
}
