//! DNS queries and HTTP requests, as they are sent through a server.

use std::net::IpAddr;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::context::Web;
use crate::wire::Address;

/// The types of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A query for the addresses of `name`; `None`: no host has such a name.
pub(super) fn query(name: &str, family: Family, id: u16) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let kind = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().ok()
}

/// The same, as it is sent over a stream.
pub(super) fn over_stream(query: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(query.len())
        .unwrap_or(0)
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(query);
    bytes
}

/// The message of a stream, once it is there.
pub(super) fn from_stream(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*len)))
}

pub(super) fn is_message(bytes: &[u8]) -> bool {
    from_stream(bytes).is_some()
}

/// What a name server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// These are the addresses; there may be none.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoName,
    /// Something went wrong there.
    Failure,
}

/// Reads an answer to the query with this id; `None`: it is none.
pub(super) fn answer(bytes: &[u8], id: u16) -> Option<Said> {
    let message = Message::from_vec(bytes).ok()?;
    if message.metadata.id != id || message.metadata.message_type != MessageType::Response {
        return None;
    }
    Some(match message.metadata.response_code {
        ResponseCode::NoError => {
            let addresses = message
                .answers
                .iter()
                .filter_map(|record| match &record.data {
                    RData::A(address) => Some(IpAddr::V4(address.0)),
                    RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                    _ => None,
                });
            Said::Addresses(addresses.collect())
        }
        ResponseCode::NXDomain => Said::NoName,
        _ => Said::Failure,
    })
}

/// The name that name servers are asked for: that of a file's host.
pub(super) fn asked_name(web: &Web) -> String {
    match &web.target {
        Address::Domain(name, _) => name.to_string(),
        Address::Ip(_) => "example.com".to_owned(),
    }
}

/// A request whose answer is short.
pub(super) fn head(web: &Web) -> Vec<u8> {
    request("HEAD", web, "")
}

/// A request for the file.
pub(super) fn get(web: &Web) -> Vec<u8> {
    request("GET", web, "")
}

/// The head of an upload.
pub(super) fn post(web: &Web, bytes: usize) -> Vec<u8> {
    let fields = format!("Content-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n");
    request("POST", web, &fields)
}

fn request(method: &str, web: &Web, fields: &str) -> Vec<u8> {
    let Web { host, path, .. } = web;
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ssr\r\nAccept: */*\r\n{fields}Connection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Whether the status line is there.
pub(super) fn is_status(bytes: &[u8]) -> bool {
    bytes.len() >= 12
}

/// The status of an answer.
pub(super) fn status(bytes: &[u8]) -> Option<u16> {
    let code = bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_answer_belongs_to_its_query() {
        let asked = query("example.com", Family::V4, 7).unwrap();
        assert_eq!(answer(&asked, 7), None, "a query is no answer");
        let mut answered = Message::from_vec(&asked).unwrap();
        answered.metadata.message_type = MessageType::Response;
        let bytes = answered.to_vec().unwrap();
        assert_eq!(answer(&bytes, 7), Some(Said::Addresses(Vec::new())));
        assert_eq!(answer(&bytes, 8), None);
        assert_eq!(from_stream(&over_stream(&bytes)), Some(&*bytes));
        assert!(!is_message(bytes.get(..1).unwrap()));
    }

    #[test]
    fn status_of_http_is_read() {
        assert_eq!(status(b"HTTP/1.1 204 No Content"), Some(204));
        assert_eq!(status(b"SSH-2.0-OpenSSH"), None);
    }
}
