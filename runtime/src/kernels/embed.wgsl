// out[r] (+)= table[ids[r]], for the rows of one shard of the table: ids outside the shard are another dispatch's.

struct Params {
    ids: u32,
    out: u32,
    m: u32,
    cols: u32,
    row_first: u32,
    rows: u32,
    row_words: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

fn put(at: u32, column: u32, value: f32) {
    if column < p.cols {
        let before = select(0.0, arena[at + column], p.accumulate != 0u);
        arena[at + column] = before + value;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let units = (p.cols + 7u) / 8u;
    let task = flat(workgroup) * 64u + lane;
    let row = task / units;
    if row >= p.m {
        return;
    }
    let unit = task % units;
    let id = inputs[p.ids + row];
    if id < p.row_first || id - p.row_first >= p.rows {
        return;
    }
    let v = unpack((id - p.row_first) * p.row_words, unit);
    let at = p.out + row * p.cols;
    let column = 8u * unit;
    put(at, column, v.a.x);
    put(at, column + 1u, v.a.y);
    put(at, column + 2u, v.a.z);
    put(at, column + 3u, v.a.w);
    put(at, column + 4u, v.b.x);
    put(at, column + 5u, v.b.y);
    put(at, column + 6u, v.b.z);
    put(at, column + 7u, v.b.w);
}
