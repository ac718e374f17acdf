//! Visitors of reverse tunnels who are told apart by what they say. Others want the one thing there is
//! ([`crate::relay::tcp::Fixed`]).

pub mod http;
