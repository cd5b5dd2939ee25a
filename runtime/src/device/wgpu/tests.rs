//! The device against the references, on whatever adapter the machine has; software adapters will do.
//!
//! Without any adapter these tests are skipped loudly, or fail if `OUTRIDER_REQUIRE_WGPU=1`.

use std::sync::OnceLock;

use super::{WgpuDevice, adapters};
use crate::device::reference::ReferenceDevice;
use crate::device::testing::{Case, Random, Tensor, cases};
use crate::device::{Activation, Device, DeviceError, Op, ProgramBuilder, WeightId};
use crate::weights::{ElementType, TensorView};

/// Small enough that most weights of the case list have several shards, large enough for their longest rows.
const TINY_SHARD_BYTES: u64 = 20 << 10;

/// Opens the best adapter there is, by name, so that a software one is taken as well.
fn open(shard_bytes_max: u64) -> Option<WgpuDevice> {
    match adapters().first() {
        Some(adapter) => Some(WgpuDevice::open_with(Some(&adapter.name), shard_bytes_max).expect("the adapter opens")),
        None if std::env::var("OUTRIDER_REQUIRE_WGPU").as_deref() == Ok("1") => {
            panic!("OUTRIDER_REQUIRE_WGPU=1, but no Vulkan, Metal or Direct3D 12 adapter was found")
        }
        None => {
            eprintln!("SKIPPED: no wgpu adapter on this machine (install mesa-vulkan-drivers), kernels were not run");
            None
        }
    }
}

/// One device for all tests of the process: a driver's pipelines are compiled once for each device.
fn device() -> Option<&'static WgpuDevice> {
    static DEVICE: OnceLock<Option<WgpuDevice>> = OnceLock::new();
    DEVICE.get_or_init(|| open(u64::MAX)).as_ref()
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
