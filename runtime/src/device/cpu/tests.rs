//! Every instruction set of this machine against the reference, and rows against their batches.

use super::*;
use crate::device::reference::ReferenceDevice;
use crate::device::testing::{Case, Random, Tensor, cases};
use crate::device::{Activation, HeadShape, Op, ProgramBuilder, RopeStyle};
use crate::weights::ElementType;

#[test]
fn does_every_instruction_set_agree_with_the_reference() {
    for isa in Isa::available() {
        let device = CpuDevice::new(Some(2), Some(isa));
        assert!(device.name().contains(isa.name()), "{}", device.name());
        for case in cases(11) {
            case.judge(&device, &ReferenceDevice::new());
        }
    }
}

#[test]
fn do_instruction_sets_that_fuse_agree_to_the_bit() {
    let fused = [Isa::Avx512, Isa::Avx2].into_iter().filter(|isa| isa.kernels().is_some());
    let outputs: Vec<_> = fused
        .map(|isa| {
            let device = CpuDevice::new(Some(2), Some(isa));
            let run = |case: &Case| (case.name.clone(), bits(case.run(&device).expect("runs")));
            cases(12).iter().map(run).collect::<Vec<_>>()
        })
        .collect();
    for pair in outputs.windows(2) {
        for (a, b) in pair[0].iter().zip(&pair[1]) {
            assert!(a == b, "{}", a.0);
        }
    }
}

fn bits(outputs: Vec<Vec<f32>>) -> Vec<Vec<u32>> {
    outputs.into_iter().map(|output| output.into_iter().map(f32::to_bits).collect()).collect()
}

/// A layer of everything that mixes columns, over rows picked from a fixed table.
fn layer(device: &CpuDevice, weights: &[WeightId], kv: KvId, picks: &[u32]) -> Vec<f32> {
    let (m, heads) = (picks.len(), HeadShape { heads: 4, kv_heads: 2, head_dim: 36 });
    let mut builder = ProgramBuilder::new();
    let value = |builder: &mut ProgramBuilder, cols| builder.value(m, cols);
    let (x, normal) = (value(&mut builder, 288), value(&mut builder, 288));
    let ids = builder.indices(picks.to_vec());
    builder.push(Op::Embed { table: weights[0], ids, accumulate: false, out: x });
    builder.push(Op::RmsNorm { x, add: None, weight: weights[1], eps: 1e-5, out: normal });
    let qkv = value(&mut builder, 288);
    let linear = |x, weight, out| Op::Linear { x, weight, bias: None, activation: Activation::None, out };
    builder.push(linear(normal, weights[2], qkv));
    // Each pick is a sequence of its own, in its own block, at position 0 with its past in place.
    let cos_sin = builder.reals(picks.iter().flat_map(|_| [[0.8; 18], [0.6; 18]].concat()).collect());
    let slots = builder.indices(picks.iter().map(|pick| pick * 4 + 3).collect());
    let style = RopeStyle::Halves;
    builder.push(Op::RopeKv { qkv, cos_sin, slots, kv, layer: 0, heads, rope_dim: 36, style });
    let out = value(&mut builder, 144);
    let sequence = builder.indices((0..m as u32).collect());
    let position = builder.indices(vec![3; m]);
    let block_tables = builder.indices(picks.to_vec());
    let (table_width, scale) = (1, 0.2);
    builder.push(Op::PagedAttention {
        qkv,
        kv,
        layer: 0,
        sequence,
        position,
        block_tables,
        table_width,
        heads,
        scale,
        out,
    });
    let down = value(&mut builder, 288);
    // 144 columns of f16, then the mixed head.
    builder.push(linear(out, weights[3], down));
    let logits = value(&mut builder, 130);
    builder.push(Op::LayerNorm { x, add: Some(down), weight: weights[1], bias: weights[1], eps: 1e-5, out: normal });
    builder.push(linear(normal, weights[4], logits));
    builder.output(logits);
    device.run(&builder.finish()).expect("runs").remove(0)
}

#[test]
fn is_a_row_the_same_to_the_bit_alone_and_in_any_batch() {
    use ElementType::*;
    for isa in Isa::available() {
        let device = CpuDevice::new(Some(3), Some(isa));
        let rng = &mut Random::new(21);
        let mut pack = |parts: &[(ElementType, usize)], cols| {
            let tensors: Vec<Tensor> = parts.iter().map(|part| Tensor::random(rng, part.0, part.1, cols)).collect();
            device.pack(&tensors.iter().map(Tensor::view).collect::<Vec<_>>()).expect("packs")
        };
        let weights = [
            pack(&[(F32, 40)], 288),
            pack(&[(F32, 1)], 288),
            pack(&[(Q4_1, 144), (Q4_0, 72), (Q8_0, 72)], 288),
            pack(&[(F16, 200), (BF16, 88)], 144),
            pack(&[(Q5_0, 47), (Q5_1, 50), (F32, 33)], 288),
        ];
        let kv = KvShape { layers: 1, blocks: 40, block_tokens: 4, kv_heads: 2, head_dim: 36 };
        let kv = device.allocate_kv(kv).expect("allocates");
        let alone: Vec<Vec<f32>> = (0..40).map(|pick| layer(&device, &weights, kv, &[pick])).collect();
        for batch in [2, 3, 4, 5, 7, 8, 9, 16, 31, 40] {
            let picks: Vec<u32> = (0..batch).map(|i| (i * 7 + 3) % 40).collect();
            let together = layer(&device, &weights, kv, &picks);
            for (row, pick) in together.chunks_exact(130).zip(&picks) {
                let same = row.iter().zip(&alone[*pick as usize]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{isa:?}, batch of {batch}, row {pick}");
            }
        }
    }
}

#[test]
fn do_a_thousand_runs_on_any_number_of_threads_give_the_same_bits() {
    let case = cases(13).into_iter().find(|case| case.name.starts_with("linear Q4_1 m 9")).expect("a linear case");
    let wanted = bits(case.run(&CpuDevice::new(Some(1), None)).expect("runs"));
    for threads in 1..=4 {
        let device = CpuDevice::new(Some(threads), None);
        for _ in 0..250 {
            assert_eq!(bits(case.run(&device).expect("runs")), wanted, "{threads} threads");
        }
    }
}

#[test]
fn are_programs_that_do_not_fit_refused() {
    let device = CpuDevice::new(Some(1), None);
    let table = Tensor::random(&mut Random::new(1), ElementType::F32, 4, 8);
    let table = device.pack(&[table.view()]).expect("packs");
    let run = |ids: Vec<u32>, cols| {
        let mut builder = ProgramBuilder::new();
        let out = builder.value(2, cols);
        let ids = builder.indices(ids);
        builder.push(Op::Embed { table, ids, accumulate: false, out });
        builder.output(out);
        device.run(&builder.finish())
    };
    assert!(run(vec![0, 3], 8).is_ok());
    for (ids, cols) in [(vec![0, 4], 8), (vec![0], 8), (vec![0, 1], 9)] {
        assert!(matches!(run(ids, cols), Err(DeviceError::Program { op: 0, .. })));
    }
    let short = TensorView { name: "short", element: ElementType::Q4_0, rows: 1, cols: 32, bytes: &[0; 17] };
    assert!(matches!(device.pack(&[short]), Err(DeviceError::Pack { .. })));
    assert!(matches!(device.pack(&[]), Err(DeviceError::Pack { .. })));
}
