//! The device against the references, on whatever adapter the machine has; software adapters will do.
//!
//! Without any adapter these tests are skipped loudly, or fail if `OUTRIDER_REQUIRE_WGPU=1`.

use std::io::Write;
use std::sync::OnceLock;

use super::{WgpuDevice, adapters};
use crate::device::reference::ReferenceDevice;
use crate::device::testing::{Case, Random, Tensor, assert_close, cases};
use crate::device::{
    Activation, Device, DeviceError, HeadShape, KvId, KvShape, Op, Program, ProgramBuilder, RopeStyle, WeightId,
};
use crate::weights::{ElementType, TensorView};

/// Just over the longest row of the case list (4864 reals): most of its weights have several shards.
const TINY_SHARD_BYTES: u64 = 20 << 10;

/// One device for all tests of the process: a driver compiles each pipeline once for each device.
fn device() -> Option<&'static WgpuDevice> {
    static DEVICE: OnceLock<Option<WgpuDevice>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        // By name, so that a software adapter is taken where it is the only one.
        let adapter = adapters().into_iter().next()?;
        Some(WgpuDevice::open(Some(&adapter.name)).expect("the adapter opens"))
    });
    if device.is_none() {
        let required = std::env::var("OUTRIDER_REQUIRE_WGPU").as_deref() == Ok("1");
        assert!(!required, "OUTRIDER_REQUIRE_WGPU=1, but no Vulkan, Metal or Direct3D 12 adapter was found");
        // Not `eprintln!`, which the test harness hides when a test passes.
        let words = "SKIPPED: no wgpu adapter on this machine (install mesa-vulkan-drivers); no kernel was run\n";
        std::io::stderr().write_all(words.as_bytes()).expect("stderr is open");
    }
    device.as_ref()
}

fn judge_all(device: &dyn Device, wanted: impl Fn(&Case) -> bool) {
    let reference = ReferenceDevice::new();
    let chosen: Vec<Case> = cases(11).into_iter().filter(wanted).collect();
    assert!(!chosen.is_empty(), "no case has this name");
    chosen.iter().for_each(|case| case.judge(device, &reference));
}

#[test]
fn does_embedding_match_the_reference() {
    let Some(device) = device() else { return };
    judge_all(device, |case| case.name.starts_with("embed"));
}

#[test]
fn does_every_linear_layer_match_the_reference() {
    let Some(device) = device() else { return };
    judge_all(device, |case| case.name.starts_with("linear"));
}

#[test]
fn does_attention_match_the_reference() {
    let Some(device) = device() else { return };
    judge_all(device, |case| case.name.contains("attention"));
}

#[test]
fn does_everything_else_match_the_reference() {
    let Some(device) = device() else { return };
    let others = |case: &Case| {
        !["embed", "linear"].iter().any(|name| case.name.starts_with(name)) && !case.name.contains("attention")
    };
    judge_all(device, others);
}

#[test]
fn do_weights_over_the_binding_limit_compute_the_same() {
    let Some(device) = device() else { return };
    let sharded = device.with_shards_of(TINY_SHARD_BYTES);
    let reads = |case: &Case| ["embed", "linear"].iter().any(|name| case.name.starts_with(name));
    judge_all(&sharded, |case| reads(case) && case.name.len() % 3 == 0);
    let state = sharded.state();
    let most = state.weights.iter().map(|weight| weight.shards.len()).max().unwrap();
    assert!(most >= 4, "nothing was sharded");
    let within = state.weights.iter().flat_map(|weight| &weight.shards).all(|s| s.buffer.size() <= TINY_SHARD_BYTES);
    assert!(within, "a shard is over the limit");
}

/// Bits of row `row` of a value of `cols` columns.
fn bits(value: &[f32], row: usize, cols: usize) -> Vec<u32> {
    value[row * cols..][..cols].iter().map(|x| x.to_bits()).collect()
}

#[test]
fn is_a_linear_row_the_same_bits_in_every_batch() {
    let Some(device) = device() else { return };
    let rng = &mut Random::new(3);
    for element in ElementType::all() {
        let cols = if element.block_elements() == 256 { 768 } else { 576 };
        let (rows, batch) = if element == ElementType::Q4_0 { (37, 21) } else { (36, 21) };
        let weights = [(ElementType::F32, batch), (element, rows)]
            .map(|(element, rows)| vec![Tensor::random(rng, element, rows, cols)]);
        let [table, weight] = [WeightId(0), WeightId(1)];
        let program = |ids: Vec<u32>| {
            let mut b = ProgramBuilder::new();
            let (x, out) = (b.value(ids.len(), cols), b.value(ids.len(), rows));
            let ids = b.indices(ids);
            b.push(Op::Embed { table, ids, accumulate: false, out: x });
            b.push(Op::Linear { x, weight, bias: None, activation: Activation::GeluErf, out });
            b.output(out);
            b.finish()
        };
        let order: Vec<u32> = (0..batch as u32).rev().collect();
        let mut programs = vec![program(order.clone())];
        programs.extend([1, 2, 3, 8, 9].map(|m| program((0..m).collect())));
        let case = Case { name: String::new(), weights: weights.to_vec(), kv: None, programs, tolerance: 0.0 };
        let outputs = case.run(device).unwrap();
        for output in &outputs[1..] {
            for row in 0..output.len() / rows {
                let whole = bits(&outputs[0], batch - 1 - row, rows);
                assert_eq!(bits(output, row, rows), whole, "{} row {row} of {}", element.name(), output.len() / rows);
            }
        }
    }
}

const HEADS: HeadShape = HeadShape { heads: 4, kv_heads: 2, head_dim: 16 };
const HIDDEN: usize = 64;
const VOCABULARY: usize = 50;
const BLOCK_TOKENS: usize = 4;

/// Weights of a llama of two layers, in the order that [`toy`] names them.
fn toy_weights() -> Vec<Vec<Tensor>> {
    use ElementType::{F16, F32, Q4_0, Q4_1, Q8_0};
    let rng = &mut Random::new(5);
    let mut weights = vec![vec![Tensor::random(rng, Q8_0, VOCABULARY, HIDDEN)]];
    for _ in 0..2 {
        weights.push(vec![Tensor::random(rng, F32, 1, HIDDEN)]);
        let qkv = [(Q4_1, 64), (Q4_1, 32), (F16, 32)];
        weights.push(qkv.map(|(element, rows)| Tensor::random(rng, element, rows, HIDDEN)).to_vec());
        weights.push(vec![Tensor::random(rng, Q4_0, HIDDEN, HIDDEN)]);
        weights.push(vec![Tensor::random(rng, F32, 1, HIDDEN)]);
        weights.push([96, 96].map(|rows| Tensor::random(rng, Q4_1, rows, HIDDEN)).to_vec());
        weights.push(vec![Tensor::random(rng, Q8_0, HIDDEN, 96)]);
    }
    weights.push(vec![Tensor::random(rng, F32, 1, HIDDEN)]);
    weights
}

/// One step over `(sequence, position, token)`; its output is a row of logits for each.
fn toy(rows: &[(u32, u32, u32)]) -> Program {
    let table_width = 3;
    let m = rows.len();
    let mut b = ProgramBuilder::new();
    let ids = b.indices(rows.iter().map(|row| row.2).collect());
    let sequence = b.indices(rows.iter().map(|row| row.0).collect());
    let position = b.indices(rows.iter().map(|row| row.1).collect());
    let tables: Vec<u32> = vec![5, 1, 4, 0, 3, 2];
    let block = |row: &(u32, u32, u32)| tables[(row.0 * 3 + row.1 / BLOCK_TOKENS as u32) as usize];
    let slots = rows.iter().map(|row| block(row) * BLOCK_TOKENS as u32 + row.1 % BLOCK_TOKENS as u32);
    let slots = b.indices(slots.collect());
    let block_tables = b.indices(tables.clone());
    let angle = |row: &(u32, u32, u32), i: i32| row.1 as f32 * 100f32.powf(-i as f32 / 8.0);
    let cos_sin = rows.iter().flat_map(|row| {
        let angles = move |i| angle(row, i);
        (0..8).map(move |i| angles(i).cos()).chain((0..8).map(move |i| angles(i).sin()))
    });
    let cos_sin = b.reals(cos_sin.collect());
    let x = b.value(m, HIDDEN);
    b.push(Op::Embed { table: WeightId(0), ids, accumulate: false, out: x });
    let mut add = None;
    for layer in 0..2 {
        let weight = |i: u32| WeightId(1 + 6 * layer as u32 + i);
        let (normal, qkv, mixed) = (b.value(m, HIDDEN), b.value(m, 128), b.value(m, HIDDEN));
        let (attended, gate_up) = (b.value(m, HIDDEN), b.value(m, 192));
        let (normal_2, gated, down) = (b.value(m, HIDDEN), b.value(m, 96), b.value(m, HIDDEN));
        let (kv, heads, scale, style) = (KvId(0), HEADS, 0.25, RopeStyle::Interleaved);
        let linear = |x, weight, out| Op::Linear { x, weight, bias: None, activation: Activation::None, out };
        b.push(Op::RmsNorm { x, add, weight: weight(0), eps: 1e-5, out: normal });
        b.push(linear(normal, weight(1), qkv));
        b.push(Op::RopeKv { qkv, cos_sin, slots, kv, layer, heads, rope_dim: 16, style });
        b.push(Op::PagedAttention {
            qkv,
            kv,
            layer,
            sequence,
            position,
            block_tables,
            table_width,
            heads,
            scale,
            out: attended,
        });
        b.push(linear(attended, weight(2), mixed));
        b.push(Op::RmsNorm { x, add: Some(mixed), weight: weight(3), eps: 1e-5, out: normal_2 });
        b.push(linear(normal_2, weight(4), gate_up));
        b.push(Op::GatedActivation { gate_up, activation: Activation::Silu, out: gated });
        b.push(linear(gated, weight(5), down));
        add = Some(down);
    }
    let (normal, logits) = (b.value(m, HIDDEN), b.value(m, VOCABULARY));
    b.push(Op::RmsNorm { x, add, weight: WeightId(13), eps: 1e-5, out: normal });
    b.push(Op::Linear { x: normal, weight: WeightId(0), bias: None, activation: Activation::None, out: logits });
    b.output(logits);
    b.finish()
}

fn toy_case(steps: &[&[(u32, u32, u32)]]) -> Case {
    let kv = KvShape { layers: 2, blocks: 6, block_tokens: BLOCK_TOKENS, kv_heads: 2, head_dim: 16 };
    let programs = steps.iter().map(|rows| toy(rows)).collect();
    Case { name: "toy llama".to_owned(), weights: toy_weights(), kv: Some(kv), programs, tolerance: 1e-4 }
}

#[test]
fn does_a_small_llama_match_the_reference_and_itself_in_every_batch() {
    let Some(device) = device() else { return };
    let prompt: Vec<(u32, u32, u32)> = (0..7).map(|p| (0, p, (p * 17 + 3) % 50)).collect();
    let other: Vec<(u32, u32, u32)> = (0..9).map(|p| (1, p, (p * 11 + 1) % 50)).collect();
    let alone = toy_case(&[&prompt, &[(0, 7, 20)]]);
    alone.judge(device, &ReferenceDevice::new());
    let alone = alone.run(device).unwrap();

    // The same prompt in two chunks, each in one batch with another sequence.
    let first = [&other[..5], &prompt[..3]].concat();
    let second = [&prompt[3..], &other[5..8]].concat();
    let together = toy_case(&[&first, &second, &[(1, 8, 30), (0, 7, 20)]]).run(device).unwrap();
    let row = |output: &Vec<f32>, row| bits(output, row, VOCABULARY);
    for at in 0..3 {
        assert_eq!(row(&together[0], 5 + at), row(&alone[0], at), "position {at}");
    }
    for at in 3..7 {
        assert_eq!(row(&together[1], at - 3), row(&alone[0], at), "position {at}");
    }
    assert_eq!(row(&together[2], 1), row(&alone[1], 0), "the decoded position");
}

#[test]
fn do_half_precision_subnormals_keep_their_value() {
    let Some(device) = device() else { return };
    let halves: Vec<u16> = vec![1, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0];
    let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
    let weights = vec![vec![Tensor { element: ElementType::F16, rows: 1, cols: 8, bytes }]];
    let mut b = ProgramBuilder::new();
    let (ids, out) = (b.indices(vec![0]), b.value(1, 8));
    b.push(Op::Embed { table: WeightId(0), ids, accumulate: false, out });
    b.output(out);
    let case = Case { name: "halves".into(), weights, kv: None, programs: vec![b.finish()], tolerance: 0.0 };
    let found = case.run(device).unwrap();
    let wanted: Vec<f32> = halves.iter().map(|half| half::f16::from_bits(*half).to_f32()).collect();
    assert_eq!(found[0], wanted);
}

#[test]
fn can_a_bias_be_a_stack_of_any_type() {
    let Some(device) = device() else { return };
    let rng = &mut Random::new(8);
    let bias = [ElementType::F16, ElementType::F32, ElementType::BF16];
    let weights = vec![
        vec![Tensor::random(rng, ElementType::F32, 3, 32)],
        vec![Tensor::random(rng, ElementType::Q8_0, 96, 32)],
        bias.map(|element| Tensor::random(rng, element, 1, 32)).to_vec(),
    ];
    let mut b = ProgramBuilder::new();
    let (ids, x, out) = (b.indices(vec![0, 1, 2]), b.value(3, 32), b.value(3, 96));
    b.push(Op::Embed { table: WeightId(0), ids, accumulate: false, out: x });
    let bias = Some(WeightId(2));
    b.push(Op::Linear { x, weight: WeightId(1), bias, activation: Activation::None, out });
    b.output(out);
    let case = Case { name: "bias".into(), weights, kv: None, programs: vec![b.finish()], tolerance: 1e-5 };
    case.judge(device, &ReferenceDevice::new());
}

#[test]
fn what_is_said_of_what_cannot_be() {
    let wrong = WgpuDevice::open(Some("no adapter has this name")).err().map(|error| error.to_string());
    assert!(wrong.is_some_and(|words| words.contains("no adapter has this name") && words.contains("found: ")));
    let Some(device) = device() else { return };
    let vast = KvShape { layers: 1, blocks: 1 << 30, block_tokens: 16, kv_heads: 8, head_dim: 128 };
    assert!(matches!(device.allocate_kv(vast), Err(DeviceError::OutOfMemory { .. })));
    let short = TensorView { name: "short", element: ElementType::Q4_0, rows: 2, cols: 32, bytes: &[0; 35] };
    assert!(matches!(device.pack(&[short]), Err(DeviceError::Pack { tensor, .. }) if tensor == "short"));
    let mut b = ProgramBuilder::new();
    let (ids, out) = (b.indices(vec![0]), b.value(1, 8));
    b.push(Op::Embed { table: WeightId(u32::MAX), ids, accumulate: false, out });
    assert!(matches!(device.run(&b.finish()), Err(DeviceError::Program { op: 0, .. })));
    let mut b = ProgramBuilder::new();
    let values = [b.value(1 << 20, 1 << 12), b.value(1 << 20, 1 << 12)];
    b.push(Op::L2Normalize { x: values[0], out: values[1] });
    assert!(device.run(&b.finish()).is_err(), "gigabytes of values");
    assert_eq!(device.run(&Program::default()).unwrap(), Vec::<Vec<f32>>::new(), "and it still runs");
}

#[test]
fn are_runs_from_many_threads_kept_apart() {
    let Some(device) = device() else { return };
    let case = cases(11).into_iter().find(|case| case.name.starts_with("gather")).expect("a gather case");
    let wanted = case.run(&ReferenceDevice::new()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope
                .spawn(|| (0..5).for_each(|_| assert_close("gather", &case.run(device).unwrap()[0], &wanted[0], 1e-6)));
        }
    });
}
