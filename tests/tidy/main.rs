//! The rules of the house as tests: arrows that must never be, sizes, openings, tables that agree with folders.

mod arrows;
mod shape;
mod source;
mod tables;
