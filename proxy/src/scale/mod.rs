//! How many workers there are, and who starts and stops them.

pub mod autoscale;
pub mod autoscaler;
pub mod device;
pub mod external_scaler;
pub mod progress;
pub mod scaler;
pub mod stats;
pub mod targets;
