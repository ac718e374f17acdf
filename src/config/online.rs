//! The documents of SIP008: lists of servers that somebody else writes.
//!
//! What they may say is limited to what a server is: its address, method, password, name, weights and plugin. They name no
//! files, no environment variables and no options of sockets, and only plugins that the config allows.

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::meaning::between::OnlineConfig;
use super::meaning::model::{Server, SocketOptions};
use super::parse::parse;
use super::role::Role;
use super::text::diagnostic::Severity;
use crate::limits::{MAX_SUBSCRIBED_PLUGINS, MAX_SUBSCRIBED_SERVERS};

/// The keys of a server that count; others are for other programs.
const KEYS: &[&str] = &[
    "server",
    "server_port",
    "password",
    "method",
    "remarks",
    "name",
    "id",
    "mode",
    "plugin",
    "plugin_opts",
    "plugin_args",
    "plugin_mode",
    "tcp_weight",
    "udp_weight",
    "disabled",
];

/// A server of such a document.
pub struct OnlineServer {
    /// What the document says of it: the same server is known again by it. It holds the password.
    pub written: Zeroizing<String>,
    /// What it means; several for a list of addresses, none for one that is disabled.
    pub servers: Vec<Server>,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OnlineError {
    /// It is no JSON, or none of SIP008.
    #[error("not a list of servers of SIP008: {0}")]
    Format(&'static str),
    /// It has no server that can be used.
    #[error("the list has no servers")]
    Empty,
    /// It has too many.
    #[error("the list has more than {MAX_SUBSCRIBED_SERVERS} servers")]
    TooMany,
    /// It needs too many plugins.
    #[error("the list needs more than {MAX_SUBSCRIBED_PLUGINS} plugins")]
    TooManyPlugins,
    /// A server is wrong.
    #[error("server {place} of the list: {reason}")]
    Server {
        /// Its place, from 1.
        place: usize,
        /// What is wrong, and with which key.
        reason: String,
    },
}

/// Reads the document of a subscription. One server that is wrong makes all of it wrong.
///
/// # Errors
/// What is wrong with it. Passwords are in no message.
pub fn online_servers(
    document: &[u8],
    online: &OnlineConfig,
    socket: &SocketOptions,
) -> Result<Vec<OnlineServer>, OnlineError> {
    let text = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let document: Value =
        serde_json::from_slice(text).map_err(|_| OnlineError::Format("it is not JSON"))?;
    match document.get("version") {
        None | Some(Value::Null) => {}
        Some(version) if version.as_u64() == Some(1) => {}
        Some(_) => return Err(OnlineError::Format("its version is not 1")),
    }
    let list = document.get("servers").and_then(Value::as_array);
    let list = list.ok_or(OnlineError::Format("it has no `servers`"))?;
    if list.len() > MAX_SUBSCRIBED_SERVERS {
        return Err(OnlineError::TooMany);
    }
    let mut found = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let wrong = |reason: String| OnlineError::Server {
            place: index + 1,
            reason,
        };
        let entry = entry.as_object();
        let entry = entry.ok_or_else(|| wrong("it is not an object".to_owned()))?;
        found.push(server(entry, online, socket).map_err(wrong)?);
    }
    let with_plugin = found.iter().flat_map(|one| &one.servers);
    if with_plugin.filter(|server| server.plugin.is_some()).count() > MAX_SUBSCRIBED_PLUGINS {
        return Err(OnlineError::TooManyPlugins);
    }
    if found.iter().all(|one| one.servers.is_empty()) {
        return Err(OnlineError::Empty);
    }
    Ok(found)
}

fn server(
    entry: &Map<String, Value>,
    online: &OnlineConfig,
    socket: &SocketOptions,
) -> Result<OnlineServer, String> {
    let known = entry.iter().filter(|(key, _)| KEYS.contains(&key.as_str()));
    let entry: Map<String, Value> = known
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if let Some(plugin) = entry.get("plugin").and_then(Value::as_str)
        && !plugin.is_empty()
        && !online
            .allowed_plugins
            .iter()
            .any(|allowed| allowed == plugin)
    {
        return Err(format!(
            "it has the plugin `{}`, which `online_config.allowed_plugins` does not allow",
            plugin.escape_debug()
        ));
    }
    let disabled = entry.get("disabled") == Some(&Value::Bool(true));
    let written = Zeroizing::new(Value::Object(entry.clone()).to_string());
    if disabled {
        return Ok(OnlineServer {
            written,
            servers: Vec::new(),
        });
    }
    let mut top = json!({"servers": [entry]});
    if let (false, Some(top)) = (online.outbound_proxy.is_empty(), top.as_object_mut()) {
        let proxies = online.outbound_proxy.iter();
        let proxies: Vec<&str> = proxies.map(|proxy| proxy.expose()).collect();
        top.insert("outbound_proxy".to_owned(), json!(proxies));
    }
    let text = Zeroizing::new(top.to_string());
    let config = parse(&text, Role::Local, &|_| None).map_err(|found| {
        let worst = found.into_iter().min_by_key(|finding| finding.severity);
        debug_assert!(
            worst
                .as_ref()
                .is_none_or(|one| one.severity == Severity::Error)
        );
        worst.map_or_else(String::new, |mut finding| {
            // Positions are those of a text that nobody has seen.
            finding.position = None;
            let path = finding.path.strip_prefix("servers[0].").map(str::to_owned);
            finding.path = path.unwrap_or(finding.path);
            finding.to_string()
        })
    })?;
    let mut servers = config.servers;
    for server in &mut servers {
        server.socket = socket.clone();
    }
    Ok(OnlineServer { written, servers })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn read(list: &str) -> Result<Vec<OnlineServer>, String> {
        let config = parse(
            r#"{"online_config": {"config_url": "https://x.example/token", "allowed_plugins": ["obfs-local"]},
            "outbound_fwmark": 7}"#,
            Role::Local,
            &|_| None,
        );
        let config = config.unwrap();
        let online = config.online.clone().unwrap();
        online_servers(list.as_bytes(), &online, &config.socket).map_err(|error| error.to_string())
    }

    const SERVER: &str = r#""server": "a.example", "server_port": 8388, "method": "aes-256-gcm", "password": "geheim""#;

    #[test]
    fn a_list_means_its_servers_with_the_options_of_the_config() {
        let list = format!(
            r#"{{"version": 1, "bytes_used": 5, "servers": [{{{SERVER}, "remarks": "A", "id": "27b8a625", "custom": {{"x": 1}},
            "outbound_fwmark": 1, "acl": "/etc/passwd"}}, {{{SERVER}, "disabled": true}}]}}"#
        );
        let found = read(&list).unwrap();
        assert_eq!(found.len(), 2);
        let server = &found[0].servers[0];
        assert_eq!((server.name.as_str(), server.socket.fwmark), ("A", Some(7)));
        assert!(server.acl.is_none() && found[1].servers.is_empty());
        assert!(found[0].written.contains("geheim") && !found[0].written.contains("passwd"));
    }

    #[test]
    fn what_is_wrong_with_a_list_is_said_without_its_secrets() {
        let wrong_method = format!("{{{}}}", SERVER.replace("aes-256-gcm", "rc4-md5"));
        for (list, reason) in [
            ("<html>".to_owned(), "it is not JSON"),
            ("[]".to_owned(), "it has no `servers`"),
            (
                r#"{"version": 2, "servers": []}"#.to_owned(),
                "its version is not 1",
            ),
            (r#"{"servers": []}"#.to_owned(), "the list has no servers"),
            (
                r#"{"servers": [5]}"#.to_owned(),
                "server 1 of the list: it is not an object",
            ),
            (
                format!(r#"{{"servers": [{{{SERVER}}}, {wrong_method}]}}"#),
                "server 2 of the list: method: ",
            ),
            (
                format!(r#"{{"servers": [{{{SERVER}, "plugin": "sh"}}]}}"#),
                "the plugin `sh`, which",
            ),
            (
                format!(r#"{{"servers": [{}]}}"#, vec!["{}"; 1025].join(",")),
                "more than 1024 servers",
            ),
            (
                format!(
                    r#"{{"servers": [{}]}}"#,
                    vec![format!("{{{SERVER}, \"plugin\": \"obfs-local\"}}"); 17].join(",")
                ),
                "more than 16 plugins",
            ),
        ] {
            let error = read(&list).err().unwrap();
            assert!(error.contains(reason), "{error}\n{reason}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
