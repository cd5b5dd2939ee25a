// out[i] = x[rows[i]].

struct Params {
    x: u32,
    rows: u32,
    out: u32,
    m: u32,
    cols: u32,
}

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let task = flat(workgroup) * 64u + lane;
    let row = task / p.cols;
    if row >= p.m {
        return;
    }
    arena[p.out + task] = arena[p.x + inputs[p.rows + row] * p.cols + task % p.cols];
}
