//! The side of a program that calls the admin API.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::limits::{ASK_TIMEOUT, MAX_ANSWER};
use crate::net::fetch;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answers there.
    #[error("the admin API at {url} does not answer: {reason}")]
    NoAnswer {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// The API refuses.
    #[error("{0}")]
    Refused(String),
    /// The answer is none of this API.
    #[error("what answers at {0} is not the admin API of ssr")]
    Other(String),
}

/// An admin API.
pub struct Api {
    /// Its address: `http://127.0.0.1:9080`.
    url: String,
    token: Option<Zeroizing<String>>,
    agent: ureq::Agent,
}

impl Api {
    /// The API at `url`. `is_own`: the connection stays on this machine, where the certificate does not matter.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(url: &str, token: Option<&str>, is_own: bool) -> Result<Self, String> {
        let tls = fetch::tls_config(is_own).map_err(|error| error.to_string())?;
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(ASK_TIMEOUT + Duration::from_secs(5)))
            .build();
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            token: token.map(|token| Zeroizing::new(token.to_owned())),
            agent: ureq::Agent::new_with_config(config),
        })
    }

    /// Calls it. Without content, the answer is null.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let no_answer = |error: &dyn std::fmt::Display| CallError::NoAnswer {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", &**token));
        }
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = request.body(body).map_err(|error| no_answer(&error))?;
        let mut response = self.agent.run(request).map_err(|error| no_answer(&error))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        let text = body.read_to_string().map_err(|error| no_answer(&error))?;
        if status.is_success() && text.is_empty() {
            return Ok(Value::Null);
        }
        let other = || CallError::Other(self.url.clone());
        let answer: Value = serde_json::from_str(&text).map_err(|_| other())?;
        if status.is_success() {
            return Ok(answer);
        }
        let part = |key: &str| answer.get(key).and_then(Value::as_str);
        let error = part("error").ok_or_else(other)?;
        Err(CallError::Refused(match part("hint") {
            Some(hint) => format!("{error}: {hint}"),
            None => error.to_owned(),
        }))
    }

    /// Asks it.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None)
    }
}
