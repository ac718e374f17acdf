//! A caller of the admin API.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    DEADLINE,
    http::{Http, Message},
    process::{free_port, v4},
};

/// The token of tests.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The admin API of a process.
#[derive(Debug)]
pub struct Api {
    /// Where it is.
    pub address: SocketAddr,
    /// What is sent.
    pub token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head.
    pub head: String,
    /// Its body.
    pub text: String,
}

impl Answer {
    fn new(message: &Message) -> Self {
        let status = message.line().split(' ').nth(1).unwrap();
        Self {
            status: status.parse().unwrap(),
            head: message.head.clone(),
            text: message.text(),
        }
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Api {
    /// An API at a free port, with the token of tests, and the keys for the config.
    pub fn new() -> (Self, Value) {
        let address = v4(free_port());
        let api = Self {
            address,
            token: Some(TOKEN.to_owned()),
        };
        let keys = json!({"admin": {"address": address, "token": TOKEN}});
        (api, keys)
    }

    /// Sends a request with further header fields, each with its line end.
    pub fn send(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let stream = TcpStream::connect_timeout(&self.address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut http = Http::new(stream);
        let (host, length) = (self.address, body.len());
        let host = match fields.contains("Host:") {
            true => String::new(),
            false => format!("Host: {host}\r\n"),
        };
        let token = self.token.as_ref().map_or_else(String::new, |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let message = http.ask(&format!(
            "{method} {path} HTTP/1.1\r\n{host}{token}{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ));
        Answer::new(&message)
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "")
    }

    /// GET, as JSON.
    ///
    /// # Panics
    /// When the status is not 200.
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// PUT with a JSON body.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        let kind = "Content-Type: application/json\r\n";
        self.send("PUT", path, kind, &body.to_string())
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "", "")
    }

    /// A connection on which nothing is sent.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, DEADLINE).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    }
}
