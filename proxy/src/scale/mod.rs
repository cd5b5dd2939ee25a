//! How many workers there are, and who starts and stops them.

pub mod device;
pub mod progress;
pub mod targets;
