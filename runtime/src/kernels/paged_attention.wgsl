// Causal attention over the paged cache: row r sees positions 0 ..= position[r] of its sequence.

struct Params {
    qkv: u32,
    out: u32,
    m: u32,
    qkv_cols: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    scale: f32,
    sequence: u32,
    position: u32,
    block_tables: u32,
    table_width: u32,
    block_tokens: u32,
}

@group(1) @binding(0) var<storage, read_write> keys: array<f32>;
@group(1) @binding(1) var<storage, read_write> values: array<f32>;

fn seen_by(row: u32) -> u32 {
    return inputs[p.position + row] + 1u;
}

fn place_of(row: u32, head: u32, position: u32) -> u32 {
    let entry = inputs[p.sequence + row] * p.table_width + position / p.block_tokens;
    let block = inputs[p.block_tables + entry];
    let kv_head = head / (p.heads / p.kv_heads);
    return ((block * p.kv_heads + kv_head) * p.block_tokens + position % p.block_tokens) * p.head_dim;
}

fn key(at: u32) -> f32 {
    return keys[at];
}

fn value(at: u32) -> f32 {
    return values[at];
}
