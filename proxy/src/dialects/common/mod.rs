//! What more than one dialect needs, and no dialect of its own: reading fields, sampling settings, percent-encoding,
//! answers made of one event. Leaves only: nothing here knows a dialect.

#[doc(hidden)]
pub mod drive;
pub mod fields;
pub mod percent;
pub mod sampling;
pub mod single;
