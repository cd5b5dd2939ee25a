//! Every attack on tokens that we know of.
