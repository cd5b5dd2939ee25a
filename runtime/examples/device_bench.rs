//! Times a SmolLM2-shaped program with random Q4_1 weights on the CPU device: decode at 1 and 8 rows, prefill at 256.
//!
//! `cargo run --release -p outrider-worker --example device_bench [threads] [avx512|avx2|portable] [context]`
//! Prints medians and bests; on a shared machine only their ratios to other figures of the same minute mean anything.

use std::time::Instant;

use outrider_worker::device::cpu::{CpuDevice, Isa};
use outrider_worker::device::testing::{Random, Tensor};
use outrider_worker::device::{
    Activation, Device, HeadShape, KvId, KvShape, Op, Program, ProgramBuilder, RopeStyle, WeightId,
};
use outrider_worker::weights::ElementType;

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const VOCABULARY: usize = 49152;
const HEADS: HeadShape = HeadShape { heads: 9, kv_heads: 3, head_dim: 64 };
const BLOCK: usize = 16;

struct Layer {
    norms: [WeightId; 2],
    qkv: WeightId,
    output: WeightId,
    gate_up: WeightId,
    down: WeightId,
}

struct Model {
    embedding: WeightId,
    norm: WeightId,
    layers: Vec<Layer>,
    kv: KvId,
}

fn load(device: &CpuDevice) -> Model {
    let rng = &mut Random::new(1);
    let mut packing = 0.0;
    let mut pack = |element, shapes: &[usize], cols| {
        let tensors: Vec<Tensor> = shapes.iter().map(|rows| Tensor::random(rng, element, *rows, cols)).collect();
        let start = Instant::now();
        let id = device.pack(&tensors.iter().map(Tensor::view).collect::<Vec<_>>()).expect("packs");
        packing += start.elapsed().as_secs_f64();
        id
    };
    let (q4, f32) = (ElementType::Q4_1, ElementType::F32);
    let embedding = pack(ElementType::Q8_0, &[VOCABULARY], HIDDEN);
    let norm = pack(f32, &[1], HIDDEN);
    let kv_cols = HEADS.kv_heads * HEADS.head_dim;
    let layers = (0..LAYERS).map(|_| Layer {
        norms: [pack(f32, &[1], HIDDEN), pack(f32, &[1], HIDDEN)],
        qkv: pack(q4, &[HIDDEN, kv_cols, kv_cols], HIDDEN),
        output: pack(q4, &[HIDDEN], HIDDEN),
        gate_up: pack(q4, &[INTERMEDIATE, INTERMEDIATE], HIDDEN),
        down: pack(q4, &[HIDDEN], INTERMEDIATE),
    });
    let layers = layers.collect();
    println!("packed {} MB in {:.1} ms", device.weight_bytes() / 1_000_000, packing * 1e3);
    let (blocks, head_dim) = (1024, HEADS.head_dim);
    let shape = KvShape { layers: LAYERS, blocks, block_tokens: BLOCK, kv_heads: HEADS.kv_heads, head_dim };
    Model { embedding, norm, layers, kv: device.allocate_kv(shape).expect("allocates") }
}

/// `rows` tokens: one of each of `rows` sequences at position `past`, or one prompt from `past` on.
fn program(model: &Model, rows: usize, past: usize, prompt: bool) -> Program {
    let mut builder = ProgramBuilder::new();
    let width = (past + rows) / BLOCK + 1;
    let at: Vec<(usize, usize)> = (0..rows).map(|i| if prompt { (0, past + i) } else { (i, past) }).collect();
    let ids = builder.indices((0..rows as u32).map(|i| i * 37 + 5).collect());
    let slots = builder.indices(at.iter().map(|(s, p)| (s * width * BLOCK + p) as u32).collect());
    let sequence = builder.indices(at.iter().map(|at| at.0 as u32).collect());
    let position = builder.indices(at.iter().map(|at| at.1 as u32).collect());
    let block_tables = builder.indices((0..(if prompt { 1 } else { rows } * width) as u32).collect());
    let half = HEADS.head_dim / 2;
    let cos_sin = builder.reals((0..rows).flat_map(|_| [vec![0.8; half], vec![0.6; half]].concat()).collect());
    let x = builder.value(rows, HIDDEN);
    builder.push(Op::Embed { table: model.embedding, ids, accumulate: false, out: x });
    let linear = |x, weight, out| Op::Linear { x, weight, bias: None, activation: Activation::None, out };
    let (heads, kv, eps, activation) = (HEADS, model.kv, 1e-5, Activation::Silu);
    let (mut add, table_width) = (None, width);
    for (layer, weights) in model.layers.iter().enumerate() {
        let normal = builder.value(rows, HIDDEN);
        builder.push(Op::RmsNorm { x, add, weight: weights.norms[0], eps, out: normal });
        let qkv = builder.value(rows, HIDDEN + 2 * HEADS.kv_heads * HEADS.head_dim);
        builder.push(linear(normal, weights.qkv, qkv));
        let (rope_dim, style) = (HEADS.head_dim, RopeStyle::Interleaved);
        builder.push(Op::RopeKv { qkv, cos_sin, slots, kv, layer, heads, rope_dim, style });
        let (out, scale) = (builder.value(rows, HIDDEN), 0.125);
        builder.push(Op::PagedAttention {
            qkv,
            kv,
            layer,
            sequence,
            position,
            block_tables,
            table_width,
            heads,
            scale,
            out,
        });
        let projected = builder.value(rows, HIDDEN);
        builder.push(linear(out, weights.output, projected));
        let normal = builder.value(rows, HIDDEN);
        builder.push(Op::RmsNorm { x, add: Some(projected), weight: weights.norms[1], eps, out: normal });
        let gate_up = builder.value(rows, 2 * INTERMEDIATE);
        builder.push(linear(normal, weights.gate_up, gate_up));
        let gated = builder.value(rows, INTERMEDIATE);
        builder.push(Op::GatedActivation { gate_up, activation, out: gated });
        let down = builder.value(rows, HIDDEN);
        builder.push(linear(gated, weights.down, down));
        add = Some(down);
    }
    let normal = builder.value(rows, HIDDEN);
    builder.push(Op::RmsNorm { x, add, weight: model.norm, eps, out: normal });
    let wanted = if prompt { vec![rows as u32 - 1] } else { (0..rows as u32).collect() };
    let last = builder.value(wanted.len(), HIDDEN);
    let logits = builder.value(wanted.len(), VOCABULARY);
    let wanted = builder.indices(wanted);
    builder.push(Op::Gather { x: normal, rows: wanted, out: last });
    builder.push(linear(last, model.embedding, logits));
    builder.output(logits);
    builder.finish()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = arguments.first().and_then(|threads| threads.parse().ok());
    let isa = arguments.get(1).and_then(|name| Isa::available().into_iter().find(|isa| isa.name() == name));
    let past = arguments.get(2).and_then(|past| past.parse().ok()).unwrap_or(100);
    let device = CpuDevice::new(threads, isa);
    println!("{}", device.name());
    let model = load(&device);
    let body = 2.0 * 106.2e6;
    for (what, rows, past, prompt, runs) in [
        ("decode, 1 stream", 1, past, false, 100),
        ("decode, 2 streams", 2, past, false, 50),
        ("decode, 4 streams", 4, past, false, 50),
        ("decode, 8 streams", 8, past, false, 50),
        ("prefill, 16 tokens", 16, 0, true, 10),
        ("prefill, 256 tokens", 256, 0, true, 5),
        ("prefill, 256 tokens after 1024", 256, 1024, true, 3),
    ] {
        let program = program(&model, rows, past, prompt);
        let mut seconds: Vec<f64> = (0..runs)
            .map(|_| {
                let start = Instant::now();
                device.run(&program).expect("runs");
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        let rate = |seconds: f64| rows as f64 / seconds;
        let (median, best) = (rate(seconds[runs / 2]), rate(seconds[0]));
        println!("{what:32} {median:7.1} tok/s (best {best:7.1}), body {:5.1} GFLOP/s", median * body / 1e9);
    }
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}
