//! Order, priorities and failures, over evaluators that say what a test wants.
