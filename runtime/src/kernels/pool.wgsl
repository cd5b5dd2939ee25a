// One row for each sequence: the mean (0), the first (1) or the last (2) of its rows. One invocation for a column.

struct Params {
    x: u32,
    starts: u32,
    out: u32,
    m: u32,
    cols: u32,
    pooling: u32,
}

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let task = flat(workgroup) * 64u + lane;
    let sequence = task / p.cols;
    if sequence >= p.m {
        return;
    }
    let column = p.x + task % p.cols;
    var first = inputs[p.starts + sequence];
    var end = inputs[p.starts + sequence + 1u];
    if p.pooling == 1u {
        end = first + 1u;
    } else if p.pooling == 2u {
        first = end - 1u;
    }
    var sum = 0.0;
    for (var row = first; row < end; row += 1u) {
        sum += arena[column + row * p.cols];
    }
    arena[p.out + task] = sum / f32(end - first);
}
