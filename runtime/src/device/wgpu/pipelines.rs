//! Every kernel variant, its WGSL, and its pipeline, compiled when first used and kept.
//!
//! A variant is an op's one source joined to snippets: an element type chooses its section of `unpack.wgsl`, a tile
//! its constants. Needs nothing beyond base WebGPU. Never chooses which variant an op uses: that is `encode`'s.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use wgpu::{BindGroupLayout, BufferBindingType, ComputePipeline, Device, PipelineLayout};

use crate::weights::ElementType;

macro_rules! kernel {
    ($file:literal) => {
        include_str!(concat!("../../kernels/", $file, ".wgsl"))
    };
}

const BINDINGS: &str = kernel!("common/bindings");
const ACTIVATION: &str = kernel!("common/activation");
const ATTENTION: &str = kernel!("common/attention");
const ROW: &str = kernel!("common/row");
const UNPACK: &str = kernel!("common/unpack");

/// Words of a dispatch's parameters: the largest `Params` of any kernel fits.
pub(super) const PARAM_WORDS: usize = 16;

/// Output rows and rows of x that one lane group of a linear kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tile {
    /// 1 × 1: decode, where reading the weight is everything.
    Vector,
    /// 1 × 8: a batch of decodes; each weight is read once, and there are as many workgroups as for one.
    Batch,
    /// 4 × 8: each decoded weight serves eight rows of x.
    Matrix,
}

impl Tile {
    /// Lane groups of a workgroup, each with its own output rows: `GROUPS` of `linear.wgsl`.
    const GROUPS: u32 = 4;

    fn rows(self) -> u32 {
        match self {
            Tile::Vector | Tile::Batch => 1,
            Tile::Matrix => 4,
        }
    }

    /// Rows of x in a workgroup.
    pub(super) fn m(self) -> u32 {
        match self {
            Tile::Vector => 1,
            Tile::Batch | Tile::Matrix => 8,
        }
    }

    /// Output rows of a workgroup.
    pub(super) fn workgroup_rows(self) -> u32 {
        Tile::GROUPS * self.rows()
    }
}

/// How a linear kernel reads x and writes out: a section of `linear.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Quads,
    Scalars,
}

/// One compiled shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Embed(ElementType),
    EncoderAttention,
    Gather,
    GatedActivation,
    L2Normalize,
    LayerNorm,
    Linear(ElementType, Tile, Access),
    PagedAttention,
    Pool,
    RmsNorm,
    RopeKv,
}

/// What a kernel binds beside the arena and the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Nothing,
    Weights,
    Kv,
}

impl Kernel {
    /// Every variant there is.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Kernel> {
        let linear = |element| {
            let tiles = [Tile::Vector, Tile::Batch, Tile::Matrix];
            tiles.map(|tile| [Access::Quads, Access::Scalars].map(|access| Kernel::Linear(element, tile, access)))
        };
        let typed = move |element| linear(element).into_iter().flatten().chain([Kernel::Embed(element)]);
        let plain = [
            Kernel::EncoderAttention,
            Kernel::Gather,
            Kernel::GatedActivation,
            Kernel::L2Normalize,
            Kernel::LayerNorm,
            Kernel::PagedAttention,
            Kernel::Pool,
            Kernel::RmsNorm,
            Kernel::RopeKv,
        ];
        ElementType::all().flat_map(typed).chain(plain).collect()
    }

    pub(super) fn bound(self) -> Bound {
        match self {
            Kernel::Embed(_) | Kernel::LayerNorm | Kernel::Linear(..) | Kernel::RmsNorm => Bound::Weights,
            Kernel::PagedAttention | Kernel::RopeKv => Bound::Kv,
            _ => Bound::Nothing,
        }
    }

    /// The whole WGSL of the variant.
    pub(super) fn source(self) -> String {
        let parts: &[&str] = match self {
            Kernel::Embed(element) => &[&section(UNPACK, element.name()), kernel!("embed")],
            Kernel::EncoderAttention => &[kernel!("encoder_attention"), ATTENTION],
            Kernel::Gather => &[kernel!("gather")],
            Kernel::GatedActivation => &[ACTIVATION, kernel!("gated_activation")],
            Kernel::L2Normalize => &[ROW, kernel!("l2_normalize")],
            Kernel::LayerNorm => &[ROW, kernel!("layer_norm")],
            Kernel::Linear(element, tile, access) => &[
                &tile_constants(tile),
                &section(UNPACK, element.name()),
                ACTIVATION,
                &section(kernel!("linear"), &format!("{access:?}")),
            ],
            Kernel::PagedAttention => &[kernel!("paged_attention"), ATTENTION],
            Kernel::Pool => &[kernel!("pool")],
            Kernel::RmsNorm => &[ROW, kernel!("rms_norm")],
            Kernel::RopeKv => &[kernel!("rope_kv")],
        };
        let (rows, m) = match self {
            Kernel::Linear(_, tile, _) => (tile.rows(), tile.m()),
            _ => (1, 1),
        };
        let source = BINDINGS.to_owned() + &parts.concat();
        let counts = [("$r", rows), ("$t", m), ("$s", 4)];
        counts.iter().fold(source, |source, (name, count)| repeat_lines(&source, name, *count))
    }
}

fn tile_constants(tile: Tile) -> String {
    format!("const TILE_ROWS: u32 = {}u;\nconst TILE_M: u32 = {}u;\n", tile.rows(), tile.m())
}

/// What all variants of a source share, and its section of this name.
fn section(source: &str, name: &str) -> String {
    let mut sections = source.split("//: ");
    let shared = sections.next().unwrap_or_default();
    let section = sections
        .find_map(|section| section.split_once('\n').filter(|(found, _)| *found == name))
        .expect("a test compiles every variant");
    shared.to_owned() + section.1
}

/// Writes each line that contains `name` once for every number below `count`, in its place. WGSL has no macros, and
/// sums held in an array that a loop indexes do not reliably stay in registers.
fn repeat_lines(source: &str, name: &str, count: u32) -> String {
    let mut out = String::with_capacity(source.len() * 2);
    for line in source.lines() {
        if line.starts_with("//") || !line.contains(name) {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        for i in 0..count {
            out.push_str(&line.replace(name, &i.to_string()));
            out.push('\n');
        }
    }
    out
}

/// Layouts, and the pipelines compiled so far.
pub(super) struct Pipelines {
    device: Device,
    /// Group 0: arena, inputs, parameters (with a dynamic offset).
    pub(super) common: BindGroupLayout,
    /// Group 1 of kernels that read weights: weight, then bias.
    pub(super) weights: BindGroupLayout,
    /// Group 1 of kernels that use the KV cache: keys, then values of one layer.
    pub(super) kv: BindGroupLayout,
    compiled: Mutex<HashMap<Kernel, ComputePipeline>>,
}

impl Pipelines {
    pub(super) fn new(device: &Device) -> Pipelines {
        let read = BufferBindingType::Storage { read_only: true };
        let write = BufferBindingType::Storage { read_only: false };
        Pipelines {
            device: device.clone(),
            common: group_layout(device, &[(write, false), (read, false), (BufferBindingType::Uniform, true)]),
            weights: group_layout(device, &[(read, false), (read, false)]),
            kv: group_layout(device, &[(write, false), (write, false)]),
            compiled: Mutex::default(),
        }
    }

    /// The kernel's pipeline. Some drivers (llvmpipe) compile at the first dispatch, not here.
    pub(super) fn get(&self, kernel: Kernel) -> ComputePipeline {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.entry(kernel).or_insert_with(|| self.compile(kernel)).clone()
    }

    fn compile(&self, kernel: Kernel) -> ComputePipeline {
        let label = format!("{kernel:?}");
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
        });
        let layout = self.layout(kernel.bound());
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                // Every kernel writes what it reads of workgroup memory.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }

    fn layout(&self, bound: Bound) -> PipelineLayout {
        let groups: &[Option<&BindGroupLayout>] = match bound {
            Bound::Nothing => &[Some(&self.common)],
            Bound::Weights => &[Some(&self.common), Some(&self.weights)],
            Bound::Kv => &[Some(&self.common), Some(&self.kv)],
        };
        self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: groups,
            immediate_size: 0,
        })
    }
}

/// A layout of buffers: kind, and whether its offset is given with each dispatch.
fn group_layout(device: &Device, buffers: &[(BufferBindingType, bool)]) -> BindGroupLayout {
    let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..)
        .zip(buffers)
        .map(|(binding, (ty, has_dynamic_offset))| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty: *ty, has_dynamic_offset: *has_dynamic_offset, min_binding_size: None },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::naga;

    #[test]
    fn is_every_variant_valid_wgsl_without_any_extension() {
        for kernel in Kernel::all() {
            let source = kernel.source();
            let module = naga::front::wgsl::parse_str(&source)
                .unwrap_or_else(|error| panic!("{kernel:?}: {}", error.emit_to_string(&source)));
            let mut validator =
                naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
            validator.validate(&module).unwrap_or_else(|error| panic!("{kernel:?}: {}", error.emit_to_string(&source)));
            assert!(source.lines().all(|line| line.starts_with("//") || !line.contains('$')), "{kernel:?}");
        }
    }

    #[test]
    fn do_workgroups_fit_the_least_limits_of_webgpu() {
        // 16 KiB of workgroup memory, of which a linear tile takes 17 words for each output element.
        for tile in [Tile::Vector, Tile::Batch, Tile::Matrix] {
            assert!(tile.workgroup_rows() * tile.m() * 17 * 4 <= 16 << 10, "{tile:?}");
        }
    }

    #[test]
    fn how_are_lines_repeated() {
        let source = "let a$r = $ru;\nsum_$r_$t;\n// $r\nend";
        let once = repeat_lines(source, "$r", 2);
        assert_eq!(once, "let a0 = 0u;\nlet a1 = 1u;\nsum_0_$t;\nsum_1_$t;\n// $r\nend\n");
        assert!(repeat_lines(&once, "$t", 2).contains("sum_1_0;\nsum_1_1;\n"));
    }
}
