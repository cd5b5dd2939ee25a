//! Tiny random checkpoints against what transformers computed from them in float32, and their programs as text.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::*;
use crate::device::cpu::CpuDevice;
use crate::device::reference::ReferenceDevice;
use crate::device::{KvShape, WeightId};
use crate::engine::{Batch, Forward};
use crate::executor::{Executor, kv_shape};
use crate::weights::TensorView;

const LLAMAS: &[&str] =
    &["llama-gguf", "llama-gqa", "llama-rope-linear", "llama-rope-llama3", "llama-rope-yarn", "llama-tied"];
const BERTS: &[&str] = &["bert-cls", "bert-mean"];

fn goldens(under: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(under)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(goldens("checkpoints").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn cases(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(goldens("checkpoints").join(name).join("golden.json")).expect("golden.json");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    golden["cases"].as_array().expect("cases").clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn reals(value: &Value) -> Vec<f32> {
    value.as_array().expect("reals").iter().map(|x| x.as_f64().expect("a real") as f32).collect()
}

/// Largest difference, relative to the largest magnitude of the row.
fn difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0f32, |max, x| max.max(x.abs()));
    got.iter().zip(want).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / scale
}

fn generator(name: &str, device: &dyn Device) -> Arc<dyn Generator> {
    match load(&open(name), device).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Model::Generator(model) => Arc::from(model),
        Model::Encoder(_) => panic!("{name} is an encoder"),
    }
}

fn encoder(name: &str, device: &dyn Device) -> Box<dyn Encoder> {
    match load(&open(name), device).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Model::Encoder(model) => model,
        Model::Generator(_) => panic!("{name} is a generator"),
    }
}

/// Rows of one sequence: `from ..` of `ids`, in blocks that lie in reverse order in the cache.
fn rows(ids: &[u32], from: usize, blocks: u32) -> Batch {
    let positions = from as u32..ids.len() as u32;
    Batch {
        ids: ids[from..].to_vec(),
        positions: positions.clone().collect(),
        sequence: vec![0; ids.len() - from],
        slots: positions.map(|p| (blocks - 1 - p / 16) * 16 + p % 16).collect(),
        block_tables: (0..blocks).rev().collect(),
        table_width: blocks as usize,
        logit_rows: vec![(ids.len() - from) as u32 - 1],
    }
}

fn judge_llama(name: &str, device: Arc<dyn Device>) {
    let model = generator(name, &*device);
    let blocks = 8;
    let kv = device.allocate_kv(kv_shape(model.kv(), blocks)).expect("a small cache");
    let mut executor = Executor::new(Arc::clone(&device), model, kv);
    for case in cases(name) {
        let mut ids = ids(&case["ids"]);
        // The prompt in two chunks where it has two tokens, then greedy steps of one row.
        let half = ids.len() / 2;
        if half > 0 {
            executor.forward(&rows(&ids[..half], 0, blocks as u32)).expect("a step");
        }
        let mut logits = executor.forward(&rows(&ids, half, blocks as u32)).expect("a step").remove(0);
        let off = difference(&logits, &reals(&case["logits_of_last"]));
        assert!(off < 2e-4, "{name} on {}: logits differ by {off}", device.name());
        for want in self::ids(&case["greedy"]) {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("logits") as u32;
            assert_eq!(best, want, "{name} on {} after {} tokens", device.name(), ids.len());
            ids.push(best);
            logits = executor.forward(&rows(&ids, ids.len() - 1, blocks as u32)).expect("a step").remove(0);
        }
    }
}

fn judge_bert(name: &str, device: &dyn Device) {
    let model = encoder(name, device);
    let cases = cases(name);
    let texts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["ids"])).collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let wanted = Wanted { hidden: true, sentence: Some(Normalize::Yes) };
    let outputs = device.run(&model.record(&texts, wanted)).expect("a pass");
    let hidden: Vec<f32> = cases.iter().flat_map(|case| reals(&case["last_hidden_state"])).collect();
    let sentences: Vec<f32> = cases.iter().flat_map(|case| reals(&case["embedding"])).collect();
    let (off_hidden, off_sentences) = (difference(&outputs[0], &hidden), difference(&outputs[1], &sentences));
    assert!(off_hidden < 2e-4, "{name} on {}: hidden states differ by {off_hidden}", device.name());
    assert!(off_sentences < 2e-4, "{name} on {}: embeddings differ by {off_sentences}", device.name());
}

#[test]
fn does_a_llama_compute_what_transformers_computes() {
    for name in LLAMAS {
        judge_llama(name, Arc::new(ReferenceDevice::new()));
        judge_llama(name, Arc::new(CpuDevice::new(Some(2), None)));
    }
}

#[test]
fn does_a_bert_compute_what_transformers_computes() {
    for name in BERTS {
        judge_bert(name, &ReferenceDevice::new());
        judge_bert(name, &CpuDevice::new(Some(2), None));
    }
}

/// Keeps the names of what is packed, computes nothing.
#[derive(Default)]
struct Namer {
    packed: Mutex<Vec<String>>,
}

impl Device for Namer {
    fn name(&self) -> String {
        "namer".to_string()
    }

    fn pack(&self, parts: &[TensorView<'_>]) -> Result<WeightId, DeviceError> {
        let text =
            |part: &TensorView<'_>| format!("{} [{}, {}] {}", part.name, part.rows, part.cols, part.element.name());
        let mut packed = self.packed.lock().expect("one thread");
        packed.push(parts.iter().map(text).collect::<Vec<_>>().join(" + "));
        Ok(WeightId(packed.len() as u32 - 1))
    }

    fn allocate_kv(&self, _: KvShape) -> Result<KvId, DeviceError> {
        Ok(KvId(0))
    }

    fn run(&self, _: &Program) -> Result<Vec<Vec<f32>>, DeviceError> {
        Err(DeviceError::Lost { reason: "it computes nothing".to_string() })
    }

    fn weight_bytes(&self) -> u64 {
        0
    }
}

impl Namer {
    fn legend(&self) -> String {
        let packed = self.packed.lock().expect("one thread");
        packed.iter().enumerate().map(|(i, name)| format!("w{i} = {name}\n")).collect()
    }
}

/// Compares with `programs/<name>.txt`, or writes it when BLESS is set.
fn golden_program(name: &str, text: &str) {
    let path = goldens("programs").join(format!("{name}.txt"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).expect("the golden is written");
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, want, "{} differs; BLESS=1 rewrites it", path.display());
}

#[test]
fn is_a_llamas_program_the_one_we_read() {
    for name in ["llama-gqa", "llama-gguf", "llama-tied"] {
        let namer = Namer::default();
        let model = generator(name, &namer);
        // Two sequences: three rows of a prompt, and one step of an answer.
        let batch = Batch {
            ids: vec![7, 8, 9, 3],
            positions: vec![0, 1, 2, 17],
            sequence: vec![0, 0, 0, 1],
            slots: vec![0, 1, 2, 49],
            block_tables: vec![0, 0, 2, 3],
            table_width: 2,
            logit_rows: vec![2, 3],
        };
        golden_program(name, &format!("{}\n{}", namer.legend(), model.record(&batch, KvId(0))));
    }
}

#[test]
fn is_a_berts_program_the_one_we_read() {
    let namer = Namer::default();
    let model = encoder("bert-mean", &namer);
    let wanted = Wanted { hidden: true, sentence: Some(Normalize::Yes) };
    let program = model.record(&[&[2, 40, 3], &[2, 3]], wanted);
    golden_program("bert-mean", &format!("{}\n{program}", namer.legend()));
}

#[test]
fn does_table_agree_with_folder() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/models");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder of this file")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .filter(|name| name != "mod" && name != "tests")
        .collect();
    files.sort();
    assert_eq!(files, MODELS.iter().map(|model| model.0).collect::<Vec<_>>());
}

#[test]
fn does_a_refusal_name_what_is_wrong() {
    type Change = fn(&mut Value);
    let table: &[(&str, &str, Change)] = &[
        ("llama-gqa", "architecture \"mamba\" is not supported (supported: bert, llama)", |c| {
            c["model_type"] = "mamba".into();
        }),
        ("llama-gqa", "tensor \"model.embed_tokens.weight\" is 258 × 32, expected 258 × 48", |c| {
            c["hidden_size"] = 48.into();
        }),
        ("llama-gqa", "\"model.layers.2.", |c| c["num_hidden_layers"] = 3.into()),
        ("llama-gqa", "num_key_value_heads: must divide", |c| c["num_key_value_heads"] = 3.into()),
        ("llama-gqa", "hidden_act: \"mish\" is not supported", |c| c["hidden_act"] = "mish".into()),
        ("llama-gqa", "num_attention_heads: is 0", |c| c["num_attention_heads"] = 0.into()),
        ("llama-gqa", "quantization_config: ", |c| c["quantization_config"] = serde_json::json!({"bits": 4})),
        ("bert-mean", "not a multiple of num_attention_heads", |c| c["num_attention_heads"] = 5.into()),
        ("bert-mean", "position_embedding_type: ", |c| c["position_embedding_type"] = "relative_key".into()),
    ];
    for (name, words, change) in table {
        let from = goldens("checkpoints").join(name);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = std::fs::read_to_string(from.join("config.json")).expect("config.json");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        change(&mut config);
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
        let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
        match load(&checkpoint, &Namer::default()) {
            Ok(_) => panic!("{words}: it loaded"),
            Err(error) => assert!(error.to_string().contains(words), "{error} does not say {words:?}"),
        }
    }
}
