//! HTTP visitors of a reverse tunnel: whatever they send, the service reads it as the server does. hyper is the judge.

use crate::common::{
    process::free_port,
    reverse::{client, dial, open_server, published, service, services, with},
    targets::TcpTarget,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Method, Request, Response, Version,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use ssr::wire::http_rewrite::RequestRewriter;
use std::{
    cell::RefCell,
    convert::Infallible,
    io::{Read as _, Write as _},
    net::Shutdown,
    rc::Rc,
    sync::mpsc::channel,
};
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

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const TARGETS: [&str; 12] = [
    "/",
    "/a?b=c",
    "/%20",
    "*",
    "/#x",
    "//b/",
    "/a b",
    "/\"<>",
    "/\\",
    "http://b/",
    "/\u{e9}",
    "/{}|^`",
];
const FIELDS: [&str; 34] = [
    "Content-Length: 5",
    "Content-Length: 5",
    "Content-Length: 05",
    "Content-Length: +5",
    "Content-Length: 5, 5",
    "Content-Length:\u{a0}5",
    "Content-Length: 18446744073709551615",
    "Content-Length : 5",
    "Content_Length: 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding:\tChunked\t",
    "Transfer-Encoding: \u{a0}chunked",
    "Transfer-Encoding: \u{b}chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    "Transfer_Encoding: chunked",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: X-Forwarded-For, Content-Length, Host",
    "Connection: Transfer-Encoding",
    "Connection: Upgrade, HTTP2-Settings",
    "Connection: keep-alive, \u{e9}",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "X-Forwarded-For: 10.0.0.1",
    "X_Forwarded_For: 10.0.0.1",
    "X-Forwarded-Port: 1",
    "Host: b",
    "Expect: 100-continue",
    "X: y\r\n z",
    "TE: trailers",
    " X: y",
];
const BODIES: [&str; 24] = [
    "",
    "hello",
    "hello",
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;a=b\r\nhello\r\n0;c\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    ";a\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5\u{a0}\r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: b\n\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\nHost: b\r\nContent-Length: 3\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhel",
];
const PIECES: [&str; 16] = [
    "\n", "\r", "\r\n", " ", "\t", "\0", ";", ":", ",", "0", "\u{a0}", "\u{85}", "\u{b}", "\u{7f}",
    "#", "\"",
];

/// Some requests, most of which are wrong somewhere.
fn requests(numbers: &mut Numbers) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..=numbers.below(3) {
        let method = numbers.pick(&["GET", "POST", "POST", "OPTIONS", "get", "CONNECT", "P{T"][..]);
        let target = if numbers.below(4) == 0 {
            numbers.pick(&TARGETS)
        } else {
            "/"
        };
        let version = numbers.pick(&["1.1", "1.1", "1.1", "1.1", "1.1", "1.0", "1.2", "2.0"][..]);
        let end = numbers.pick(&["\r\n", "\r\n", "\r\n", "\n"][..]);
        text += &format!("{method} {target} HTTP/{version}{end}Host: a.example{end}");
        for _ in 0..numbers.below(4) {
            text += &format!("{}{end}", numbers.pick(&FIELDS));
        }
        text += end;
        text += numbers.pick(&BODIES);
    }
    let mut bytes = text.into_bytes();
    if numbers.below(3) == 0 {
        let at = numbers.below(bytes.len());
        let piece = numbers.pick(&PIECES).bytes();
        let replaced = numbers.below(2);
        bytes.splice(at..at + replaced, piece);
    }
    bytes
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

#[test]
fn service_reads_the_requests_that_hyper_would_read() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (mut whole, mut cut) = (0, 0);
    for seed in 0..4000 {
        let mut numbers = Numbers(seed);
        let sent = requests(&mut numbers);
        let out = rewritten(&sent, [1, 7, 100_000][numbers.below(3)]);
        assert_eq!(out, rewritten(&sent, 100_000), "pieces make no difference");
        let (direct, passed, refused) = runtime.block_on(async {
            let direct = read_by_hyper(&sent).await.0;
            let (passed, refused) = read_by_hyper(&out).await;
            (direct, passed, refused)
        });
        compare(&sent, &direct, &passed, refused);
        if passed.len() == direct.len() {
            whole += passed.len();
        } else {
            cut += 1;
        }
    }
    // Both happen often enough to mean something.
    assert!(
        whole > 500 && cut > 300,
        "{whole} requests passed, {cut} inputs were cut"
    );
}

#[test]
fn visitor_of_a_reverse_tunnel_smuggles_nothing() {
    let (arrived, arrivals) = channel();
    let target = TcpTarget::serve(move |mut stream| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut all = Vec::new();
        let _ended = stream.read_to_end(&mut all);
        let _sent = arrived.send(String::from_utf8_lossy(&all).into_owned());
    });
    let server = open_server();
    let keys = json!({ "protocol": "http", "host": "a.example" });
    let web = with(service("web", free_port(), target.port()), keys);
    let client = client(&server, services(vec![web]));
    let bound = published(&client, "web");
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\n";
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n");
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n";
    for (sent, expected) in [
        (format!("{chunked}5;a\nb\r\nhello\r\n0\r\n\r\n"), ""),
        (format!("{chunked}\r\n\r\n{hidden}"), ""),
        (
            format!("{chunked}5;a=b\r\nhello\r\n0\r\n\r\n"),
            "\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            format!("{post}Transfer-Encoding: \u{a0}chunked\r\n\r\n0\r\n\r\n{hidden}"),
            "",
        ),
        (
            format!("{post}Content-Length: 5\u{a0}\r\n\r\nhello{hidden}"),
            "",
        ),
        (
            format!(
                "{}Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
                post.replace("POST", "GET")
            ),
            "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 127.0.0.1\r\n",
        ),
        (
            format!("{post}Connection: X-Forwarded-For, keep-alive\r\n\r\n"),
            "\r\nConnection: keep-alive\r\nX-Forwarded-For: 127.0.0.1\r\n",
        ),
        (
            format!("{post}X_Forwarded_For: 10.0.0.1\r\n\r\n"),
            "\r\nHost: a.example\r\nX-Forwarded-For: 127.0.0.1\r\n",
        ),
        (
            format!("{post}Connection: close\r\n\r\n{hidden}"),
            "Connection: close\r\n",
        ),
    ] {
        let mut visitor = dial(bound);
        visitor.write_all(sent.as_bytes()).unwrap();
        visitor.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ended = visitor.read_to_string(&mut answer);
        if expected.is_empty() {
            assert!(answer.starts_with("HTTP/1.1 400 "), "{sent:?}: {answer}");
            continue;
        }
        let got = arrivals.recv_timeout(crate::common::DEADLINE);
        let got = got.unwrap_or_else(|_| panic!("{sent:?} was answered {answer:?}"));
        assert!(got.contains(expected), "{sent:?} became {got:?}");
        for wrong in ["hidden", "10.0.0.1", "\u{a0}", "a\nb", "pgrade", "a=b"] {
            assert!(!got.contains(wrong), "{sent:?} became {got:?}");
        }
    }
    assert!(
        arrivals.try_recv().is_err(),
        "what is refused reaches no service"
    );
}
