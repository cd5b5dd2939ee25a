//! Generated policies and requests against an evaluator too slow and too plain to be wrong.
