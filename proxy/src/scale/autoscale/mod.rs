//! How many pods a service should have: Knative's decisions, to the number. Pure: time is an argument, what is to be done
//! is told, not done.
//!
//! ```text
//! readings of pods ─ sample → window ─ signal → decide ─ bounds → zero → Step
//!                                      target ──┘ └── burst: whether the buffer stays in the path
//! ```
//!
//! Never asks a pod, never changes a scale, and never does anything while nobody has told it anything: no data is no
//! reason to change what is.

pub mod annotations;
pub mod burst;
pub mod decide;
pub mod peak;
pub mod sample;
pub mod settings;
pub mod signal;
pub mod steady;
pub mod target;
pub mod whole;
pub mod window;
pub mod zero;

pub use annotations::annotated;
pub use decide::{Decider, Decision};
pub use settings::{Aggregation, Metric, Settings};
pub use signal::{Load, Signal};
pub use target::Target;
pub use whole::{Autoscale, Outcome, Surroundings};
pub use zero::{Activity, Path, Step, Zero};
