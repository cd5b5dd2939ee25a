// Bidirectional attention within each sequence: row r sees the rows starts[s] .. starts[s + 1] that hold it.

struct Params {
    qkv: u32,
    out: u32,
    m: u32,
    qkv_cols: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    scale: f32,
    starts: u32,
    sequences: u32,
}

// The sequence that holds a row, by bisection: the last one that starts at or before it. Empty sequences hold none.
fn sequence_of(row: u32) -> u32 {
    var low = 0u;
    var high = p.sequences;
    while high - low > 1u {
        let middle = (low + high) / 2u;
        if inputs[p.starts + middle] <= row {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

fn seen_by(row: u32) -> u32 {
    let at = p.starts + sequence_of(row);
    return inputs[at + 1u] - inputs[at];
}

// The place of a key in the arena; its value lies heads · head_dim elements further.
fn place_of(row: u32, head: u32, position: u32) -> u32 {
    let other = inputs[p.starts + sequence_of(row)] + position;
    return p.qkv + other * p.qkv_cols + (p.heads + head) * p.head_dim;
}

fn key(at: u32) -> f32 {
    return arena[at];
}

fn value(at: u32) -> f32 {
    return arena[at + p.heads * p.head_dim];
}
