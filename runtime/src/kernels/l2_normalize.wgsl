// out = x / max(‖x‖₂, 1e-12), by row.

struct Params {
    x: u32,
    out: u32,
    m: u32,
    cols: u32,
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat(workgroup);
    if row >= p.m {
        return;
    }
    let at = row * p.cols;
    var squares = 0.0;
    for (var i = lane; i < p.cols; i += LANES) {
        let value = arena[p.x + at + i];
        squares = fma(value, value, squares);
    }
    let norm = max(sqrt(sum_over_row(lane, squares)), 1e-12);
    for (var i = lane; i < p.cols; i += LANES) {
        arena[p.out + at + i] = arena[p.x + at + i] / norm;
    }
}
