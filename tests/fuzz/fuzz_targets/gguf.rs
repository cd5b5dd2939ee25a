//! Any bytes as a GGUF file: refused with words, or read to the last tensor.
#![no_main]

use outrider_worker::weights::gguf::Gguf;
use std::path::Path;
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut map = memmap2::MmapMut::map_anon(data.len().max(1)).expect("memory");
    map[..data.len()].copy_from_slice(data);
    let Ok(gguf) = Gguf::from_map(Path::new("fuzz.gguf"), Arc::new(map.make_read_only().expect("a map"))) else { return };
    for tensor in gguf.tensors().filter(|tensor| tensor.rows * tensor.cols < 1 << 20) {
        tensor.element.decode(tensor.bytes, &mut vec![0.0; tensor.rows * tensor.cols]);
    }
});
