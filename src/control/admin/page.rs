//! The dashboard: a page, a script and a style that need nothing from anywhere else.

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS};

use super::reply::with_type;

/// What everybody may load: it shows nothing without the token.
pub(super) const PATHS: [&str; 3] = ["/", "/app.js", "/app.css"];

/// The page can load what it is made of, and call the API; nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn page() -> Response<Body> {
    guarded(include_str!("page/index.html"), "text/html; charset=utf-8")
}

pub(super) async fn script() -> Response<Body> {
    guarded(
        include_str!("page/app.js"),
        "text/javascript; charset=utf-8",
    )
}

pub(super) async fn style() -> Response<Body> {
    guarded(include_str!("page/app.css"), "text/css; charset=utf-8")
}

fn guarded(text: &'static str, kind: &'static str) -> Response<Body> {
    let mut response = with_type(text, kind);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
