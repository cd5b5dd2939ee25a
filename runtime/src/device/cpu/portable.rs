//! [`Lanes`] in plain Rust: loops over sixteen elements that compilers turn into whatever vectors there are.
//!
//! Fuses multiply and add only where the target surely can (aarch64): a software `mul_add` is a hundred times slower.

use half::{bf16, f16};

use super::lanes::{LANES, Lanes};

const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    const TILE_ROWS: usize = 4;
    type Words = [u32; LANES];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Portable(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        Portable(std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Portable(halves.map(|bits| f16::from_bits(bits).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Portable(halves.map(|bits| bf16::from_bits(bits).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        let bytes = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        Portable(bytes.map(f32::from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        for i in 0..n.min(LANES) {
            unsafe { *to.add(i) = self.0[i] };
        }
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> Self::Words {
        unsafe { from.cast::<[u32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn unit_nibble<const P: usize>(words: Self::Words) -> Self {
        Portable(words.map(|word| f32::from_bits(((word >> (4 * P)) & 15) << 19 | 0x3F80_0000)))
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        Portable(std::array::from_fn(|i| match FUSED {
            true => self.0[i].mul_add(by.0[i], plus.0[i]),
            false => self.0[i] * by.0[i] + plus.0[i],
        }))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding and taking away 1.5 · 2²³ rounds to even; exact for the small numbers that `exp` passes.
        Portable(self.0.map(|x| (x + 12_582_912.0) - 12_582_912.0))
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        Portable(self.0.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32)))
    }

    #[inline(always)]
    unsafe fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        Portable(std::array::from_fn(|i| if self.0[i] < limit.0[i] { then.0[i] } else { otherwise.0[i] }))
    }
}
