//! What a client is told when its request fails.

use crate::net;
use crate::relay::Error;
use crate::wire::http_proxy;

/// An answer of the proxy's own.
#[derive(Debug)]
pub(super) struct Page {
    status: u16,
    text: String,
}

impl Page {
    pub(super) const fn new(status: u16, text: String) -> Self {
        Self { status, text }
    }

    /// For a target that cannot be reached.
    pub(super) fn of_failure(error: &Error) -> Self {
        let status = match error {
            Error::Denied(_) | Error::NotOffered(_) => 403,
            Error::Connect(
                net::Error::ConnectTimeout { .. } | net::Error::TransportTimeout { .. },
            ) => 504,
            _ => 502,
        };
        Self::new(status, format!("The target cannot be reached: {error}."))
    }

    /// For a request that cannot be read.
    pub(super) fn of_request(error: http_proxy::Error) -> Self {
        let status = match error {
            http_proxy::Error::TooLong => 431,
            http_proxy::Error::Malformed | http_proxy::Error::NotForProxy => 400,
        };
        Self::new(
            status,
            format!("This is an HTTP proxy. It refuses the request: {error}."),
        )
    }

    /// For a response that cannot be read.
    pub(super) fn of_response(error: http_proxy::Error) -> Self {
        Self::new(502, format!("The target's answer is refused: {error}."))
    }

    /// For a request without the name and password of a user.
    pub(super) fn of_login() -> Self {
        let text =
            "This proxy needs a user name and a password, and the request has none that are right.";
        Self::new(407, text.to_owned())
    }

    /// The response. One to HEAD has no body. `is_last`: the connection ends after it.
    pub(super) fn response(&self, is_head: bool, is_last: bool) -> Vec<u8> {
        let reason = match self.status {
            400 => "Bad Request",
            403 => "Forbidden",
            407 => "Proxy Authentication Required",
            431 => "Request Header Fields Too Large",
            504 => "Gateway Timeout",
            _ => "Bad Gateway",
        };
        let fields = match self.status {
            407 => "Proxy-Authenticate: Basic realm=\"ssr\", charset=\"UTF-8\"\r\n",
            _ => "",
        };
        let mut response = http_proxy::response(self.status, reason, fields, &self.text, is_last);
        if is_head {
            let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            response.truncate(end.map_or(0, |end| end + 4));
        }
        response
    }
}
