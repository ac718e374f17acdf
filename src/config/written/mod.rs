//! The config as written: its keys, and the types that they are read into.

pub(crate) mod file;
pub(crate) mod json_schema;
pub(crate) mod scalar;
pub(crate) mod schema;
