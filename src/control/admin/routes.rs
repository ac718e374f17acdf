//! What can be asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use axum::routing::{get, post, put};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::access::{Access, Denied};
use super::model::{self, Level, LogLevel};
use super::reply::{Refused, Reply, json, with_type};
use crate::control::facts::Facts;
use crate::control::orders::Orders;
use crate::control::{metrics, why};
use crate::limits::{ADMIN_TIMEOUT, MAX_ADMIN_BODY};

/// What callers can have done.
pub struct Actions {
    /// Sets how much is logged; returns whether that works.
    pub set_level: fn(Level) -> bool,
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

type Shared = State<Arc<Context>>;

/// All routes.
pub(super) fn router(context: Arc<Context>) -> Router {
    let guarded = Arc::clone(&context);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/users", get(users))
        .route("/api/v1/servers", get(servers))
        .route("/api/v1/failures", get(failures))
        .route("/api/v1/log", put(log))
        .route("/api/v1/reload", post(reload))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(guarded, guard))
        .with_state(context)
}

/// Refuses who may not call.
async fn guard(
    State(context): Shared,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let is_open = request.uri().path() == "/";
    match context.access.check(caller.ip, request.headers(), is_open) {
        Ok(()) => {
            if !is_open {
                caller.is_known.store(true, Relaxed);
            }
            next.run(request).await
        }
        Err(denied) => refusal(denied),
    }
}

fn refusal(denied: Denied) -> Response<Body> {
    let (status, error, hint) = match denied {
        Denied::Host => (
            StatusCode::MISDIRECTED_REQUEST,
            "the Host of the request is not this machine",
            "without a token, use an IP address or localhost in the URL; or set `admin.token`",
        ),
        Denied::CrossSite => (
            StatusCode::FORBIDDEN,
            "a page of another site has sent this request",
            "open the address of the API itself",
        ),
        Denied::NoToken => (
            StatusCode::UNAUTHORIZED,
            "the token is missing",
            "send `Authorization: Bearer TOKEN`, with `admin.token` of the config",
        ),
        Denied::WrongToken => (
            StatusCode::UNAUTHORIZED,
            "the token is wrong",
            "it is `admin.token` of the config",
        ),
        Denied::TooMany => (
            StatusCode::TOO_MANY_REQUESTS,
            "too many wrong tokens came from this address",
            "wait a minute",
        ),
    };
    let mut response = Refused::new(status, error, hint).into_response();
    let headers = response.headers_mut();
    match status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
        }
        _ => {}
    }
    response
}

async fn unknown() -> Refused {
    let hint = "/api/v1/openapi.json lists what there is";
    Refused::new(StatusCode::NOT_FOUND, "there is nothing at this path", hint)
}

async fn wrong_method() -> Refused {
    let error = "this path has no such method";
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, error, "")
}

async fn metrics(State(context): Shared) -> Response<Body> {
    with_type(metrics::text(&context.facts), metrics::CONTENT_TYPE)
}

async fn status(State(context): Shared) -> Reply {
    json(&model::status(&context.facts))
}

async fn users(State(context): Shared) -> Reply {
    json(&model::users(&context.facts))
}

async fn servers(State(context): Shared) -> Reply {
    json(&model::servers(&context.facts))
}

async fn failures(State(context): Shared) -> Reply {
    json(&why::document(&context.facts.counters.failed))
}

async fn log(State(context): Shared, request: Request) -> Reply {
    let wanted: LogLevel = body(request).await?;
    if !(context.actions.set_level)(wanted.level) {
        let error = "the log of this process cannot be changed";
        return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error, ""));
    }
    tracing::info!(level = ?wanted.level, "admin: the log level was changed");
    json(&wanted)
}

async fn reload(State(context): Shared) -> Reply {
    match context.actions.orders.reload().await {
        Ok(changes) => json(&model::Reloaded::from(changes)),
        Err(errors) => {
            let error = errors.join("\n");
            let hint = "nothing has changed; `ssr check` says the same of the file";
            Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error, hint))
        }
    }
}

/// The body of a request, as JSON.
async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Refused> {
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
