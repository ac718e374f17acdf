//! What the service behind a reverse tunnel reads of a visitor, held against what hyper would have read in its place. The fuzz
//! target `http_visitors` uses this file too.

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Method, Request, Response, Version,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ssr::wire::http_rewrite::RequestRewriter;
use std::{cell::RefCell, convert::Infallible, rc::Rc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A request as hyper has read it.
#[derive(Debug)]
struct Seen {
    method: Method,
    path: String,
    version: Version,
    fields: HeaderMap,
    /// `None`: it is malformed or has not ended.
    body: Option<Bytes>,
}

/// The requests that hyper reads, and whether it has found an error in a head.
async fn read_by_hyper(bytes: &[u8]) -> (Vec<Seen>, bool) {
    let all = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let all = Rc::clone(&all);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.ok();
            all.borrow_mut().push(Seen {
                method: head.method,
                path: head.uri.to_string(),
                version: head.version,
                fields: head.headers,
                body: body.map(http_body_util::Collected::to_bytes),
            });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut builder = http1::Builder::new();
    let connection = builder
        .half_close(true)
        .serve_connection(TokioIo::new(server), service);
    let result = connection.await;
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.unwrap();
    let refused = String::from_utf8_lossy(&answers).contains("HTTP/1.1 4");
    drop(result);
    (Rc::try_unwrap(all).unwrap().into_inner(), refused)
}

const VISITOR: &str = "192.0.2.9";

/// What the service gets of `bytes`, which arrive in pieces of `size`, if it answers every request for WebSocket with 200.
fn rewritten(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut requests = RequestRewriter::new(VISITOR.parse().unwrap());
    let mut out = Vec::new();
    for piece in bytes.chunks(size) {
        let mut left = piece;
        while !left.is_empty() {
            let Ok(used) = requests.rewrite(left, &mut out) else {
                return out;
            };
            left = &left[used..];
            if requests.awaits_response() {
                requests.observe_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    }
    out
}

/// Holds what the service reads against what a server in its place would have read.
fn compare(sent: &[u8], direct: &[Seen], passed: &[Seen], refused: bool) {
    let shown = String::from_utf8_lossy(sent);
    let at = || format!("{shown:?}\ndirectly: {direct:?}\nthrough us: {passed:?}");
    assert!(!refused, "what has been rewritten is malformed: {}", at());
    assert!(
        passed.len() <= direct.len(),
        "a request is smuggled: {}",
        at()
    );
    for (direct, passed) in direct.iter().zip(passed) {
        let line = |seen: &Seen| (seen.method.clone(), seen.path.clone(), seen.version);
        assert_eq!(line(direct), line(passed), "{}", at());
        if passed.body.is_some() {
            assert_eq!(direct.body, passed.body, "{}", at());
        }
        for (name, value) in &passed.fields {
            let plain = name
                .as_str()
                .replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
            let is_own = match plain.as_str() {
                "x-forwarded-for" => value == VISITOR,
                "x-forwarded-proto" => value == "http",
                "x-forwarded-host" => {
                    let host = direct.fields["host"].to_str().unwrap().to_lowercase();
                    host.starts_with(value.to_str().unwrap())
                }
                "connection" => value == "close" || value == "keep-alive" || value == "Upgrade",
                "upgrade" => value == "websocket",
                _ => direct
                    .fields
                    .get_all(name)
                    .iter()
                    .any(|other| other == value),
            };
            assert!(is_own, "{name}: {value:?}: {}", at());
            let is_twin = ["x-forwarded-for", "content-length", "transfer-encoding"]
                .contains(&plain.as_str())
                && plain != name.as_str();
            assert!(!is_twin, "{name}: {}", at());
        }
        let origins = passed.fields.get_all("x-forwarded-for").iter().count();
        assert_eq!(origins, 1, "{}", at());
    }
}

/// What has become of one visitor's bytes.
pub struct Outcome {
    /// Requests that the service reads.
    pub passed: usize,
    /// Requests that the service would have read of the visitor.
    pub direct: usize,
}

/// Lets a visitor send `bytes`, in pieces of `size`, and compares.
///
/// # Panics
/// When the service reads something else than it would have read of the visitor.
pub async fn visit(bytes: &[u8], size: usize) -> Outcome {
    let out = rewritten(bytes, size);
    assert_eq!(out, rewritten(bytes, 100_000), "pieces make no difference");
    let direct = read_by_hyper(bytes).await.0;
    let (passed, refused) = read_by_hyper(&out).await;
    compare(bytes, &direct, &passed, refused);
    Outcome {
        passed: passed.len(),
        direct: direct.len(),
    }
}
