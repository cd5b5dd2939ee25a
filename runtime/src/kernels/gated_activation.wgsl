// out = activation(gate) · up, where a row of gate_up holds gate, then up.

struct Params {
    gate_up: u32,
    out: u32,
    m: u32,
    cols: u32,
    activation: u32,
}

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let task = flat(workgroup) * 64u + lane;
    let row = task / p.cols;
    if row >= p.m {
        return;
    }
    let gate = p.gate_up + row * 2u * p.cols + task % p.cols;
    arena[p.out + task] = activate(p.activation, arena[gate]) * arena[gate + p.cols];
}
