//! What handlers use.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::access::Access;
use super::model::{Level, LinkOf};
use super::reply::Refused;
use crate::control::facts::Facts;
use crate::control::orders::Orders;
use crate::limits::{ADMIN_TIMEOUT, MAX_ADMIN_BODY};

/// Makes the `ss://` URL of a user, if one can describe its server.
pub type MakeLink = Box<dyn Fn(&LinkOf<'_>) -> Option<Zeroizing<String>> + Send + Sync>;

/// What callers can have done.
pub struct Actions {
    /// Sets how much is logged; returns whether that works.
    pub set_level: fn(Level) -> bool,
    /// Makes links.
    pub link: MakeLink,
    /// Where the process takes orders.
    pub orders: Orders,
}

/// What handlers use.
pub(super) struct Context {
    pub(super) access: Access,
    pub(super) facts: Facts,
    pub(super) actions: Actions,
}

/// The caller of a connection.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) ip: IpAddr,
    /// Whether a request of it was admitted.
    pub(super) is_known: Arc<AtomicBool>,
}

/// The body of a request, as JSON.
pub(super) async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Refused> {
    let body = to_bytes(request.into_body(), MAX_ADMIN_BODY);
    let Ok(body) = timeout(ADMIN_TIMEOUT, body).await else {
        let error = "the body did not come in time";
        return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, error, ""));
    };
    let body = body.map_err(|_| {
        let error = format!("the body is broken, or longer than {MAX_ADMIN_BODY} bytes");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, error, "")
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        let error = format!("the body is not what this path takes: {error}");
        Refused::new(StatusCode::BAD_REQUEST, error, "")
    })
}
