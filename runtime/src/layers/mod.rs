//! What models are made of: taking weights out of a checkpoint, and rotary position embedding.
//!
//! Knows tensor names and shapes, never a sequence, a request or a concrete device.

pub mod parts;
pub mod rotary;
pub mod scaling;

pub use parts::Parts;
pub use rotary::{RopeScaling, Rotary, Yarn};
pub use scaling::rope_scaling;
