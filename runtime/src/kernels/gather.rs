//! Selects rows: the ones whose logits are wanted.

/// `out[i] = x[rows[i]]`, with `cols` elements in each row.
pub fn reference(x: &[f32], cols: usize, rows: &[u32], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out.chunks_exact_mut(cols)) {
        out.copy_from_slice(&x[*row as usize * cols..][..cols]);
    }
}
