//! [`Lanes`] as two 256-bit registers (AVX2, FMA and F16C).

use std::arch::x86_64::*;

use super::lanes::{LANES, Lanes};

#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

/// Masks for the first n of sixteen elements: eight words from here, eight from 8 further.
#[inline(always)]
unsafe fn first(n: usize) -> (__m256i, __m256i) {
    const SLOPE: [i32; 32] = {
        let mut slope = [0; 32];
        let mut i = 0;
        while i < 16 {
            slope[i] = -1;
            i += 1;
        }
        slope
    };
    let from = SLOPE[LANES - n.min(LANES)..].as_ptr();
    unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast())) }
}

macro_rules! both {
    ($name:ident, $instruction:ident) => {
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            unsafe { Avx2($instruction(self.0, other.0), $instruction(self.1, other.1)) }
        }
    };
}

#[inline(always)]
unsafe fn unit_nibble<const P: usize>(words: __m256i) -> __m256 {
    unsafe {
        let shifted = match P {
            0 => _mm256_slli_epi32::<19>(words),
            1 => _mm256_slli_epi32::<15>(words),
            2 => _mm256_slli_epi32::<11>(words),
            3 => _mm256_slli_epi32::<7>(words),
            4 => _mm256_slli_epi32::<3>(words),
            5 => _mm256_srli_epi32::<1>(words),
            6 => _mm256_srli_epi32::<5>(words),
            _ => _mm256_srli_epi32::<9>(words),
        };
        let nibble = _mm256_and_si256(shifted, _mm256_set1_epi32(0x0078_0000));
        _mm256_castsi256_ps(_mm256_or_si256(nibble, _mm256_set1_epi32(0x3F80_0000)))
    }
}

#[inline(always)]
unsafe fn exp2_integer(x: __m256) -> __m256 {
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

#[inline(always)]
unsafe fn bf16_8(from: *const u8) -> __m256 {
    unsafe {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}

#[inline(always)]
unsafe fn i8_8(from: *const u8) -> __m256 {
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Lanes for Avx2 {
    const TILE_ROWS: usize = 6;
    type Words = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Avx2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let (low, high) = first(n);
            Avx2(_mm256_maskload_ps(from, low), _mm256_maskload_ps(from.wrapping_add(8), high))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast()));
            Avx2(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        unsafe { Avx2(bf16_8(from), bf16_8(from.add(16))) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        unsafe { Avx2(i8_8(from), i8_8(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe {
            let (low, high) = first(n);
            _mm256_maskstore_ps(to, low, self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), high, self.1);
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> Self::Words {
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }

    #[inline(always)]
    unsafe fn unit_nibble<const P: usize>(words: Self::Words) -> Self {
        unsafe { Avx2(unit_nibble::<P>(words.0), unit_nibble::<P>(words.1)) }
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        unsafe { Avx2(_mm256_fmadd_ps(self.0, by.0, plus.0), _mm256_fmadd_ps(self.1, by.1, plus.1)) }
    }

    both!(add, _mm256_add_ps);
    both!(sub, _mm256_sub_ps);
    both!(mul, _mm256_mul_ps);
    both!(div, _mm256_div_ps);
    both!(max, _mm256_max_ps);
    both!(min, _mm256_min_ps);

    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Avx2(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        unsafe { Avx2(exp2_integer(self.0), exp2_integer(self.1)) }
    }

    #[inline(always)]
    unsafe fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, limit.1);
            Avx2(_mm256_blendv_ps(otherwise.0, then.0, low), _mm256_blendv_ps(otherwise.1, then.1, high))
        }
    }
}
