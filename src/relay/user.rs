//! Who a request is made for.

/// A user of this process, shared by all requests made with its credentials.
#[derive(Debug)]
pub struct User {
    /// The name in the config.
    pub name: Box<str>,
}
