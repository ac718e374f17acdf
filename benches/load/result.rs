//! The result of everything that can fail here.

/// Nobody handles these errors: they are shown.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
