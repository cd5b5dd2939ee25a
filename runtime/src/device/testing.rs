//! For tests: one list of small random programs, by which every device is judged against the reference device.
//!
//! Shapes are odd on purpose: columns that fill no K-quant block, rows that fill no SIMD group or workgroup, and
//! row counts around every tile size. Everything comes from the seed; nothing here is used to serve.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::program::{
    Activation, HeadShape, IndexId, KvId, Op, Pooling, Program, ProgramBuilder, RealId, RopeStyle, ValueId, WeightId,
};
use super::{Device, DeviceError, KvShape};
use crate::weights::{ElementType, TensorView};

/// One op (or a few that belong together) with its weights, its caches and its inputs.
///
/// Programs use weight i for the i-th entry of `weights` and cache 0 for `kv`; [`Case::run`] maps them to what the
/// device gave out.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// Each weight is a stack of tensors.
    pub weights: Vec<Vec<Tensor>>,
    pub kv: Option<KvShape>,
    /// Run in order, so that a later one can read the cache an earlier one wrote.
    pub programs: Vec<Program>,
    /// Greatest relative difference from the reference.
    pub tolerance: f32,
}

/// A stored tensor that owns its bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub element: ElementType,
    pub rows: usize,
    pub cols: usize,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Random numbers of about unit size, in any element type; `cols` must be whole blocks.
    pub fn random(rng: &mut Random, element: ElementType, rows: usize, cols: usize) -> Tensor {
        let len = element.bytes(rows * cols).expect("whole blocks");
        let mut bytes = vec![0; len];
        rng.0.fill_bytes(&mut bytes);
        for block in bytes.chunks_exact_mut(element.block_bytes()) {
            let halves: &[usize] = match element {
                ElementType::F32 => {
                    block.copy_from_slice(&rng.real().to_le_bytes());
                    continue;
                }
                ElementType::BF16 => {
                    block.copy_from_slice(&half::bf16::from_f32(rng.real()).to_le_bytes());
                    continue;
                }
                ElementType::F16 => {
                    block.copy_from_slice(&half::f16::from_f32(rng.real()).to_le_bytes());
                    continue;
                }
                ElementType::Q4_0 | ElementType::Q5_0 | ElementType::Q8_0 => &[0],
                ElementType::Q4_1 | ElementType::Q5_1 | ElementType::Q4_K | ElementType::Q5_K => &[0, 2],
                ElementType::Q6_K => &[208],
            };
            let scale = match element {
                ElementType::Q8_0 => 1.0 / 128.0,
                ElementType::Q4_K | ElementType::Q5_K => 1.0 / 512.0,
                ElementType::Q6_K => 1.0 / 2048.0,
                _ => 1.0 / 8.0,
            };
            for at in halves {
                let half = half::f16::from_f32(scale * (0.5 + 0.5 * rng.real()));
                block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        Tensor { element, rows, cols, bytes }
    }

    /// As a device packs it.
    pub fn view(&self) -> TensorView<'_> {
        let Tensor { element, rows, cols, .. } = *self;
        TensorView { name: "random", element, rows, cols, bytes: &self.bytes }
    }
}

/// A seeded source of test numbers.
#[derive(Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in −1 .. 1.
    pub fn real(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Uniform below `bound`.
    pub fn below(&mut self, bound: usize) -> u32 {
        ((u64::from(self.0.next_u32()) * bound as u64) >> 32) as u32
    }

    fn reals(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.real()).collect()
    }

    /// Numbers below `len` in random order.
    fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..len as u32).collect();
        for i in (1..len).rev() {
            all.swap(i, self.below(i + 1) as usize);
        }
        all
    }
}

impl Case {
    /// Packs the weights, allocates the cache, runs the programs; all outputs of all programs.
    pub fn run(&self, device: &dyn Device) -> Result<Vec<Vec<f32>>, DeviceError> {
        let pack = |parts: &Vec<Tensor>| device.pack(&parts.iter().map(Tensor::view).collect::<Vec<_>>());
        let weights = self.weights.iter().map(pack).collect::<Result<Vec<_>, _>>()?;
        let kv = self.kv.map(|shape| device.allocate_kv(shape)).transpose()?;
        let mut outputs = Vec::new();
        for program in &self.programs {
            let mut program = program.clone();
            program.ops.iter_mut().for_each(|op| rename(op, &weights, kv));
            outputs.extend(device.run(&program)?);
        }
        Ok(outputs)
    }

    /// Runs on both devices and compares, with a panic that names the case.
    pub fn judge(&self, device: &dyn Device, reference: &dyn Device) {
        let found = self.run(device).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let wanted = self.run(reference).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(found.len(), wanted.len(), "{}: outputs", self.name);
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_close(&self.name, found, wanted, self.tolerance);
        }
    }
}

/// Panics unless the greatest difference is within `tolerance` of the greatest magnitude wanted (and of 1e-3).
pub fn assert_close(name: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "{name}: length");
    let scale = wanted.iter().fold(1e-3f32, |scale, x| scale.max(x.abs()));
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (found - wanted).abs() / scale;
        assert!(difference <= tolerance, "{name}: element {i} is {found}, not {wanted} (relative {difference:e})");
    }
}

fn rename(op: &mut Op, weights: &[WeightId], cache: Option<KvId>) {
    let rename = |id: &mut WeightId| *id = weights[id.0 as usize];
    match op {
        Op::Embed { table: weight, .. } | Op::RmsNorm { weight, .. } => rename(weight),
        Op::LayerNorm { weight, bias, .. } => {
            rename(weight);
            rename(bias);
        }
        Op::Linear { weight, bias, .. } => {
            rename(weight);
            bias.iter_mut().for_each(rename);
        }
        Op::RopeKv { kv, .. } | Op::PagedAttention { kv, .. } => *kv = cache.expect("the case has a cache"),
        _ => {}
    }
}

/// Every case, over all ops, element types and odd shapes.
pub fn cases(seed: u64) -> Vec<Case> {
    let rng = &mut Random::new(seed);
    let mut cases = Vec::new();
    embed_cases(rng, &mut cases);
    norm_cases(rng, &mut cases);
    linear_cases(rng, &mut cases);
    attention_cases(rng, &mut cases);
    small_cases(rng, &mut cases);
    cases
}

/// A program under construction with values filled from f32 tables (a value can only come from an op).
struct Sketch<'a> {
    rng: &'a mut Random,
    weights: Vec<Vec<Tensor>>,
    builder: ProgramBuilder,
}

impl<'a> Sketch<'a> {
    fn new(rng: &'a mut Random) -> Self {
        Sketch { rng, weights: Vec::new(), builder: ProgramBuilder::new() }
    }

    fn weight(&mut self, parts: &[(ElementType, usize)], cols: usize) -> WeightId {
        let parts = parts.iter().map(|(element, rows)| Tensor::random(self.rng, *element, *rows, cols)).collect();
        self.weights.push(parts);
        WeightId(self.weights.len() as u32 - 1)
    }

    fn vector(&mut self, len: usize) -> WeightId {
        self.weight(&[(ElementType::F32, 1)], len)
    }

    /// A random value: rows of an f32 table, in order.
    fn value(&mut self, rows: usize, cols: usize) -> ValueId {
        let table = self.weight(&[(ElementType::F32, rows)], cols);
        let ids = self.builder.indices((0..rows as u32).collect());
        let out = self.builder.value(rows, cols);
        self.builder.push(Op::Embed { table, ids, accumulate: false, out });
        out
    }

    fn finish(self, name: String, outputs: &[ValueId]) -> Case {
        let mut builder = self.builder;
        outputs.iter().for_each(|output| builder.output(*output));
        Case { name, weights: self.weights, kv: None, programs: vec![builder.finish()], tolerance: 2e-5 }
    }
}

/// Columns that are whole blocks of a type and, where the type allows, of no K-quant.
fn odd_cols(element: ElementType) -> &'static [usize] {
    match element.block_elements() {
        256 => &[256, 768],
        32 => &[32, 96, 576],
        _ => &[1, 20, 96, 577],
    }
}

fn embed_cases(rng: &mut Random, cases: &mut Vec<Case>) {
    for element in ElementType::all() {
        for cols in odd_cols(element) {
            let mut sketch = Sketch::new(rng);
            let table = sketch.weight(&[(element, 19), (element, 14)], *cols);
            let ids: Vec<u32> = (0..7).map(|_| sketch.rng.below(33)).collect();
            let out = sketch.builder.value(ids.len(), *cols);
            let ids = sketch.builder.indices(ids);
            sketch.builder.push(Op::Embed { table, ids, accumulate: false, out });
            let again = sketch.builder.indices(vec![0, 15, 16, 18, 19, 31, 32]);
            sketch.builder.push(Op::Embed { table, ids: again, accumulate: true, out });
            cases.push(sketch.finish(format!("embed {} cols {cols}", element.name()), &[out]));
        }
    }
}

fn norm_cases(rng: &mut Random, cases: &mut Vec<Case>) {
    for (m, cols, added) in [(1, 576, true), (1, 7, false), (5, 96, true), (33, 384, false), (3, 1030, true)] {
        for layer_norm in [false, true] {
            let mut sketch = Sketch::new(rng);
            let x = sketch.value(m, cols);
            let add = added.then(|| sketch.value(m, cols));
            let (weight, bias) = (sketch.vector(cols), sketch.vector(cols));
            let out = sketch.builder.value(m, cols);
            sketch.builder.push(match layer_norm {
                true => Op::LayerNorm { x, add, weight, bias, eps: 1e-12, out },
                false => Op::RmsNorm { x, add, weight, eps: 1e-5, out },
            });
            let name = if layer_norm { "layer_norm" } else { "rms_norm" };
            cases.push(sketch.finish(format!("{name} m {m} cols {cols} add {added}"), &[x, out]));
        }
    }
}

const ACTIVATIONS: [Activation; 6] =
    [Activation::None, Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Relu, Activation::Tanh];

fn linear_cases(rng: &mut Random, cases: &mut Vec<Case>) {
    for element in ElementType::all() {
        for (i, m) in [1, 2, 3, 4, 5, 6, 7, 8, 9, 33].into_iter().enumerate() {
            let cols = odd_cols(element)[i % odd_cols(element).len()];
            let rows = [16, 1, 37, 70, 129][i % 5];
            let activation = if i % 2 == 0 { Activation::None } else { ACTIVATIONS[1 + i % 5] };
            linear_case(rng, cases, (m, cols, activation), &[(element, rows)]);
        }
    }
    let mixed = [(ElementType::Q4_1, 36), (ElementType::Q8_0, 5), (ElementType::F16, 17), (ElementType::Q4_0, 20)];
    for m in [1, 3, 8, 40] {
        linear_case(rng, cases, (m, 576, Activation::Silu), &mixed);
    }
    // Long rows: what a device splits by columns.
    linear_case(rng, cases, (1, 4864, Activation::None), &[(ElementType::Q6_K, 33)]);
    linear_case(rng, cases, (13, 4864, Activation::None), &[(ElementType::Q4_0, 33)]);
}

fn linear_case(
    rng: &mut Random,
    cases: &mut Vec<Case>,
    (m, cols, activation): (usize, usize, Activation),
    parts: &[(ElementType, usize)],
) {
    let rows = parts.iter().map(|part| part.1).sum();
    let mut sketch = Sketch::new(rng);
    let x = sketch.value(m, cols);
    let weight = sketch.weight(parts, cols);
    let bias = (m % 2 == 1).then(|| sketch.vector(rows));
    let out = sketch.builder.value(m, rows);
    sketch.builder.push(Op::Linear { x, weight, bias, activation, out });
    let names: Vec<&str> = parts.iter().map(|part| part.0.name()).collect();
    let name = format!("linear {} m {m} rows {rows} cols {cols} {activation:?}", names.join("+"));
    cases.push(sketch.finish(name, &[out]));
}

fn attention_cases(rng: &mut Random, cases: &mut Vec<Case>) {
    for style in [RopeStyle::Interleaved, RopeStyle::Halves] {
        for (heads, kv_heads, head_dim, rope_dim) in
            [(9, 3, 64, 64), (4, 4, 32, 32), (6, 2, 20, 12), (4, 1, 96, 64), (2, 1, 128, 128)]
        {
            let heads = HeadShape { heads, kv_heads, head_dim };
            paged_case(rng, cases, heads, (rope_dim, style));
        }
    }
    for (heads, head_dim, starts) in
        [(12, 32, vec![0, 5]), (3, 20, vec![0, 1, 18, 19]), (2, 64, vec![0, 33, 35, 70]), (1, 8, vec![0, 1])]
    {
        let m = *starts.last().expect("not empty") as usize;
        let name = format!("encoder_attention heads {heads} head_dim {head_dim} starts {starts:?}");
        let mut sketch = Sketch::new(rng);
        let qkv = sketch.value(m, 3 * heads * head_dim);
        let out = sketch.builder.value(m, heads * head_dim);
        let starts = sketch.builder.indices(starts);
        let heads = HeadShape { heads, kv_heads: heads, head_dim };
        sketch.builder.push(Op::EncoderAttention { qkv, starts, heads, scale: 0.7, out });
        cases.push(sketch.finish(name, &[out]));
    }
}

/// Two sequences in scattered blocks: a prompt of each, then single tokens of both.
fn paged_case(rng: &mut Random, cases: &mut Vec<Case>, heads: HeadShape, (rope_dim, style): (usize, RopeStyle)) {
    let kv = KvShape { layers: 2, blocks: 24, block_tokens: 4, kv_heads: heads.kv_heads, head_dim: heads.head_dim };
    let table_width = 11;
    let tables = rng.permutation(2 * table_width);
    let steps: [Vec<(u32, u32)>; 4] = [
        (0..37).map(|p| (0, p)).collect(),
        (0..5).map(|p| (1, p)).collect(),
        vec![(0, 37), (1, 5)],
        vec![(1, 6), (0, 38), (0, 39), (0, 40)],
    ];
    let mut case = Case {
        name: format!("rope_kv and paged_attention {heads:?} rope {rope_dim} {style:?}"),
        weights: Vec::new(),
        kv: Some(kv),
        programs: Vec::new(),
        tolerance: 2e-5,
    };
    for step in steps {
        let mut sketch = Sketch::new(rng);
        sketch.weights = std::mem::take(&mut case.weights);
        let m = step.len();
        let qkv = sketch.value(m, (heads.heads + 2 * heads.kv_heads) * heads.head_dim);
        let cos_sin = angles(&mut sketch, m, rope_dim);
        let slot = |(s, p): (u32, u32)| tables[s as usize * table_width + p as usize / 4] * 4 + p % 4;
        let slots = sketch.builder.indices(step.iter().map(|at| slot(*at)).collect());
        let sequence = sketch.builder.indices(step.iter().map(|at| at.0).collect());
        let position = sketch.builder.indices(step.iter().map(|at| at.1).collect());
        let block_tables = sketch.builder.indices(tables.clone());
        for (id, layer) in [(KvId(0), 1), (KvId(0), 0)] {
            sketch.builder.push(Op::RopeKv { qkv, cos_sin, slots, kv: id, layer, heads, rope_dim, style });
        }
        let out = sketch.builder.value(m, heads.heads * heads.head_dim);
        let paging: (IndexId, IndexId, IndexId) = (sequence, position, block_tables);
        sketch.builder.push(Op::PagedAttention {
            qkv,
            kv: KvId(0),
            layer: 1,
            sequence: paging.0,
            position: paging.1,
            block_tables: paging.2,
            table_width,
            heads,
            scale: 0.35,
            out,
        });
        let done = sketch.finish(String::new(), &[qkv, out]);
        case.weights = done.weights;
        case.programs.extend(done.programs);
    }
    cases.push(case);
}

/// Cosines and sines of random angles.
fn angles(sketch: &mut Sketch<'_>, m: usize, rope_dim: usize) -> RealId {
    let rows = (0..m).flat_map(|_| {
        let angles: Vec<f32> = sketch.rng.reals(rope_dim / 2).iter().map(|x| 4.0 * x).collect();
        let cos: Vec<f32> = angles.iter().map(|x| x.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|x| x.sin()).collect();
        [cos, sin].concat()
    });
    let rows = rows.collect();
    sketch.builder.reals(rows)
}

fn small_cases(rng: &mut Random, cases: &mut Vec<Case>) {
    for activation in ACTIVATIONS {
        for (m, n) in [(1, 1536), (3, 7), (9, 100)] {
            let mut sketch = Sketch::new(rng);
            // A linear layer with large weights, so that activations see their tails as well.
            let (x, weight) = (sketch.value(m, 32), sketch.weight(&[(ElementType::F32, 2 * n)], 32));
            let gate_up = sketch.builder.value(m, 2 * n);
            sketch.builder.push(Op::Linear { x, weight, bias: None, activation: Activation::None, out: gate_up });
            let out = sketch.builder.value(m, n);
            sketch.builder.push(Op::GatedActivation { gate_up, activation, out });
            cases.push(sketch.finish(format!("gated_activation {activation:?} m {m} n {n}"), &[out]));
        }
    }
    for (m, cols, rows) in [(5, 576, vec![4, 0]), (9, 3, vec![8, 8, 1, 0, 3]), (1, 100, vec![0])] {
        let mut sketch = Sketch::new(rng);
        let x = sketch.value(m, cols);
        let out = sketch.builder.value(rows.len(), cols);
        let rows = sketch.builder.indices(rows);
        sketch.builder.push(Op::Gather { x, rows, out });
        cases.push(sketch.finish(format!("gather m {m} cols {cols}"), &[out]));
    }
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
        for (cols, starts) in [(384, vec![0, 1, 9, 40]), (5, vec![0, 3]), (100, vec![0, 33])] {
            let mut sketch = Sketch::new(rng);
            let x = sketch.value(*starts.last().expect("not empty") as usize, cols);
            let out = sketch.builder.value(starts.len() - 1, cols);
            let normal = sketch.builder.value(starts.len() - 1, cols);
            let starts = sketch.builder.indices(starts);
            sketch.builder.push(Op::Pool { x, starts, pooling, out });
            sketch.builder.push(Op::L2Normalize { x: out, out: normal });
            cases.push(sketch.finish(format!("pool and l2_normalize {pooling:?} cols {cols}"), &[out, normal]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::ReferenceDevice;
    use super::*;

    #[test]
    fn does_every_case_run_on_the_reference_device_with_finite_outputs() {
        for case in cases(7) {
            let outputs = case.run(&ReferenceDevice::new()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert!(outputs.iter().flatten().all(|x| x.is_finite()), "{}", case.name);
        }
    }

    #[test]
    fn do_sequences_see_only_their_own_past() {
        // The same case with another second sequence gives the first one the same bits.
        let case = cases(7).into_iter().find(|case| case.kv.is_some()).expect("a paged case");
        let first = case.run(&ReferenceDevice::new()).expect("runs");
        let mut changed = case.clone();
        changed.weights[1][0] = Tensor::random(&mut Random::new(99), ElementType::F32, 5, case.weights[1][0].cols);
        let second = changed.run(&ReferenceDevice::new()).expect("runs");
        let half = first[5].len() / 2;
        assert_eq!(first[5][..half], second[5][..half]);
        assert_ne!(first[5][half..], second[5][half..]);
    }
}
