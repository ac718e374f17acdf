//! JSON text with positions: the document, what is found in it, and where.

pub(crate) mod diagnostic;
pub(crate) mod document;
pub(crate) mod reporter;
mod spans;
