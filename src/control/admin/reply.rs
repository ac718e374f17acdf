//! Answers as JSON.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};
use serde::Serialize;

use super::model::Problem;

/// What a handler returns: an answer, or why there is none.
pub(super) type Reply = Result<Response<Body>, Refused>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    problem: Problem,
}

impl Refused {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: &str) -> Self {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        let error = error.into();
        Self {
            status,
            problem: Problem { error, hint },
        }
    }
}

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        let mut response = json_of(&self.problem);
        *response.status_mut() = self.status;
        response
    }
}

/// An answer with this status.
#[expect(clippy::unnecessary_wraps, reason = "it is what a handler returns")]
pub(super) fn json(value: &impl Serialize) -> Reply {
    Ok(json_of(value))
}

fn json_of(value: &impl Serialize) -> Response<Body> {
    // The types of `model` always can be written.
    let text = serde_json::to_vec(value).unwrap_or_default();
    with_type(text, "application/json")
}

/// An answer of another type, which no cache keeps.
pub(super) fn with_type(text: impl Into<Body>, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}
