// Rotates q and k in place; stores k and v in the slot of each row. One invocation for a pair of elements of a head.

struct Params {
    qkv: u32,
    cos_sin: u32,
    slots: u32,
    m: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    rope_dim: u32,
    block_tokens: u32,
    halves: u32,
}

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;
@group(1) @binding(0) var<storage, read_write> keys: array<f32>;
@group(1) @binding(1) var<storage, read_write> values: array<f32>;

fn store(row: u32, head: u32, element: u32, value: f32) {
    let turned = p.heads + p.kv_heads;
    if head < turned {
        arena[p.qkv + (row * (turned + p.kv_heads) + head) * p.head_dim + element] = value;
    }
    if head < p.heads {
        return;
    }
    let slot = inputs[p.slots + row];
    let kv_head = (head - p.heads) % p.kv_heads;
    let line = (slot / p.block_tokens * p.kv_heads + kv_head) * p.block_tokens + slot % p.block_tokens;
    if head < turned {
        keys[line * p.head_dim + element] = value;
    } else {
        values[line * p.head_dim + element] = value;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let all_heads = p.heads + 2u * p.kv_heads;
    let pairs = (p.head_dim + 1u) / 2u;
    let task = flat(workgroup) * 64u + lane;
    let row = task / (all_heads * pairs);
    if row >= p.m {
        return;
    }
    let head = task / pairs % all_heads;
    let pair = task % pairs;
    let half_rope = p.rope_dim / 2u;
    let rotated = pair < half_rope && head < p.heads + p.kv_heads;
    let by_halves = pair < half_rope && p.halves != 0u;
    let first = select(2u * pair, pair, by_halves);
    let second = select(2u * pair + 1u, pair + half_rope, by_halves);
    let at = p.qkv + (row * all_heads + head) * p.head_dim;
    let a = arena[at + first];
    if second >= p.head_dim {
        store(row, head, first, a);
        return;
    }
    let b = arena[at + second];
    if !rotated {
        store(row, head, first, a);
        store(row, head, second, b);
        return;
    }
    let angle = p.cos_sin + row * p.rope_dim + pair;
    let c = bitcast<f32>(inputs[angle]);
    let s = bitcast<f32>(inputs[angle + half_rope]);
    store(row, head, first, a * c - b * s);
    store(row, head, second, a * s + b * c);
}
