//! Policies as others write them, and what they decide.
