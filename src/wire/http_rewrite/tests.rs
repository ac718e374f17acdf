#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

const FORWARDED: &str =
    "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n\r\n";

fn requests() -> RequestRewriter {
    RequestRewriter::new("192.0.2.9".parse().unwrap())
}

/// The output for `input` in pieces of `size` bytes.
fn passed(input: &str, size: usize) -> Result<String, RewriteError> {
    let (mut requests, mut out) = (requests(), Vec::new());
    for piece in input.as_bytes().chunks(size) {
        assert_eq!(requests.rewrite(piece, &mut out)?, piece.len());
    }
    Ok(String::from_utf8(out).unwrap())
}

fn check(input: &str, expected: &str) {
    for size in [1, 2, 7, 100_000] {
        assert_eq!(
            passed(input, size).as_deref(),
            Ok(expected),
            "pieces of {size}"
        );
    }
}

#[test]
fn every_request_of_a_connection_says_who_came() {
    check(
        "GET / HTTP/1.1\r\nHost: A.example:80\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=x\r\n\r\n\
         POST /a HTTP/1.1\r\nhost: a.example\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a.example\r\n\r\n",
        &format!(
            "GET / HTTP/1.1\r\nHost: A.example:80\r\n{FORWARDED}\
             POST /a HTTP/1.1\r\nhost: a.example\r\nContent-Length: 5\r\n{FORWARDED}hello\
             GET /b HTTP/1.1\r\nHost: a.example\r\n{FORWARDED}"
        ),
    );
}

#[test]
fn chunked_bodies_end_where_they_say() {
    check(
        "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        &format!(
            "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n{FORWARDED}\
             5\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n{FORWARDED}"
        ),
    );
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{a0}chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\u{a0}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive,\u{a0}close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        assert_eq!(passed(head, 1000), Err(RewriteError::Malformed), "{head:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(MAX_HEAD));
    assert_eq!(passed(&long, 1000), Err(RewriteError::TooLong));
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(MAX_HEADERS)
    );
    assert_eq!(passed(&many, 1000), Err(RewriteError::TooLong));
    let other = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n";
    assert_eq!(passed(other, 1000), Err(RewriteError::OtherHost));
}

#[test]
fn malformed_chunks_are_refused() {
    for body in [
        "\r\n\r\n",
        ";x\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\u{a0}\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "0\r\n\n",
        "0\r\nA: b\n\n",
    ] {
        let request =
            format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        for size in [1, 7, 1000] {
            assert_eq!(
                passed(&request, size),
                Err(RewriteError::Malformed),
                "{body:?}"
            );
        }
    }
    let extended = format!("1;{}\r\nx\r\n", "x".repeat(200)).repeat(100);
    let request =
        format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{extended}");
    assert_eq!(passed(&request, 1000), Err(RewriteError::TooLong));
}

#[test]
fn visitor_sets_nothing_that_a_proxy_sets() {
    check(
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, X-Forwarded-For, host, X-Hop\r\n\
         X_Forwarded_For: 10.0.0.1\r\nX-Forwarded-Port: 1\r\nx.real.ip: 10.0.0.1\r\nX-Hop: 1\r\nTE: trailers\r\n\
         Content_Length: 5\r\nTransfer_Encoding: chunked\r\nProxy: http://a\r\nProxy-Connection: close\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: x\r\nMy_Own: 1\r\n\r\n",
        &format!(
            "GET / HTTP/1.1\r\nHost: a.example\r\nMy_Own: 1\r\nConnection: keep-alive\r\n{FORWARDED}"
        ),
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n",
        "a,".repeat(33)
    );
    assert_eq!(passed(&many, 1000), Err(RewriteError::Malformed));
}

#[test]
fn nothing_follows_the_last_request() {
    let next = "GET /b HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for (line, connection) in [
        ("1.1\r\nConnection: close", "Connection: close\r\n"),
        (
            "1.1\r\nConnection: close, keep-alive",
            "Connection: close\r\n",
        ),
        ("1.0", "Connection: close\r\n"),
    ] {
        let version = line.get(..3).unwrap();
        let sent =
            format!("POST / HTTP/{line}\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi{next}");
        check(
            &sent,
            &format!(
                "POST / HTTP/{version}\r\nHost: a.example\r\nContent-Length: 2\r\n{connection}{FORWARDED}hi"
            ),
        );
    }
    let kept = format!("GET / HTTP/1.0\r\nHost: a.example\r\nConnection: Keep-Alive\r\n\r\n{next}");
    assert!(passed(&kept, 1000).unwrap().contains("GET /b"));
}

#[test]
fn only_websocket_is_asked_for() {
    for (method, fields) in [
        ("GET", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket, h2c"),
        (
            "GET",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c",
        ),
        ("GET", "Upgrade: websocket"),
        ("GET", "Connection: Upgrade, close\r\nUpgrade: websocket"),
        ("POST", "Connection: Upgrade\r\nUpgrade: websocket"),
    ] {
        let (mut requests, mut out) = (requests(), Vec::new());
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        requests.rewrite(request.as_bytes(), &mut out).unwrap();
        assert!(!requests.awaits_response(), "{fields}");
        let out = String::from_utf8(out).unwrap().to_lowercase();
        assert!(!out.contains("upgrade") && !out.contains("http2-"), "{out}");
    }
}

#[test]
fn answer_that_switches_to_something_else_ends_the_requests() {
    let (mut requests, mut out) = (requests(), Vec::new());
    requests.rewrite(UPGRADE.as_bytes(), &mut out).unwrap();
    requests.observe_response(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n");
    assert_eq!(
        requests.rewrite(b"PRI", &mut out),
        Err(RewriteError::Malformed)
    );
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: websocket\r\n\r\n";

#[test]
fn agreed_upgrade_lets_everything_pass() {
    let (mut requests, mut out) = (requests(), Vec::new());
    let input = [UPGRADE.as_bytes(), b"\x81\x00"].concat();
    assert_eq!(requests.rewrite(&input, &mut out), Ok(UPGRADE.len()));
    assert!(String::from_utf8_lossy(&out).contains("Upgrade: websocket\r\n"));
    assert!(requests.awaits_response());
    for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" {
        assert!(requests.awaits_response());
        requests.observe_response(&[*byte]);
    }
    out.clear();
    assert_eq!(requests.rewrite(b"\x81\x00GET", &mut out), Ok(5));
    assert_eq!(out, b"\x81\x00GET");
}

#[test]
fn refused_upgrade_leaves_requests_requests() {
    let (mut requests, mut out) = (requests(), Vec::new());
    requests.rewrite(UPGRADE.as_bytes(), &mut out).unwrap();
    requests.observe_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    out.clear();
    let next = b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
    assert_eq!(requests.rewrite(next, &mut out), Ok(next.len()));
    assert!(String::from_utf8(out).unwrap().ends_with(FORWARDED));
}

#[test]
fn upgrade_of_a_later_request_is_not_asked_for() {
    let both = format!("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n{UPGRADE}");
    let out = passed(&both, 1000).unwrap();
    assert!(out.contains("Connection: keep-alive\r\n"), "{out}");
    assert!(!out.contains("websocket"), "{out}");
}

#[test]
fn rewriting_makes_at_most_eight_times_as_many_bytes() {
    let visitor = "1234:1234:1234:1234:1234:1234:1234:1234".parse().unwrap();
    let mut requests = RequestRewriter::new(visitor);
    let (input, mut out) = ("A / HTTP/1.1\nHost:a\n\n".repeat(9), Vec::new());
    let read = requests.rewrite(input.as_bytes(), &mut out).unwrap();
    assert_eq!(read, input.len());
    assert!(out.len() <= 8 * input.len(), "{}", out.len());
}
