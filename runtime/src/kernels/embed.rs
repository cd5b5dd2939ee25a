//! Rows of an embedding table. Never checks ids: the device does, before it runs a program.

/// `out[r] = table[ids[r]]`, or `+=` with `accumulate`. `table [entries, cols]`, `out [ids.len(), cols]`.
pub fn reference(table: &[f32], ids: &[u32], accumulate: bool, out: &mut [f32]) {
    let cols = out.len() / ids.len().max(1);
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(cols.max(1))) {
        let row = &table[*id as usize * cols..][..cols];
        for (out, row) in out.iter_mut().zip(row) {
            *out = if accumulate { *out + row } else { *row };
        }
    }
}
