//! Where identity comes from. An open set: each file yields a [`Material`](super::Material) and keeps it fresh.

pub mod files;
pub mod self_signed;
