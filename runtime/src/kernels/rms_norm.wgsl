// Optionally x += add, kept in x; then out = x / sqrt(mean(x²) + eps) · weight, by row.

struct Params {
    x: u32,
    add: u32,
    out: u32,
    m: u32,
    cols: u32,
    has_add: u32,
    eps: f32,
}

@group(1) @binding(0) var<storage, read> weight: array<f32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat(workgroup);
    if row >= p.m {
        return;
    }
    let x = p.x + row * p.cols;
    var squares = 0.0;
    for (var i = lane; i < p.cols; i += LANES) {
        var value = arena[x + i];
        if p.has_add != 0u {
            value += arena[p.add + row * p.cols + i];
            arena[x + i] = value;
        }
        squares = fma(value, value, squares);
    }
    let mean = sum_over_row(lane, squares) / f32(p.cols);
    let scale = 1.0 / sqrt(mean + p.eps);
    for (var i = lane; i < p.cols; i += LANES) {
        arena[p.out + row * p.cols + i] = arena[x + i] * scale * weight[i];
    }
}
