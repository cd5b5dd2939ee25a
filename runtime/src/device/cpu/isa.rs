//! Instruction sets: which there are, which this machine has, and the entry points of the kernels for each.
//!
//! The only place that may call instructions the build does not assume: an entry is reached through [`Isa::kernels`],
//! which hands out none that the machine lacks.

use super::linear::Linear;
use super::memory::Scratch;
use super::{attention, linear, panel, portable::Portable, rope, rows};

/// An instruction set the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Avx512,
    Avx2,
    /// What the build's target assumes (SSE2 on x86-64, NEON on aarch64).
    Portable,
}

/// The entry points for one instruction set: each runs one chunk of a task.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub linear_fused: unsafe fn(&Linear, usize),
    pub linear_panel: unsafe fn(&Linear, usize, &mut Scratch),
    pub linear_vector: unsafe fn(&Linear, usize),
    pub rows: unsafe fn(&rows::Rows<'_>, usize),
    pub rope: unsafe fn(&rope::RopeKv<'_>, usize),
    pub attention: unsafe fn(&attention::Attention<'_>, usize, &mut Scratch),
}

impl Isa {
    /// All that this machine can run, best first.
    pub fn available() -> Vec<Isa> {
        [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|isa| isa.kernels().is_some()).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable if cfg!(target_arch = "aarch64") => "neon",
            Isa::Portable => "portable",
        }
    }

    /// The kernels, if this machine can run them.
    pub fn kernels(self) -> Option<Kernels> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => has_avx512().then(avx512_entries::kernels),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => has_avx2().then(avx2_entries::kernels),
            Isa::Portable => Some(portable_entries::kernels()),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Entry points for one [`super::lanes::Lanes`]: groups at once for one row, for more rows, and in a panel.
macro_rules! entries {
    ($module:ident, $lanes:ty, ($one:literal, $few:literal, $panel:literal) $(, $feature:meta)?) => {
        mod $module {
            use super::*;

            pub fn kernels() -> Kernels {
                Kernels { linear_fused, linear_panel, linear_vector, rows, rope, attention }
            }

            $(#[$feature])?
            unsafe fn linear_fused(task: &Linear, chunk: usize) {
                unsafe { linear::fused_chunk::<$lanes, $one, $few>(task, chunk) }
            }

            $(#[$feature])?
            unsafe fn linear_panel(task: &Linear, chunk: usize, scratch: &mut Scratch) {
                unsafe { panel::panel_chunk::<$lanes, $panel>(task, chunk, scratch) }
            }

            $(#[$feature])?
            unsafe fn linear_vector(task: &Linear, chunk: usize) {
                unsafe { linear::vector_chunk::<$lanes>(task, chunk) }
            }

            $(#[$feature])?
            unsafe fn rows(task: &rows::Rows<'_>, chunk: usize) {
                unsafe { rows::chunk::<$lanes>(task, chunk) }
            }

            $(#[$feature])?
            unsafe fn rope(task: &rope::RopeKv<'_>, chunk: usize) {
                unsafe { rope::chunk::<$lanes>(task, chunk) }
            }

            $(#[$feature])?
            unsafe fn attention(task: &attention::Attention<'_>, chunk: usize, scratch: &mut Scratch) {
                unsafe { attention::chunk::<$lanes>(task, chunk, scratch) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
entries!(
    avx512_entries,
    crate::device::cpu::avx512::Avx512,
    (4, 2, 2),
    target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
);
#[cfg(target_arch = "x86_64")]
entries!(avx2_entries, crate::device::cpu::avx2::Avx2, (2, 1, 1), target_feature(enable = "avx2,fma,f16c"));
entries!(portable_entries, Portable, (1, 1, 1));
