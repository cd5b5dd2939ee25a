//! Where a program's values lie: one block of memory, in which values that do not live together share places.
//!
//! Pure arithmetic over shapes; a value lives from the op that first names it to the op that last does.

use super::lanes::LANES;
use crate::device::{Op, Program, ValueId};

/// Offsets, in elements, of a program's values in an arena.
#[derive(Debug, PartialEq)]
pub struct Layout {
    pub offsets: Vec<usize>,
    pub elements: usize,
}

/// Every value an op names.
pub fn operands(op: &Op) -> impl Iterator<Item = ValueId> {
    let (a, b, c) = match *op {
        Op::Embed { out, .. } => (out, None, None),
        Op::RmsNorm { x, add, out, .. } | Op::LayerNorm { x, add, out, .. } => (x, add, Some(out)),
        Op::RopeKv { qkv, .. } => (qkv, None, None),
        Op::PagedAttention { qkv, out, .. } | Op::EncoderAttention { qkv, out, .. } => (qkv, None, Some(out)),
        Op::GatedActivation { gate_up, out, .. } => (gate_up, None, Some(out)),
        Op::Linear { x, out, .. }
        | Op::Gather { x, out, .. }
        | Op::Pool { x, out, .. }
        | Op::L2Normalize { x, out } => (x, None, Some(out)),
    };
    [Some(a), b, c].into_iter().flatten()
}

/// Lays out a program's values, first fit.
pub fn layout(program: &Program) -> Layout {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; program.values.len()];
    for (index, op) in program.ops.iter().enumerate() {
        for value in operands(op) {
            let life = lives[value.0 as usize].get_or_insert((index, index));
            life.1 = index;
        }
    }
    for output in &program.outputs {
        if let Some(life) = &mut lives[output.0 as usize] {
            life.1 = usize::MAX;
        }
    }
    let mut order: Vec<usize> = (0..lives.len()).filter(|value| lives[*value].is_some()).collect();
    order.sort_by_key(|value| lives[*value]);
    let mut layout = Layout { offsets: vec![0; lives.len()], elements: 0 };
    // (offset, end, last op) of what is in place, by offset.
    let mut placed: Vec<(usize, usize, usize)> = Vec::new();
    for value in order {
        let Some((first, last)) = lives[value] else { continue };
        let shape = program.values[value];
        let len = (shape.rows * shape.cols).next_multiple_of(LANES);
        placed.retain(|place| place.2 >= first);
        let mut offset = 0;
        let mut index = 0;
        while index < placed.len() && placed[index].0 < offset + len {
            offset = offset.max(placed[index].1);
            index += 1;
        }
        placed.insert(index, (offset, offset + len, last));
        placed.sort_unstable();
        layout.offsets[value] = offset;
        layout.elements = layout.elements.max(offset + len);
    }
    layout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::cases;
    use crate::device::{Activation, ProgramBuilder, WeightId};

    #[test]
    fn do_values_that_live_together_lie_apart() {
        for case in cases(5) {
            for program in &case.programs {
                let layout = layout(program);
                for op in &program.ops {
                    let spans: Vec<(usize, usize)> = operands(op)
                        .map(|value| {
                            let shape = program.shape(value);
                            let start = layout.offsets[value.0 as usize];
                            (start, start + shape.rows * shape.cols)
                        })
                        .collect();
                    for (i, a) in spans.iter().enumerate() {
                        assert!(a.1 <= layout.elements);
                        assert!(spans[..i].iter().all(|b| a.1 <= b.0 || b.1 <= a.0), "{} {op:?}", case.name);
                    }
                }
            }
        }
    }

    #[test]
    fn does_a_chain_of_layers_reuse_two_places() {
        let mut builder = ProgramBuilder::new();
        let mut x = builder.value(10, 64);
        for _ in 0..30 {
            let out = builder.value(10, 64);
            let (weight, activation) = (WeightId(0), Activation::None);
            builder.push(Op::Linear { x, weight, bias: None, activation, out });
            x = out;
        }
        builder.output(x);
        assert_eq!(layout(&builder.finish()).elements, 2 * 640);
    }
}
