//! Which adapter to compute on: a real GPU by itself, a software one only when named. Never opens a device.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wgpu::{Adapter, AdapterInfo, Backends, DeviceType, Instance, InstanceDescriptor, InstanceFlags};

use crate::device::DeviceError;

/// One adapter, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSummary {
    /// The driver's name for it: `"NVIDIA H100 80GB HBM3"`, `"llvmpipe (LLVM 15.0.6, 256 bits)"`.
    pub name: String,
    /// `"Vulkan"`, `"Metal"` or `"Dx12"`.
    pub backend: String,
    /// `"discrete"`, `"integrated"`, `"virtual"`, `"software"` or `"other"`.
    pub kind: &'static str,
    /// Driver and version, for reports.
    pub driver: String,
}

/// All adapters, the most able kind first. Empty where no driver (or no Vulkan loader) is installed.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate().iter().map(|adapter| summary(&adapter.get_info())).collect()
}

/// Whether `auto` would find an adapter: a discrete, integrated or virtual GPU.
pub fn real_gpu() -> bool {
    enumerate().iter().any(|adapter| is_real(adapter.get_info().device_type))
}

/// The adapter to open: the first real GPU, or with `name` the first whose name contains it, whatever its case.
pub(super) fn select(name: Option<&str>) -> Result<Adapter, DeviceError> {
    let found = enumerate();
    let infos: Vec<AdapterInfo> = found.iter().map(Adapter::get_info).collect();
    match choose(&infos, name) {
        Some(at) => Ok(found.into_iter().nth(at).expect("the index is of this list")),
        None => Err(DeviceError::NoAdapter { wanted: name.unwrap_or("a real GPU").to_owned(), found: list(&infos) }),
    }
}

fn enumerate() -> Vec<Adapter> {
    let descriptor = InstanceDescriptor {
        backends: Backends::VULKAN | Backends::METAL | Backends::DX12,
        flags: InstanceFlags::empty(),
        ..InstanceDescriptor::new_without_display_handle()
    };
    if (Instance::enabled_backend_features() & descriptor.backends).is_empty() {
        return Vec::new();
    }
    let backends = descriptor.backends;
    let mut found = ready(Instance::new(descriptor).enumerate_adapters(backends));
    found.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    found
}

/// Position of the chosen adapter in a list sorted by rank.
fn choose(infos: &[AdapterInfo], name: Option<&str>) -> Option<usize> {
    match name {
        None => infos.iter().position(|info| is_real(info.device_type)),
        Some(name) => {
            let name = name.to_lowercase();
            infos.iter().position(|info| info.name.to_lowercase().contains(&name))
        }
    }
}

fn list(infos: &[AdapterInfo]) -> String {
    if infos.is_empty() {
        return "none (no Vulkan, Metal or Direct3D 12 driver answered)".to_owned();
    }
    let words: Vec<String> = infos
        .iter()
        .map(|info| {
            let summary = summary(info);
            format!("{:?} ({}, {})", summary.name, summary.kind, summary.backend)
        })
        .collect();
    words.join(", ")
}

fn summary(info: &AdapterInfo) -> AdapterSummary {
    AdapterSummary {
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        kind: match info.device_type {
            DeviceType::DiscreteGpu => "discrete",
            DeviceType::IntegratedGpu => "integrated",
            DeviceType::VirtualGpu => "virtual",
            DeviceType::Cpu => "software",
            DeviceType::Other => "other",
        },
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
    }
}

/// A laptop's discrete GPU stands after its integrated one in many drivers' lists.
fn rank(device_type: DeviceType) -> u8 {
    match device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

fn is_real(device_type: DeviceType) -> bool {
    rank(device_type) < 3
}

/// Drives a future of wgpu's native backends, which are ready when first asked; yields between tries all the same.
pub(super) fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::Backend;

    fn info(name: &str, device_type: DeviceType) -> AdapterInfo {
        let mut info = AdapterInfo::new(device_type, Backend::Vulkan);
        info.name = name.to_owned();
        info
    }

    #[test]
    fn which_adapter_is_chosen() {
        let mut infos = vec![
            info("llvmpipe (LLVM 15.0.6, 256 bits)", DeviceType::Cpu),
            info("Intel Iris Xe", DeviceType::IntegratedGpu),
            info("NVIDIA H100", DeviceType::DiscreteGpu),
        ];
        infos.sort_by_key(|info| rank(info.device_type));
        let name_of = |wanted| choose(&infos, wanted).map(|at| infos[at].name.as_str());
        assert_eq!(name_of(None), Some("NVIDIA H100"), "discrete before integrated");
        assert_eq!(name_of(Some("iris")), Some("Intel Iris Xe"));
        assert_eq!(name_of(Some("LLVMpipe")), Some("llvmpipe (LLVM 15.0.6, 256 bits)"), "software when named");
        assert_eq!(name_of(Some("radeon")), None);
        let software = &infos[2..];
        assert_eq!(choose(software, None), None, "auto never takes a software adapter");
        assert!(list(software).contains("llvmpipe") && list(software).contains("software"), "{}", list(software));
    }

    #[test]
    fn does_listing_adapters_work_on_any_machine() {
        let real = adapters().iter().any(|a| ["discrete", "integrated", "virtual"].contains(&a.kind));
        assert_eq!(real, real_gpu());
    }
}
