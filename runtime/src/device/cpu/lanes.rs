//! Sixteen f32 at a time: the one vocabulary in which every CPU kernel is written.
//!
//! Each instruction set implements [`Lanes`] in a file of its own; kernels are generic over it, so that all
//! instruction sets with a fused multiply-add compute the same operations in the same order and agree bit for bit.
//! Everything is `#[inline(always)]`: the instructions only exist inside the `#[target_feature]` entry points.

use crate::device::Activation;

/// Lanes of a vector; also the rows of one packed weight group.
pub const LANES: usize = 16;

/// Sixteen f32.
///
/// # Safety
/// All functions may only run on a machine with the implementation's instructions, and pointers must be good for
/// the elements they name.
#[allow(clippy::missing_safety_doc)]
pub trait Lanes: Copy {
    /// Most rows of a GEMM tile that leave the accumulators in registers.
    const TILE_ROWS: usize;
    /// Sixteen 32-bit words of eight nibbles each.
    type Words: Copy;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Loads the first `n ≤ 16` elements, zeros after them.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn load_i8(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_first(self, to: *mut f32, n: usize);

    /// Asks for the cache line at an address, which need not be good.
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}

    unsafe fn load_words(from: *const u8) -> Self::Words;
    /// `1 + q / 16` for nibble number `P` of each word: the nibble becomes the top of the mantissa of 1.0.
    unsafe fn unit_nibble<const P: usize>(words: Self::Words) -> Self;

    /// `self · by + plus`, rounded once where the machine can.
    unsafe fn fma(self, by: Self, plus: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// To the nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// 2 to the power of an integer in −126 ..= 127.
    unsafe fn exp2_integer(self) -> Self;
    /// `if self < limit { then } else { otherwise }`, lane by lane.
    unsafe fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self::splat(0.0) }
    }

    /// The sum of all lanes, always by the same tree: halves, quarters, pairs.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut a = [0.0f32; LANES];
        unsafe { self.store(a.as_mut_ptr()) };
        for i in 0..8 {
            a[i] += a[i + 8];
        }
        for i in 0..4 {
            a[i] += a[i + 4];
        }
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut a = [0.0f32; LANES];
        unsafe { self.store(a.as_mut_ptr()) };
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// e to the power of x, to about one unit in the last place; saturates instead of overflowing to infinity.
#[inline(always)]
pub unsafe fn exp<L: Lanes>(x: L) -> L {
    unsafe {
        let x = x.max(L::splat(-87.3)).min(L::splat(88.0));
        let n = x.mul(L::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts (Cody and Waite), so that x − n · ln 2 keeps its low bits.
        let r = n.fma(L::splat(-0.693_359_4), x);
        let r = n.fma(L::splat(2.121_944_4e-4), r);
        let p = L::splat(1.987_569_1e-4).fma(r, L::splat(1.398_199_9e-3));
        let p = p.fma(r, L::splat(8.333_452e-3));
        let p = p.fma(r, L::splat(4.166_579_6e-2));
        let p = p.fma(r, L::splat(0.166_666_65));
        let p = p.fma(r, L::splat(0.5));
        let p = p.fma(r.mul(r), r.add(L::splat(1.0)));
        p.mul(n.exp2_integer())
    }
}

#[inline(always)]
unsafe fn tanh<L: Lanes>(x: L) -> L {
    unsafe {
        let one = L::splat(1.0);
        let e = exp(x.add(x));
        let far = one.sub(L::splat(2.0).div(e.add(one)));
        // Near zero the difference above cancels; there the odd Taylor polynomial is exact to f32.
        let s = x.mul(x);
        let p = L::splat(-1382.0 / 155_925.0).fma(s, L::splat(62.0 / 2835.0));
        let p = p.fma(s, L::splat(-17.0 / 315.0));
        let p = p.fma(s, L::splat(2.0 / 15.0));
        let p = p.fma(s, L::splat(-1.0 / 3.0));
        let near = p.mul(s).fma(x, x);
        s.if_less(L::splat(0.04), near, far)
    }
}

/// The error function to about 2e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
unsafe fn erf<L: Lanes>(x: L) -> L {
    unsafe {
        let (zero, one) = (L::zero(), L::splat(1.0));
        let a = x.max(zero.sub(x));
        let t = one.div(L::splat(0.327_591_1).fma(a, one));
        let p = L::splat(1.061_405_4).fma(t, L::splat(-1.453_152));
        let p = p.fma(t, L::splat(1.421_413_7));
        let p = p.fma(t, L::splat(-0.284_496_74));
        let p = p.fma(t, L::splat(0.254_829_6)).mul(t);
        let y = one.sub(p.mul(exp(zero.sub(a.mul(a)))));
        x.if_less(zero, zero.sub(y), y)
    }
}

#[inline(always)]
pub unsafe fn activate<L: Lanes>(activation: Activation, x: L) -> L {
    unsafe {
        let (half, one) = (L::splat(0.5), L::splat(1.0));
        match activation {
            Activation::None => x,
            Activation::Relu => x.max(L::zero()),
            Activation::Tanh => tanh(x),
            Activation::Silu => x.div(exp(L::zero().sub(x)).add(one)),
            Activation::GeluErf => {
                let y = erf(x.mul(L::splat(std::f32::consts::FRAC_1_SQRT_2)));
                x.mul(half).mul(y.add(one))
            }
            Activation::GeluTanh => {
                let cube = x.mul(x).mul(x);
                let inner = cube.fma(L::splat(0.044_715), x).mul(L::splat(0.797_884_6));
                x.mul(half).mul(tanh(inner).add(one))
            }
        }
    }
}
