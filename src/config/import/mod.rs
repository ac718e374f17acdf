//! Configs from what other programs write: links, SIP008, shadowsocks-windows, shadowsocks-android, Clash, sing-box.
//!
//! Each format becomes entries of `servers`. What cannot be taken along is listed in words and never dropped in silence.

mod clash;
mod error;
mod found;
mod json;
mod links;
mod sing_box;

use serde_json::{Value, json};

use crate::crypto;

pub use self::error::ImportError;
use self::found::Found;
use self::links::{has_links, links};
use super::text::document::Document;

/// The result of [`import`].
#[derive(Debug)]
pub struct Imported {
    /// What the text was: `links`, `SIP008` and so on.
    pub format: &'static str,
    /// The config, with at least one server. It holds passwords.
    pub config: Value,
    /// What was left out, one line each.
    pub left_out: Vec<String>,
}

/// Makes a config of `text`, in whatever format it is.
///
/// # Errors
/// [`ImportError`].
pub fn import(text: &str) -> Result<Imported, ImportError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    let mut found = Found::default();
    let format = read(text, &mut found)?;
    if found.servers.is_empty() {
        return Err(ImportError::Empty {
            left_out: found.left_out,
        });
    }
    let mut config = json!({ "servers": found.servers });
    if let (Some(port), Some(map)) = (found.local_port, config.as_object_mut()) {
        map.insert("local_port".to_owned(), port.into());
    }
    Ok(Imported {
        format,
        config,
        left_out: found.left_out,
    })
}

fn read(text: &str, found: &mut Found) -> Result<&'static str, ImportError> {
    if text.starts_with(['{', '[']) {
        let document = Document::plain(text).map_err(|mut findings| match findings.is_empty() {
            true => ImportError::Unknown,
            false => ImportError::Json(Box::new(findings.swap_remove(0))),
        })?;
        return json::read(&document.value, found);
    }
    if has_links(text) {
        links(text, found);
        return Ok("links");
    }
    if text
        .lines()
        .any(|line| line.trim_end().starts_with("proxies:"))
    {
        clash::read(&clash::parse(text)?, found);
        return Ok("Clash");
    }
    // Many subscriptions are links in base64.
    let joined: String = text.split_whitespace().collect();
    let decoded = crypto::base64::decode(&joined);
    match decoded
        .as_ref()
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
    {
        Some(inner) if has_links(inner) => {
            links(inner, found);
            Ok("links in base64")
        }
        _ => Err(ImportError::Unknown),
    }
}

#[cfg(test)]
mod tests;
