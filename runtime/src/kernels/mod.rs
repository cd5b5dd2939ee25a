//! One op, one pair: `<op>.rs` holds the plain-Rust reference (and the workgroup arithmetic of the WGSL kernel),
//! `<op>.wgsl` the shader. Every device is judged by the reference; nothing here knows a model.
