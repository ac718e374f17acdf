#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Option<(Request, usize)>, Error> {
    Request::parse(text.as_bytes())
}

fn request(text: &str) -> Request {
    let (request, len) = parse(text).unwrap().unwrap();
    assert_eq!(len, text.len());
    request
}

fn forward(text: &str) -> (String, Forward) {
    match request(text).kind {
        Kind::Forward(forward) => (String::from_utf8(forward.head.clone()).unwrap(), forward),
        Kind::Connect => panic!("a tunnel"),
    }
}

#[test]
fn connect_names_its_target() {
    for (target, address) in [
        ("example.com:443", "example.com:443"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
    ] {
        let request = request(&format!(
            "CONNECT {target} HTTP/1.1\r\nHost: elsewhere\r\n\r\n"
        ));
        assert_eq!(
            (request.target.to_string().as_str(), request.kind),
            (address, Kind::Connect)
        );
    }
    for target in [
        "example.com",
        "example.com:0",
        "example.com:99999",
        ":443",
        "[::1]",
        "a:b:443",
    ] {
        let refused = parse(&format!("CONNECT {target} HTTP/1.1\r\n\r\n"));
        assert_eq!(refused, Err(Error::Malformed), "{target}");
    }
}

#[test]
fn plain_request_becomes_that_of_an_origin() {
    let (head, forward) = forward(
        "GET HTTP://user@Example.com:8080/a?b#c HTTP/1.1\r\nHost: other.example\r\nProxy-Connection: keep-alive\r\n\
         Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nAccept: */*\r\nProxy-Authorization: Basic YTpi\r\nTE: trailers\r\n\r\n",
    );
    assert_eq!(
        head,
        "GET /a?b HTTP/1.1\r\nHost: Example.com:8080\r\nAccept: */*\r\n\r\n"
    );
    assert!(forward.persists && !forward.upgrades && forward.body.is_over());
    let (head, _) = self::forward("GET http://a.example HTTP/1.1\r\n\r\n");
    assert_eq!(head, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let (head, _) = self::forward("GET http://a.example?q HTTP/1.1\r\n\r\n");
    assert_eq!(head, "GET /?q HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let (head, _) = self::forward("OPTIONS http://a.example HTTP/1.1\r\n\r\n");
    assert_eq!(head, "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n");
}

#[test]
fn credentials_are_read_and_not_passed_on() {
    let text =
        "GET http://a.example/ HTTP/1.1\r\nProxy-Authorization: bAsIc YW5uOnM6ZWNyZXQ=\r\n\r\n";
    assert_eq!(
        request(text).credentials.as_deref(),
        Some(&b"ann:s:ecret"[..])
    );
    let digest = "GET http://a.example/ HTTP/1.1\r\nProxy-Authorization: Digest x\r\n\r\n";
    assert_eq!(request(digest).credentials, None);
}

#[test]
fn upgrade_keeps_its_fields() {
    let (head, forward) = forward(
        "GET http://a.example/chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
    );
    assert!(forward.upgrades);
    assert_eq!(
        head,
        "GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nConnection: Upgrade\r\n\r\n"
    );
}

#[test]
fn ambiguous_requests_are_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length:\r\n",
        "Content-Length: 1\u{a0}\r\n",
        "Transfer-Encoding: \u{a0}chunked\r\n",
        "A: b\r\n folded\r\n",
    ] {
        let refused = parse(&format!("POST http://a.example/ HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(refused, Err(Error::Malformed), "{fields}");
    }
    let unreadable = b"POST http://a.example/ HTTP/1.1\r\nTransfer-Encoding: \xffchunked\r\n\r\n";
    assert_eq!(Request::parse(unreadable), Err(Error::Malformed));
    assert_eq!(
        parse("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        Err(Error::NotForProxy)
    );
    assert_eq!(
        parse("GET https://a.example/ HTTP/1.1\r\n\r\n"),
        Err(Error::NotForProxy)
    );
    assert_eq!(parse("\x16\x03\x01\r\n\r\n"), Err(Error::Malformed));
    let long = format!(
        "GET http://a.example/ HTTP/1.1\r\nA: {}\r\n\r\n",
        "a".repeat(MAX_HEAD)
    );
    assert_eq!(parse(&long), Err(Error::TooLong));
}

fn response(text: &str, request: &str) -> Response {
    let (_, forward) = forward(request);
    let (response, len) = Response::parse(text.as_bytes(), &forward, false)
        .unwrap()
        .unwrap();
    assert_eq!(len, text.len());
    response
}

#[test]
fn end_of_a_response_is_known() {
    let get = "GET http://a.example/ HTTP/1.1\r\n\r\n";
    let head = "HEAD http://a.example/ HTTP/1.1\r\n\r\n";
    for (text, request, body, persists) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            get,
            Body::Length(5),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            head,
            Body::Empty,
            true,
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            get,
            Body::Empty,
            true,
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n", get, Body::Empty, true),
        ("HTTP/1.1 200 OK\r\n\r\n", get, Body::UntilEnd, false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
            get,
            Body::Length(1),
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
            get,
            Body::Length(1),
            false,
        ),
    ] {
        let response = response(text, request);
        assert_eq!(
            (response.body, response.persists),
            (body, persists),
            "{text}"
        );
    }
    let chunked = response(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X\r\nX: 1\r\n\r\n",
        get,
    );
    assert_eq!(
        String::from_utf8(chunked.head).unwrap(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
}

#[test]
fn page_says_what_failed_without_letting_text_become_markup() {
    let page = String::from_utf8(super::response(
        502,
        "Bad Gateway",
        "",
        "cannot reach <a&b>",
        true,
    ))
    .unwrap();
    assert!(page.contains("<p>cannot reach &lt;a&amp;b></p>"), "{page}");
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
}

/// Walks through `message` in pieces of `size` bytes: how many bytes are of the body.
fn walk(mut body: Body, message: &[u8], size: usize) -> Result<usize, Error> {
    let mut used = 0;
    for piece in message.chunks(size) {
        let len = body.advance(piece)?;
        used += len;
        if body.is_over() {
            break;
        }
        assert_eq!(len, piece.len(), "all is taken before the end");
    }
    Ok(used)
}

#[test]
fn chunked_body_ends_after_its_trailers() {
    let message = b"5;ext=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET next";
    let body = || Body::Chunked(body::Chunks::default());
    for size in 1..message.len() {
        assert_eq!(
            walk(body(), message, size),
            Ok(message.len() - 8),
            "pieces of {size}"
        );
    }
    for wrong in [
        &b"5\r\nhelloX\r\n0\r\n\r\n"[..],
        b"g\r\n",
        b"\r\n",
        b"-1\r\n",
        b"5\r\nhello\rX0\r\n\r\n",
        b"11111111111111111\r\n",
        b"5;a\nb\r\n",
        b"5\nhello\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n\n",
    ] {
        for size in 1..=wrong.len() {
            assert_eq!(
                walk(body(), wrong, size),
                Err(Error::Malformed),
                "{wrong:?} in pieces of {size}"
            );
        }
    }
    let endless = vec![b'1'; 4096];
    assert_eq!(walk(body(), &endless, 100), Err(Error::Malformed));
}

proptest! {
    #[test]
    fn nothing_breaks_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..50) {
        let _ = Request::parse(&bytes);
        let _ = walk(Body::Chunked(body::Chunks::default()), &bytes, size);
    }

    #[test]
    fn length_is_counted_across_pieces(len in 0_u64..400, size in 1_usize..50) {
        let body = if len == 0 { Body::Empty } else { Body::Length(len) };
        prop_assert_eq!(walk(body, &[0; 500], size), Ok(usize::try_from(len).unwrap()));
    }
}
