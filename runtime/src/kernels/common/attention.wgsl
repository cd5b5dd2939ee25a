// Attention of one row and one head by one workgroup, in tiles of 64 positions with a running maximum (online softmax).
// A kernel joined to this says how many positions a row sees, where key and value of one lie, and how to read them.
// A row's sums depend on its own positions only. Lane l owns output elements l, l + 64, l + 128 and l + 192.

const LANES: u32 = 64u;
const HEAD_DIM_MAX: u32 = 256u;
const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

var<workgroup> query: array<f32, HEAD_DIM_MAX>;
var<workgroup> scores: array<f32, LANES>;
var<workgroup> places: array<u32, LANES>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let task = flat(workgroup);
    let row = task / p.heads;
    let head = task % p.heads;
    if row >= p.m {
        return;
    }
    let q = p.qkv + row * p.qkv_cols + head * p.head_dim;
    for (var d = lane; d < p.head_dim; d += LANES) {
        query[d] = arena[q + d];
    }
    workgroupBarrier();
    let seen = seen_by(row);
    var highest = LOWEST;
    var total = 0.0;
    var out_$s = 0.0;
    for (var first = 0u; first < seen; first += LANES) {
        let live = min(LANES, seen - first);
        if lane < live {
            let at = place_of(row, head, first + lane);
            var score = 0.0;
            for (var d = 0u; d < p.head_dim; d += 1u) {
                score = fma(query[d], key(at + d), score);
            }
            scores[lane] = score * p.scale;
            places[lane] = at;
        }
        workgroupBarrier();
        var high = highest;
        for (var j = 0u; j < live; j += 1u) {
            high = max(high, scores[j]);
        }
        workgroupBarrier();
        scores[lane] = exp(scores[lane] - high);
        workgroupBarrier();
        let keep = exp(highest - high);
        highest = high;
        total *= keep;
        out_$s *= keep;
        for (var j = 0u; j < live; j += 1u) {
            let weight = scores[j];
            let at = places[j] + lane;
            total += weight;
            if lane + 64u * $su < p.head_dim { out_$s = fma(weight, value(at + 64u * $su), out_$s); }
        }
        workgroupBarrier();
    }
    let scale = select(1.0 / total, 0.0, total == 0.0);
    let out = p.out + (row * p.heads + head) * p.head_dim + lane;
    if lane + 64u * $su < p.head_dim { arena[out + 64u * $su] = out_$s * scale; }
}
