//! Does a program fit its weights, caches and inputs? Asked once before a run, so that kernels need not ask.
//!
//! After [`check`] has passed, every id, shape and index a kernel follows is in range; devices rely on it for
//! their unsafe code. Never looks at weights' or values' numbers.

use super::program::{HeadShape, IndexId, KvId, Op, Program, Shape, ValueId, WeightId};
use super::{DeviceError, KvShape};

/// What a device holds, as far as a check needs to know.
pub trait Holdings {
    /// Extents of a packed weight, all its parts stacked.
    fn weight(&self, id: WeightId) -> Option<Shape>;
    /// Shape of an allocated cache.
    fn kv(&self, id: KvId) -> Option<KvShape>;
}

/// Checks every op of a program; the error names the first that cannot run.
pub fn check(program: &Program, holdings: &dyn Holdings) -> Result<(), DeviceError> {
    let mut checker = Checker { program, holdings, written: vec![false; program.values.len()] };
    for (index, op) in program.ops.iter().enumerate() {
        checker.op(op).map_err(|reason| DeviceError::Program { op: index, reason })?;
    }
    for output in &program.outputs {
        checker.read(*output).map_err(|reason| DeviceError::Program { op: program.ops.len(), reason })?;
    }
    Ok(())
}

type Checked<T = ()> = Result<T, String>;

struct Checker<'a> {
    program: &'a Program,
    holdings: &'a dyn Holdings,
    written: Vec<bool>,
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(reason()) }
}

fn same(what: &str, found: usize, wanted: usize) -> Checked {
    ensure(found == wanted, || format!("{what} is {found}, not {wanted}"))
}

impl Checker<'_> {
    fn shape(&self, id: ValueId) -> Checked<Shape> {
        self.program.values.get(id.0 as usize).copied().ok_or_else(|| format!("there is no value {}", id.0))
    }

    fn read(&self, id: ValueId) -> Checked<Shape> {
        let shape = self.shape(id)?;
        ensure(self.written[id.0 as usize], || format!("value {} is read before it is written", id.0))?;
        Ok(shape)
    }

    /// An output of `rows × cols` that is none of the inputs.
    fn write(&mut self, id: ValueId, rows: usize, cols: usize, inputs: &[ValueId]) -> Checked {
        let shape = self.shape(id)?;
        same("rows of the output", shape.rows, rows)?;
        same("columns of the output", shape.cols, cols)?;
        ensure(!inputs.contains(&id), || format!("value {} is both input and output", id.0))?;
        self.written[id.0 as usize] = true;
        Ok(())
    }

    fn indices(&self, id: IndexId) -> Checked<&[u32]> {
        self.program.indices.get(id.0 as usize).map(Vec::as_slice).ok_or_else(|| format!("no index input {}", id.0))
    }

    fn indices_below(&self, id: IndexId, len: usize, bound: usize) -> Checked {
        let indices = self.indices(id)?;
        same("length of an index input", indices.len(), len)?;
        match indices.iter().find(|index| **index as usize >= bound) {
            Some(index) => Err(format!("index {index} is not below {bound}")),
            None => Ok(()),
        }
    }

    fn weight(&self, id: WeightId) -> Checked<Shape> {
        self.holdings.weight(id).ok_or_else(|| format!("this device holds no weight {}", id.0))
    }

    fn vector(&self, id: WeightId, len: usize) -> Checked {
        let shape = self.weight(id)?;
        same("elements of a vector weight", shape.rows * shape.cols, len)
    }

    /// `starts` cuts `rows` rows into non-empty sequences; returns their number.
    fn starts(&self, id: IndexId, rows: usize) -> Checked<usize> {
        let starts = self.indices(id)?;
        let covers = starts.first() == Some(&0) && starts.last().is_some_and(|last| *last as usize == rows);
        let rises = starts.windows(2).all(|pair| pair[0] < pair[1]);
        ensure(covers && rises, || format!("sequence starts do not cut {rows} rows into non-empty sequences"))?;
        Ok(starts.len() - 1)
    }

    fn op(&mut self, op: &Op) -> Checked {
        match *op {
            Op::Embed { table, ids, accumulate, out } => {
                let (table, rows) = (self.weight(table)?, self.shape(out)?.rows);
                self.indices_below(ids, rows, table.rows)?;
                if accumulate {
                    self.read(out)?;
                }
                self.write(out, rows, table.cols, &[])
            }
            Op::RmsNorm { x, add, weight, out, .. } => self.norm((x, add, out), &[weight]),
            Op::LayerNorm { x, add, weight, bias, out, .. } => self.norm((x, add, out), &[weight, bias]),
            Op::Linear { x, weight, bias, out, .. } => {
                let (input, weight) = (self.read(x)?, self.weight(weight)?);
                same("columns of the input", input.cols, weight.cols)?;
                if let Some(bias) = bias {
                    self.vector(bias, weight.rows)?;
                }
                self.write(out, input.rows, weight.rows, &[x])
            }
            Op::RopeKv { .. } => self.rope_kv(op),
            Op::PagedAttention { .. } => self.paged_attention(op),
            Op::EncoderAttention { qkv, starts, heads, out, .. } => {
                let input = self.read(qkv)?;
                same("kv_heads", heads.kv_heads, heads.heads)?;
                ensure(heads.heads * heads.head_dim > 0, || "there are no heads".to_owned())?;
                same("columns of qkv", input.cols, 3 * heads.heads * heads.head_dim)?;
                self.starts(starts, input.rows)?;
                self.write(out, input.rows, heads.heads * heads.head_dim, &[qkv])
            }
            Op::GatedActivation { gate_up, out, .. } => {
                let input = self.read(gate_up)?;
                same("columns of gate and up, odd ones", input.cols % 2, 0)?;
                self.write(out, input.rows, input.cols / 2, &[gate_up])
            }
            Op::Gather { x, rows, out } => {
                let (input, count) = (self.read(x)?, self.indices(rows)?.len());
                self.indices_below(rows, count, input.rows)?;
                self.write(out, count, input.cols, &[x])
            }
            Op::Pool { x, starts, out, .. } => {
                let input = self.read(x)?;
                let sequences = self.starts(starts, input.rows)?;
                self.write(out, sequences, input.cols, &[x])
            }
            Op::L2Normalize { x, out } => {
                let input = self.read(x)?;
                self.write(out, input.rows, input.cols, &[x])
            }
        }
    }

    fn norm(&mut self, (x, add, out): (ValueId, Option<ValueId>, ValueId), vectors: &[WeightId]) -> Checked {
        let input = self.read(x)?;
        for vector in vectors {
            self.vector(*vector, input.cols)?;
        }
        if let Some(add) = add {
            let add_shape = self.read(add)?;
            ensure(add_shape == input, || "x and what is added to it differ in shape".to_owned())?;
            ensure(add != x && add != out, || format!("value {} is both added and changed", add.0))?;
        }
        self.write(out, input.rows, input.cols, &[x])
    }

    /// The cache has this layer and these heads.
    fn kv(&self, id: KvId, layer: usize, heads: HeadShape) -> Checked<KvShape> {
        let kv = self.holdings.kv(id).ok_or_else(|| format!("this device holds no kv cache {}", id.0))?;
        ensure(layer < kv.layers, || format!("the kv cache has no layer {layer}"))?;
        same("kv_heads", heads.kv_heads, kv.kv_heads)?;
        same("head_dim", heads.head_dim, kv.head_dim)?;
        let grouped = heads.kv_heads > 0 && heads.heads.is_multiple_of(heads.kv_heads) && heads.heads > 0 && heads.head_dim > 0;
        ensure(grouped, || format!("{} heads do not share {} kv heads", heads.heads, heads.kv_heads))?;
        Ok(kv)
    }

    fn rope_kv(&self, op: &Op) -> Checked {
        let Op::RopeKv { qkv, cos_sin, slots, kv, layer, heads, rope_dim, .. } = *op else { return Ok(()) };
        let input = self.read(qkv)?;
        let kv = self.kv(kv, layer, heads)?;
        same("columns of qkv", input.cols, (heads.heads + 2 * heads.kv_heads) * heads.head_dim)?;
        ensure(rope_dim <= heads.head_dim && rope_dim % 2 == 0, || format!("rope_dim {rope_dim} does not fit a head"))?;
        let angles = self.program.reals.get(cos_sin.0 as usize).ok_or("no such input of reals")?;
        same("length of cos_sin", angles.len(), input.rows * rope_dim)?;
        self.indices_below(slots, input.rows, kv.blocks * kv.block_tokens)
    }

    fn paged_attention(&mut self, op: &Op) -> Checked {
        let Op::PagedAttention { qkv, kv, layer, sequence, position, block_tables, table_width, heads, out, .. } = *op
        else {
            return Ok(());
        };
        let input = self.read(qkv)?;
        let kv = self.kv(kv, layer, heads)?;
        let width = heads.heads * heads.head_dim;
        ensure(input.cols >= width, || format!("qkv has {} columns, q needs {width}", input.cols))?;
        let tables = self.indices(block_tables)?;
        let sequences = tables.len().checked_div(table_width).unwrap_or(0);
        self.indices_below(sequence, input.rows, sequences)?;
        self.indices_below(position, input.rows, table_width * kv.block_tokens)?;
        let rows = self.indices(sequence)?.iter().zip(self.indices(position)?);
        // Only the blocks that a row reads must exist; the rest of a table's row is filler.
        let mut blocks_needed = vec![0; sequences];
        for (sequence, position) in rows {
            let needed = *position as usize / kv.block_tokens + 1;
            let so_far = &mut blocks_needed[*sequence as usize];
            *so_far = needed.max(*so_far);
        }
        for (table, needed) in tables.chunks_exact(table_width.max(1)).zip(&blocks_needed) {
            let outside = table[..*needed].iter().find(|block| **block as usize >= kv.blocks);
            ensure(outside.is_none(), || format!("block {outside:?} is not one of {}", kv.blocks))?;
        }
        self.write(out, input.rows, width, &[qkv])
    }
}

/// Checks tensors to be packed as one weight, and gives their stacked shape.
pub fn check_parts(parts: &[crate::weights::TensorView<'_>]) -> Result<Shape, DeviceError> {
    let refuse = |tensor: &str, reason: String| DeviceError::Pack { tensor: tensor.to_owned(), reason };
    let Some(first) = parts.first() else { return Err(refuse("", "a weight needs at least one tensor".into())) };
    let mut rows: usize = 0;
    for part in parts {
        if part.cols != first.cols {
            return Err(refuse(part.name, format!("{} columns, but {} has {}", part.cols, first.name, first.cols)));
        }
        if part.rows == 0 || part.cols == 0 {
            return Err(refuse(part.name, "it is empty".into()));
        }
        let bytes = part.element.bytes(part.cols).and_then(|row| row.checked_mul(part.rows));
        if bytes != Some(part.bytes.len()) {
            let (rows, cols, name) = (part.rows, part.cols, part.element.name());
            return Err(refuse(part.name, format!("{} bytes do not hold {rows} x {cols} {name}", part.bytes.len())));
        }
        rows = rows.checked_add(part.rows).ok_or_else(|| refuse(part.name, "too many rows".into()))?;
    }
    Ok(Shape { rows, cols: first.cols })
}
