//! HTTP visitors of a reverse tunnel: whatever they send, the service reads it as the server does. hyper is the judge.

use crate::common::{
    http_oracle::visit,
    process::free_port,
    reverse::{client, dial, open_server, published, service, services, with},
    targets::TcpTarget,
};
use serde_json::json;
use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    sync::mpsc::channel,
};

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

#[test]
fn service_reads_the_requests_that_hyper_would_read() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (mut whole, mut cut) = (0, 0);
    for seed in 0..4000 {
        let mut numbers = Numbers(seed);
        let sent = requests(&mut numbers);
        let size = [1, 7, 100_000][numbers.below(3)];
        let outcome = runtime.block_on(visit(&sent, size));
        if outcome.passed == outcome.direct {
            whole += outcome.passed;
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
