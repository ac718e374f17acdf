//! The protocol of ss-manager: each datagram is a command, which another datagram answers.
//!
//! ```text
//! add: {"server_port": 8388, "password": "…", "method": "aes-256-gcm"}   ok
//! remove: {"server_port": 8388}                                         ok
//! list                                                                  [{"server_port": 8388, …}]
//! ping                                                                  stat: {"8388": 11370}
//! ```
//!
//! Whatever cannot be done is answered `err`; the log says why. The protocol knows no authentication.

use std::fmt::Write as _;
use std::io;

use serde::{Deserialize, Deserializer, de};
use serde_json::json;
use zeroize::Zeroizing;

use super::orders::{NewPort, Orders, PortState};
use crate::limits::{MANAGER_ANSWER, MAX_MANAGER_COMMAND};
use crate::net::manager::{Socket, Visitor};
use crate::net::sampled;

/// A command.
#[derive(Debug)]
pub enum Command {
    /// Serve this port; if it is served already, in this way.
    Add(Box<NewPort>),
    /// Serve this port no more.
    Remove(u16),
    /// Say which ports are served.
    List,
    /// Say how many bytes each port has relayed.
    Ping,
}

/// What `add` says; other keys are ignored, as in the references.
#[derive(Deserialize)]
struct Add {
    #[serde(deserialize_with = "port")]
    server_port: u16,
    #[serde(deserialize_with = "secret")]
    password: Zeroizing<String>,
    method: Option<String>,
    mode: Option<String>,
    plugin: Option<String>,
    plugin_opts: Option<String>,
    plugin_mode: Option<String>,
    users: Option<Vec<AddUser>>,
}

#[derive(Deserialize)]
struct AddUser {
    name: String,
    #[serde(deserialize_with = "secret")]
    password: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Remove {
    #[serde(deserialize_with = "port")]
    server_port: u16,
}

/// A text whose memory is cleared.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// A port, as a number or in quotes.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u16),
        Text(String),
    }
    let port = match Written::deserialize(deserializer)? {
        Written::Number(port) => Some(port),
        Written::Text(text) => text.parse().ok(),
    };
    port.filter(|port| *port > 0)
        .ok_or_else(|| de::Error::custom("no port"))
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// What is wrong with it, without any of its text: there may be a password in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() > MAX_MANAGER_COMMAND {
            return Err("too long");
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text")?;
        let text = text.trim_matches(|is: char| is.is_ascii_whitespace() || is == '\0');
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let parse = |()| "its JSON is not that of this command";
        match name.trim_end() {
            "add" => {
                let add: Add = serde_json::from_str(rest).map_err(drop).map_err(parse)?;
                match add.password.is_empty() {
                    true => Err("the password is empty"),
                    false => Ok(Self::Add(Box::new(add.into()))),
                }
            }
            "remove" => {
                let remove: Remove = serde_json::from_str(rest).map_err(drop).map_err(parse)?;
                Ok(Self::Remove(remove.server_port))
            }
            "list" => Ok(Self::List),
            "ping" => Ok(Self::Ping),
            "stat" => Err("`ssr` counts what its own ports relay, and takes no counts of others"),
            _ => Err("not a command: use add, remove, list or ping"),
        }
    }
}

impl From<Add> for NewPort {
    fn from(add: Add) -> Self {
        // Panels write "" for what they do not use.
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let users = add.users.unwrap_or_default().into_iter();
        Self {
            port: add.server_port,
            password: add.password,
            method: filled(add.method),
            mode: filled(add.mode),
            plugin: filled(add.plugin),
            plugin_opts: filled(add.plugin_opts),
            plugin_mode: filled(add.plugin_mode),
            users: users.map(|user| (user.name, user.password)).collect(),
        }
    }
}

/// Serves the commands that come to a socket, one after the other, for as long as it runs.
pub async fn serve(socket: Socket, orders: Orders) {
    let mut buffer = Zeroizing::new(vec![0; MAX_MANAGER_COMMAND + 1]);
    loop {
        let (length, visitor) = match socket.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                sampled::warn!("manager: a command cannot be received", %error);
                // Such an error is of one datagram; if it is not, it must not take all the time.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let done = match Command::parse(bytes) {
            Ok(command) => obey(command, &orders).await,
            Err(reason) => Err(reason.to_owned()),
        };
        let answers = done.unwrap_or_else(|reason| {
            sampled::warn!("manager: a command was refused", %reason);
            vec!["err".to_owned()]
        });
        for answer in answers {
            if let Err(error) = send(&socket, &visitor, &answer).await {
                sampled::debug!("manager: an answer cannot be sent", %error);
            }
        }
    }
}

async fn send(socket: &Socket, visitor: &Visitor, answer: &str) -> io::Result<()> {
    socket.send(answer.as_bytes(), visitor).await
}

/// Does what a command says. Returns the answers.
async fn obey(command: Command, orders: &Orders) -> Result<Vec<String>, String> {
    let done = || vec!["ok".to_owned()];
    match command {
        Command::Add(port) => orders.add_port(*port).await.map(|()| done()),
        Command::Remove(port) => orders.remove_port(port).await.map(|()| done()),
        Command::List => orders.ports().await.map(|ports| list(&ports)),
        Command::Ping => orders.ports().await.map(|ports| stat(&ports)),
    }
}

/// Objects joined by commas, in as many answers as they need.
fn cut(parts: impl Iterator<Item = String>, begin: &str, end: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let mut answer = begin.to_owned();
    for part in parts {
        if answer.len() + part.len() > MANAGER_ANSWER {
            answers.push(std::mem::replace(&mut answer, begin.to_owned()) + end);
        }
        if answer.len() > begin.len() {
            answer.push(',');
        }
        answer.push_str(&part);
    }
    answers.push(answer + end);
    answers
}

fn stat(ports: &[PortState]) -> Vec<String> {
    let parts = ports.iter().map(|port| {
        let mut part = String::new();
        // It cannot fail.
        let _ = write!(part, "\"{}\":{}", port.port, port.bytes);
        part
    });
    cut(parts, "stat: {", "}")
}

fn list(ports: &[PortState]) -> Vec<String> {
    let parts = ports.iter().map(|port| {
        // Programs expect the key of a password. What is in it is nobody's business.
        let shown = json!({
            "server_port": port.port, "password": "", "method": port.method, "mode": port.mode,
        });
        shown.to_string()
    });
    cut(parts, "[", "]")
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn commands_of_both_references_are_read() {
        for text in [
            r#"add: {"server_port":8388,"password":"x","method":"aes-256-gcm","no_delay":true}"#,
            "add : {\"server_port\":\"8388\", \"password\":\"x\",\"method\":\"aes-256-gcm\",\"plugin\":\"\"}\n",
        ] {
            let Ok(Command::Add(port)) = Command::parse(text.as_bytes()) else {
                panic!("{text}");
            };
            assert_eq!((port.port, port.password.as_str()), (8388, "x"));
            assert_eq!(port.method.as_deref(), Some("aes-256-gcm"));
            assert!(port.plugin.is_none() && port.mode.is_none() && port.users.is_empty());
        }
        let removed = Command::parse(b"remove: {\"server_port\": 8388}");
        assert!(matches!(removed, Ok(Command::Remove(8388))), "{removed:?}");
        assert!(matches!(Command::parse(b"ping\n"), Ok(Command::Ping)));
        assert!(matches!(Command::parse(b"list"), Ok(Command::List)));
    }

    #[test]
    fn garbage_is_refused_without_its_text() {
        let deep = format!("add: {}", "[".repeat(60_000));
        for bytes in [
            b"".as_slice(),
            b":",
            b"add",
            b"add:",
            b"add: {}",
            b"add: {\"server_port\":0,\"password\":\"secret\"}",
            b"add: {\"server_port\":65536,\"password\":\"secret\"}",
            b"add: {\"server_port\":-1,\"password\":\"secret\"}",
            b"add: {\"server_port\":1,\"password\":7}",
            b"add: {\"server_port\":1,\"password\":\"secret\"",
            b"add: {\"server_port\":1}",
            b"add: {\"server_port\":1,\"password\":\"\"}",
            b"remove: [\"secret\"]",
            b"remove: {\"server_port\":\"secret\"}",
            b"stat: {\"8388\":1}",
            b"secret",
            b"\xff\xfe",
            b"\0\0\0",
            deep.as_bytes(),
        ] {
            let refused = Command::parse(bytes).unwrap_err();
            assert!(!refused.contains("secret"), "{refused}");
        }
        let long = vec![b' '; MAX_MANAGER_COMMAND + 1];
        assert_eq!(Command::parse(&long).unwrap_err(), "too long");
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let text =
            br#"add: {"server_port":8388,"password":"x","users":[{"name":"a","password":"b"}]}"#;
        for place in 0..text.len() {
            let _ = Command::parse(&text[..place]);
            for byte in [0, b'"', b'{', b'\\', 0x80, 0xff] {
                let mut changed = text.to_vec();
                changed[place] = byte;
                let _ = Command::parse(&changed);
            }
        }
    }

    #[test]
    fn long_answers_are_cut_into_datagrams_that_are_whole() {
        let ports: Vec<_> = (1..=u16::MAX)
            .map(|port| PortState {
                port,
                method: "2022-blake3-chacha20-poly1305".to_owned(),
                mode: "tcp_and_udp".to_owned(),
                bytes: u64::MAX,
            })
            .collect();
        let mut found = 0;
        for answer in stat(&ports) {
            assert!(answer.len() <= MANAGER_ANSWER + 2, "{}", answer.len());
            let json = answer.strip_prefix("stat: ").unwrap();
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            found += json.as_object().unwrap().len();
        }
        assert_eq!(found, ports.len());
        for answer in list(&ports) {
            assert!(answer.len() <= MANAGER_ANSWER + 2, "{}", answer.len());
            let json: serde_json::Value = serde_json::from_str(&answer).unwrap();
            found -= json.as_array().unwrap().len();
        }
        assert_eq!(found, 0);
        assert_eq!(
            (stat(&[]), list(&[])),
            (vec!["stat: {}".to_owned()], vec!["[]".to_owned()])
        );
    }
}
