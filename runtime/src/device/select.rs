//! Which device to open. `auto` pays for the enumeration of adapters only where there can be a GPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cpu::CpuDevice;
use super::wgpu::WgpuDevice;
use super::{Device, DeviceError};
use crate::config::DeviceChoice;

/// An open device.
pub struct Opened {
    pub device: Arc<dyn Device>,
    /// Whether the first run compiles kernels, so that a warm-up is worth its time.
    pub compiles: bool,
}

/// Opens the chosen device; `threads` is for the cpu device.
///
/// # Errors
/// An adapter was asked for and none matches, or its driver refused.
pub fn open(choice: &DeviceChoice, threads: Option<usize>) -> Result<Opened, DeviceError> {
    let cpu = || Opened { device: Arc::new(CpuDevice::new(threads, None)), compiles: false };
    let wgpu = |selector: Option<&str>| -> Result<Opened, DeviceError> {
        Ok(Opened { device: Arc::new(WgpuDevice::open(selector)?), compiles: true })
    };
    match choice {
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Wgpu(selector) => wgpu(selector.as_deref()),
        DeviceChoice::Auto if !may_have_gpu() => Ok(cpu()),
        DeviceChoice::Auto => Ok(wgpu(None).unwrap_or_else(|error| {
            tracing::info!(%error, "no GPU to compute on, taking the cpu");
            cpu()
        })),
    }
}

/// Whether a look for adapters is worth 80 to 250 ms: on Linux, a GPU has a device node, and a Vulkan driver that is
/// not Mesa's software one has a manifest where the loader looks.
fn may_have_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let node = ["/dev/dri", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd"].iter().any(|node| Path::new(node).exists());
    node && manifests().iter().any(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.contains("lvp") && !name.contains("swiftshader")
    })
}

/// Vulkan driver manifests, by the loader's search rules (Vulkan-Loader, LoaderDriverInterface.md).
fn manifests() -> Vec<PathBuf> {
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        if let Some(files) = std::env::var_os(variable) {
            return std::env::split_paths(&files).collect();
        }
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let folders = [
        "/etc/vulkan/icd.d",
        "/usr/local/etc/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
        "/usr/share/vulkan/icd.d",
    ];
    let homes = [home.join(".config/vulkan/icd.d"), home.join(".local/share/vulkan/icd.d")];
    let data = std::env::var_os("XDG_DATA_DIRS").unwrap_or_default();
    let all = folders
        .iter()
        .map(PathBuf::from)
        .chain(homes)
        .chain(std::env::split_paths(&data).map(|d| d.join("vulkan/icd.d")));
    all.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten().map(|entry| entry.path()).collect()
}
