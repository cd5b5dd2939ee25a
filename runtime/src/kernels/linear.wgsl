// out = activation(x · weightᵀ + bias), for the rows of one shard of a weight.
//
// 16 lanes share an output element: lane j takes the units (8 elements) j, j + 16, … of the row in order, and the 16
// sums are added in the order of the lanes. Every tile has this one order, so a row's result depends neither on the
// number of rows nor on the tile. A line that names $r or $t stands once for each row of the weight, or of x, in the
// tile. One of the two sections at the end says how x is read and out written.

struct Params {
    x: u32,
    out: u32,
    m: u32,
    cols: u32,
    out_cols: u32,
    row_first: u32,
    rows: u32,
    row_words: u32,
    has_bias: u32,
    activation: u32,
}

const K_LANES: u32 = 16u;
const GROUPS: u32 = 4u;
// One word of padding, so that the 16 sums of neighbouring elements lie in different banks.
const STRIDE: u32 = K_LANES + 1u;

@group(1) @binding(1) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<f32, GROUPS * TILE_ROWS * TILE_M * STRIDE>;

fn accumulate(sum: f32, v: Eight, x: Eight) -> f32 {
    var s = fma(v.a.x, x.a.x, sum);
    s = fma(v.a.y, x.a.y, s);
    s = fma(v.a.z, x.a.z, s);
    s = fma(v.a.w, x.a.w, s);
    s = fma(v.b.x, x.b.x, s);
    s = fma(v.b.y, x.b.y, s);
    s = fma(v.b.z, x.b.z, s);
    return fma(v.b.w, x.b.w, s);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let k_lane = lane % K_LANES;
    let group = lane / K_LANES;
    let rows_first = workgroup.x * GROUPS * TILE_ROWS;
    let m_first = workgroup.y * TILE_M;
    let w$r = min(rows_first + group * TILE_ROWS + $ru, p.rows - 1u) * p.row_words;
    let x$t = p.x + min(m_first + $tu, p.m - 1u) * p.cols;
    var sum_$r_$t = 0.0;
    let units = (p.cols + 7u) / 8u;
    for (var unit = k_lane; unit < units; unit += K_LANES) {
        let v$r = unpack(w$r, unit);
        let u$t = load(x$t, unit);
        sum_$r_$t = accumulate(sum_$r_$t, v$r, u$t);
    }
    let mine = group * TILE_ROWS * TILE_M;
    partial[(mine + $ru * TILE_M + $tu) * STRIDE + k_lane] = sum_$r_$t;
    workgroupBarrier();
    // Four neighbouring elements of a row of `out` by one lane.
    for (var quad = lane; quad < GROUPS * TILE_ROWS / 4u * TILE_M; quad += 64u) {
        let row = 4u * (quad / TILE_M);
        let m = m_first + quad % TILE_M;
        if rows_first + row < p.rows && m < p.m {
            let at = row * TILE_M + quad % TILE_M;
            let column = p.row_first + rows_first + row;
            let sums = vec4<f32>(
                finish(at, column),
                finish(at + TILE_M, column + 1u),
                finish(at + 2u * TILE_M, column + 2u),
                finish(at + 3u * TILE_M, column + 3u),
            );
            store(p.out + m * p.out_cols + column, p.rows - rows_first - row, sums);
        }
    }
}

// The sum of an element's 16 parts, its bias and its activation. Beyond the last row it is computed and not stored.
fn finish(element: u32, column: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < K_LANES; j += 1u) {
        sum += partial[element * STRIDE + j];
    }
    if p.has_bias != 0u {
        sum += bias[min(column, p.out_cols - 1u)];
    }
    return activate(p.activation, sum);
}

//: Quads
// Columns of x are a multiple of 8; rows of the shard, columns of out and where they begin are multiples of 4.
// A store to one component may write the whole vector, so that other elements of a vector are never another lane's.

@group(0) @binding(0) var<storage, read_write> arena: array<vec4<f32>>;

fn load(row: u32, unit: u32) -> Eight {
    let at = (row + 8u * unit) / 4u;
    return Eight(arena[at], arena[at + 1u]);
}

fn store(at: u32, count: u32, sums: vec4<f32>) {
    arena[at / 4u] = sums;
}

//: Scalars
// Any shape.

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

fn within(row: u32, at: u32) -> f32 {
    return select(0.0, arena[row + min(at, p.cols - 1u)], at < p.cols);
}

fn load(row: u32, unit: u32) -> Eight {
    let at = 8u * unit;
    return Eight(
        vec4<f32>(within(row, at), within(row, at + 1u), within(row, at + 2u), within(row, at + 3u)),
        vec4<f32>(within(row, at + 4u), within(row, at + 5u), within(row, at + 6u), within(row, at + 7u)),
    );
}

fn store(at: u32, count: u32, sums: vec4<f32>) {
    arena[at] = sums.x;
    if count > 1u {
        arena[at + 1u] = sums.y;
    }
    if count > 2u {
        arena[at + 2u] = sums.z;
    }
    if count > 3u {
        arena[at + 3u] = sums.w;
    }
}
