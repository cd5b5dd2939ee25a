//! How many workers there are, and who starts and stops them.

pub mod autoscale;
pub mod stats;
pub mod targets;
