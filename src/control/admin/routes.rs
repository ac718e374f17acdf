//! What can be asked.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use axum::routing::{delete, get, post, put};

use super::access::Denied;
use super::context::{Caller, Context, body};
use super::model::{self, LogLevel};
use super::reply::{Refused, Reply, json, with_type};
use super::{edit, openapi, page, ssm};
use crate::control::{metrics, why};

type Shared = State<Arc<Context>>;

/// All routes.
pub(super) fn router(context: Arc<Context>) -> Router {
    let guarded = Arc::clone(&context);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/", get(page::page))
        .route("/app.js", get(page::script))
        .route("/app.css", get(page::style))
        .route("/api/v1/users", get(users))
        .route(
            "/api/v1/users/{name}",
            put(edit::put_user).delete(edit::delete_user),
        )
        .route("/api/v1/users/{name}/link", get(edit::link))
        .route("/api/v1/sessions", get(edit::sessions))
        .route("/api/v1/sessions/{id}", delete(edit::close))
        .route(
            "/api/v1/servers/{name}/active",
            put(edit::choose).delete(edit::unchoose),
        )
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/v1/servers", get(servers))
        .route("/api/v1/failures", get(failures))
        .route("/api/v1/log", put(log))
        .route("/api/v1/reload", post(reload))
        .merge(ssm::routes())
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
    let is_open = page::PATHS.contains(&request.uri().path());
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

async fn openapi() -> Reply {
    json(&openapi::document())
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
