// out = activation(x · weightᵀ + bias), for the rows of one shard of a weight.
//
// 16 lanes share an output element: lane j takes the units (8 elements) j, j + 16, … of the row in order, and the 16
// sums are added in the order of the lanes. Every tile has this one order, so a row's result depends neither on the
// number of rows nor on the tile. A line that names $r or $t stands once for each row of the weight, or of x, in the tile.

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

@group(0) @binding(0) var<storage, read_write> arena: array<vec4<f32>>;
@group(1) @binding(1) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<f32, GROUPS * TILE_ROWS * TILE_M * STRIDE>;

fn scalar(at: u32) -> f32 {
    return arena[at / 4u][at % 4u];
}

fn scalar_within(row: u32, at: u32) -> f32 {
    return select(0.0, scalar(row + min(at, p.cols - 1u)), at < p.cols);
}

fn load(row: u32, unit: u32) -> Eight {
    let at = 8u * unit;
    if (p.cols & 7u) == 0u {
        return Eight(arena[(row + at) / 4u], arena[(row + at) / 4u + 1u]);
    }
    return Eight(
        vec4<f32>(
            scalar_within(row, at), scalar_within(row, at + 1u), scalar_within(row, at + 2u), scalar_within(row, at + 3u)
        ),
        vec4<f32>(
            scalar_within(row, at + 4u), scalar_within(row, at + 5u), scalar_within(row, at + 6u), scalar_within(row, at + 7u)
        ),
    );
}

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
    for (var element = lane; element < GROUPS * TILE_ROWS * TILE_M; element += 64u) {
        let row = rows_first + element / TILE_M;
        let m = m_first + element % TILE_M;
        if row < p.rows && m < p.m {
            var sum = 0.0;
            for (var j = 0u; j < K_LANES; j += 1u) {
                sum += partial[element * STRIDE + j];
            }
            let column = p.row_first + row;
            if p.has_bias != 0u {
                sum += bias[column];
            }
            let at = p.out + m * p.out_cols + column;
            arena[at / 4u][at % 4u] = activate(p.activation, sum);
        }
    }
}
