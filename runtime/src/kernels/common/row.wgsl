// One workgroup works on one row: lane l owns elements l, l + 128, …; sums over the row have one order, a tree.

const LANES: u32 = 128u;

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

var<workgroup> sums: array<f32, LANES>;

// The sum of every lane's part, known to all lanes. The last barrier lets the next sum reuse the array.
fn sum_over_row(lane: u32, part: f32) -> f32 {
    sums[lane] = part;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if lane < width {
            sums[lane] += sums[lane + width];
        }
        workgroupBarrier();
    }
    let total = sums[0];
    workgroupBarrier();
    return total;
}
