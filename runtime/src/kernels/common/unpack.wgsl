// What the words of a packed weight mean: `unpack(row, unit)` gives elements 8 · unit .. 8 · unit + 8 of the row that
// begins at word `row`. One section for each element type; the kernel that reads weights is joined to one of them.
// The layout is written by `device/wgpu/pack.rs`: first the quants of the whole row, then its scales.

@group(1) @binding(0) var<storage, read> w: array<u32>;

struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

// A half by integer arithmetic: `unpack2x16float` may flush subnormals, and block scales are often that small.
fn half(bits: u32) -> f32 {
    let exponent = (bits >> 10u) & 31u;
    let mantissa = bits & 1023u;
    let wide = select(exponent + 112u, 255u, exponent == 31u);
    let normal = bitcast<f32>((wide << 23u) | (mantissa << 13u));
    let size = select(normal, f32(mantissa) * 5.9604644775390625e-8, exponent == 0u);
    return select(size, -size, (bits & 0x8000u) != 0u);
}

fn half_at(at: u32, index: u32) -> f32 {
    return half(w[at + index / 2u] >> (16u * (index & 1u)));
}

fn nibbles(word: u32) -> Eight {
    let low = vec4<u32>(word, word >> 4u, word >> 8u, word >> 12u);
    let high = vec4<u32>(word >> 16u, word >> 20u, word >> 24u, word >> 28u);
    return Eight(vec4<f32>(low & vec4<u32>(15u)), vec4<f32>(high & vec4<u32>(15u)));
}

// Eight numbers of 5 bits: nibbles, and their fifth bits in the low byte of `bits`.
fn fives(word: u32, bits: u32) -> Eight {
    let q = nibbles(word);
    let low = (vec4<u32>(bits) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u);
    let high = (vec4<u32>(bits) >> vec4<u32>(4u, 5u, 6u, 7u)) & vec4<u32>(1u);
    return Eight(q.a + 16.0 * vec4<f32>(low), q.b + 16.0 * vec4<f32>(high));
}

fn signed_bytes(word: u32) -> vec4<f32> {
    let left = bitcast<vec4<i32>>(vec4<u32>(word << 24u, word << 16u, word << 8u, word));
    return vec4<f32>(left >> vec4<u32>(24u));
}

fn scaled(q: Eight, zero: f32, scale: f32) -> Eight {
    return Eight((q.a - vec4<f32>(zero)) * scale, (q.b - vec4<f32>(zero)) * scale);
}

fn affine(q: Eight, scale: f32, low: f32) -> Eight {
    return Eight(fma(q.a, vec4<f32>(scale), vec4<f32>(low)), fma(q.b, vec4<f32>(scale), vec4<f32>(low)));
}

// Q4_K and Q5_K: one word of two halves for the block, then 8 pairs of a scale and a min, a byte each.
fn k_affine(q: Eight, at: u32, group: u32) -> Eight {
    let block = w[at];
    let pair = w[at + 1u + group / 2u] >> (16u * (group & 1u));
    let scale = half(block) * f32(pair & 255u);
    let low = half(block >> 16u) * f32((pair >> 8u) & 255u);
    return affine(q, scale, -low);
}

//: F32
fn unpack(row: u32, unit: u32) -> Eight {
    let at = row + 8u * unit;
    return Eight(
        bitcast<vec4<f32>>(vec4<u32>(w[at], w[at + 1u], w[at + 2u], w[at + 3u])),
        bitcast<vec4<f32>>(vec4<u32>(w[at + 4u], w[at + 5u], w[at + 6u], w[at + 7u])),
    );
}

//: F16
fn unpack(row: u32, unit: u32) -> Eight {
    let at = row + 4u * unit;
    let words = vec4<u32>(w[at], w[at + 1u], w[at + 2u], w[at + 3u]);
    return Eight(
        vec4<f32>(half(words.x), half(words.x >> 16u), half(words.y), half(words.y >> 16u)),
        vec4<f32>(half(words.z), half(words.z >> 16u), half(words.w), half(words.w >> 16u)),
    );
}

//: BF16
fn unpack(row: u32, unit: u32) -> Eight {
    let at = row + 4u * unit;
    let words = vec4<u32>(w[at], w[at + 1u], w[at + 2u], w[at + 3u]);
    let low = words << vec4<u32>(16u);
    let high = words & vec4<u32>(0xffff0000u);
    return Eight(
        bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y)),
        bitcast<vec4<f32>>(vec4<u32>(low.z, high.z, low.w, high.w)),
    );
}

//: Q4_0
fn unpack(row: u32, unit: u32) -> Eight {
    let blocks = p.cols / 32u;
    return scaled(nibbles(w[row + unit]), 8.0, half_at(row + 4u * blocks, unit / 4u));
}

//: Q4_1
fn unpack(row: u32, unit: u32) -> Eight {
    let scales = w[row + p.cols / 8u + unit / 4u];
    return affine(nibbles(w[row + unit]), half(scales), half(scales >> 16u));
}

//: Q5_0
fn unpack(row: u32, unit: u32) -> Eight {
    let blocks = p.cols / 32u;
    let bits = w[row + 4u * blocks + unit / 4u] >> (8u * (unit & 3u));
    return scaled(fives(w[row + unit], bits), 16.0, half_at(row + 5u * blocks, unit / 4u));
}

//: Q5_1
fn unpack(row: u32, unit: u32) -> Eight {
    let blocks = p.cols / 32u;
    let bits = w[row + 4u * blocks + unit / 4u] >> (8u * (unit & 3u));
    let scales = w[row + 5u * blocks + unit / 4u];
    return affine(fives(w[row + unit], bits), half(scales), half(scales >> 16u));
}

//: Q8_0
fn unpack(row: u32, unit: u32) -> Eight {
    let q = Eight(signed_bytes(w[row + 2u * unit]), signed_bytes(w[row + 2u * unit + 1u]));
    return scaled(q, 0.0, half_at(row + p.cols / 4u, unit / 4u));
}

//: Q4_K
fn unpack(row: u32, unit: u32) -> Eight {
    let at = row + p.cols / 8u + 5u * (unit / 32u);
    return k_affine(nibbles(w[row + unit]), at, (unit / 4u) & 7u);
}

//: Q5_K
fn unpack(row: u32, unit: u32) -> Eight {
    let high = row + p.cols / 8u;
    let bits = w[high + unit / 4u] >> (8u * (unit & 3u));
    let at = high + p.cols / 32u + 5u * (unit / 32u);
    return k_affine(fives(w[row + unit], bits), at, (unit / 4u) & 7u);
}

//: Q6_K
fn unpack(row: u32, unit: u32) -> Eight {
    let high = row + p.cols / 8u;
    let bits = w[high + unit / 2u] >> (16u * (unit & 1u));
    let low = nibbles(w[row + unit]);
    let a = (vec4<u32>(bits) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u);
    let b = (vec4<u32>(bits) >> vec4<u32>(8u, 10u, 12u, 14u)) & vec4<u32>(3u);
    let q = Eight(low.a + 16.0 * vec4<f32>(a), low.b + 16.0 * vec4<f32>(b));
    let at = high + p.cols / 16u + 5u * (unit / 32u);
    let group = (unit / 2u) & 15u;
    let scale = bitcast<i32>(w[at + 1u + group / 4u] << (24u - 8u * (group & 3u))) >> 24u;
    return scaled(q, 32.0, half(w[at]) * f32(scale));
}
