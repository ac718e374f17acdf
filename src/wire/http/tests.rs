#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use proptest::prelude::*;

use super::*;

/// The nonce and key of RFC 6455 §1.3.
const NONCE: [u8; NONCE_LEN] = *b"the sample nonce";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn endpoint(path: &str, host: Option<&str>) -> Endpoint {
    Endpoint {
        path: path.into(),
        host: host.map(Into::into),
        fields: Vec::new(),
    }
}

fn head(lines: &[&str]) -> Vec<u8> {
    let mut head = lines.join("\r\n");
    head.push_str("\r\n\r\n");
    head.into_bytes()
}

const FIELDS: [&str; 6] = [
    "GET /chat HTTP/1.1",
    "Host: example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// [`FIELDS`] with the line that begins like `line` replaced by it, or with it added.
fn with(line: &str) -> Vec<u8> {
    let name = |line: &str| line.split([':', ' ']).next().unwrap().to_owned();
    let mut lines: Vec<&str> = FIELDS.to_vec();
    match lines.iter_mut().find(|old| name(old) == name(line)) {
        Some(old) => *old = line,
        None => lines.push(line),
    }
    head(&lines)
}

fn without(name: &str) -> Vec<u8> {
    let lines: Vec<&str> = FIELDS
        .into_iter()
        .filter(|line| !line.starts_with(name))
        .collect();
    head(&lines)
}

fn ask(bytes: &[u8]) -> Result<Option<(Upgrade, usize)>, RequestError> {
    parse_request(bytes, &endpoint("/chat", None))
}

#[test]
fn request_is_that_of_v2ray_plugin() {
    let request = request(&endpoint("/ws", Some("cloudfront.com")), NONCE).unwrap();
    assert_eq!(
        request,
        "GET /ws HTTP/1.1\r\nHost: cloudfront.com\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
    );
}

#[test]
fn given_fields_are_added_or_take_the_place_of_ours() {
    let mut endpoint = endpoint("/", Some("a.example"));
    endpoint.fields = vec![
        ("user-agent".into(), "Mozilla/5.0".into()),
        ("X-Token".into(), "secret".into()),
    ];
    let request = request(&endpoint, NONCE).unwrap();
    assert!(request.ends_with("user-agent: Mozilla/5.0\r\nX-Token: secret\r\n\r\n"));
    assert!(!request.contains("Go-http-client"));
}

#[test]
fn nothing_can_be_smuggled_into_a_request() {
    let bad = |change: fn(&mut Endpoint)| {
        let mut endpoint = endpoint("/", Some("a.example"));
        change(&mut endpoint);
        assert_eq!(request(&endpoint, NONCE), None, "{endpoint:?}");
    };
    bad(|e| e.path = "/ HTTP/1.1\r\nX: y".into());
    bad(|e| e.path = "/a b".into());
    bad(|e| e.path = "no-slash".into());
    bad(|e| e.host = Some("a\r\nX: y".into()));
    bad(|e| e.fields = vec![("X".into(), "y\nZ: w".into())]);
    bad(|e| e.fields = vec![("X Y".into(), "z".into())]);
    bad(|e| e.fields = vec![(String::new(), "z".into())]);
    bad(|e| e.fields = vec![("X".into(), "z".repeat(MAX_HEAD))]);
}

#[test]
fn response_has_the_accept_of_rfc_6455() {
    let bytes = head(&FIELDS);
    let (upgrade, len) = ask(&bytes).unwrap().unwrap();
    assert_eq!(len, bytes.len());
    let response = upgrade.response();
    assert!(response.contains(ACCEPT), "{response}");
    assert_eq!(
        parse_response(response.as_bytes(), NONCE),
        Ok(Some(response.len()))
    );
    for cut in 0..bytes.len() {
        assert_eq!(ask(&bytes[..cut]), Ok(None), "{cut}");
    }
    for cut in 0..response.len() {
        assert_eq!(parse_response(&response.as_bytes()[..cut], NONCE), Ok(None));
    }
}

#[test]
fn upgrades_are_taken_as_proxies_send_them() {
    for line in [
        "Connection: keep-alive, Upgrade",
        "Connection: upgrade",
        "Upgrade: WebSocket",
        "GET /chat?ed=2048 HTTP/1.1",
        "X-Forwarded-For: 192.0.2.1",
    ] {
        assert!(matches!(ask(&with(line)), Ok(Some(_))), "{line}");
    }
}

#[test]
fn each_wrong_request_has_its_refusal() {
    for (bytes, refusal) in [
        (with("GET /other HTTP/1.1"), RequestError::NotFound),
        (with("GET /chat/ HTTP/1.1"), RequestError::NotFound),
        (with("GET / HTTP/1.1"), RequestError::NotFound),
        (with("Upgrade: h2c"), RequestError::NotFound),
        (without("Upgrade"), RequestError::NotFound),
        (without("Connection"), RequestError::BadRequest),
        (with("Connection: close"), RequestError::BadRequest),
        (with("GET /chat HTTP/1.0"), RequestError::BadRequest),
        (without("Host"), RequestError::BadRequest),
        (without("Sec-WebSocket-Key"), RequestError::BadRequest),
        (with("Sec-WebSocket-Key: dGhl"), RequestError::BadRequest),
        (with("Sec-WebSocket-Key: !"), RequestError::BadRequest),
        (with("Sec-WebSocket-Version: 8"), RequestError::Version),
        (without("Sec-WebSocket-Version"), RequestError::Version),
        (b"\x16\x03\x01\x02\x00".to_vec(), RequestError::BadRequest),
        (vec![b'a'; MAX_HEAD], RequestError::TooLong),
        (
            with(&format!("X: {}", "y".repeat(MAX_HEAD))),
            RequestError::TooLong,
        ),
        (with(&"X: y\r\n".repeat(70)), RequestError::BadRequest),
    ] {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let got = ask(&bytes);
        if text.starts_with("GET") && bytes.len() < MAX_HEAD && refusal == RequestError::BadRequest
        {
            assert!(
                matches!(got, Err(RequestError::BadRequest | RequestError::TooLong)),
                "{text}"
            );
        } else {
            assert_eq!(got, Err(refusal), "{text}");
        }
    }
    let mut post = head(&FIELDS);
    post.splice(..3, *b"POST");
    assert_eq!(ask(&post), Err(RequestError::NotFound));
}

#[test]
fn host_is_checked_where_it_is_given() {
    let bytes = with("Host: Example.com:8443");
    let asked = |host: &str| parse_request(&bytes, &endpoint("/chat", Some(host)));
    assert!(asked("example.com").is_ok());
    assert!(asked("example.com:8443").is_ok());
    assert_eq!(asked("example.com:443"), Err(RequestError::NotFound));
    assert_eq!(asked("other.example"), Err(RequestError::NotFound));
}

#[test]
fn pages_are_those_of_a_web_server() {
    let page = RequestError::NotFound.page(784_111_777);
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\nServer: nginx\r\n"));
    // The example of RFC 9110 §5.6.7.
    assert!(
        head.contains("\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
    assert_eq!(body.len(), 146, "nginx's own has as many bytes");
    assert!(
        RequestError::Version
            .page(0)
            .contains("Sec-WebSocket-Version: 13\r\n")
    );
    assert!(RequestError::TooLong.page(0).starts_with("HTTP/1.1 400 "));
    let mut fields = [httparse::EMPTY_HEADER; 8];
    let mut response = httparse::Response::new(&mut fields);
    assert!(response.parse(page.as_bytes()).unwrap().is_complete());
}

#[test]
fn dates_are_right_around_leap_days() {
    for (time, text) in [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
        (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
        (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
        (1_735_689_600, "Wed, 01 Jan 2025 00:00:00 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
    ] {
        assert_eq!(date(time), text);
    }
}

#[test]
fn responses_that_do_not_fit_are_named() {
    let good = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    ];
    assert!(matches!(parse_response(&head(&good), NONCE), Ok(Some(_))));
    let replaced = |at: usize, line: &'static str| {
        let mut lines = good;
        lines[at] = line;
        parse_response(&head(&lines), NONCE)
    };
    use ResponseError::{Field, NotHttp, Status, TooLong};
    assert_eq!(replaced(0, "HTTP/1.1 404 Not Found"), Err(Status(404)));
    assert_eq!(replaced(0, "SSH-2.0-OpenSSH"), Err(NotHttp));
    assert_eq!(replaced(1, "Upgrade: h2c"), Err(Field("Upgrade")));
    assert_eq!(replaced(2, "Connection: close"), Err(Field("Connection")));
    assert_eq!(
        replaced(3, "Sec-WebSocket-Accept: AAAA"),
        Err(Field("Sec-WebSocket-Accept"))
    );
    let extra = [&good[..], &["Sec-WebSocket-Extensions: permessage-deflate"]].concat();
    assert_eq!(
        parse_response(&head(&extra), NONCE),
        Err(Field("sec-websocket-extensions"))
    );
    let long = [b"HTTP/1.1 101 OK\r\nX: ".to_vec(), vec![b'y'; MAX_HEAD]].concat();
    assert_eq!(parse_response(&long, NONCE), Err(TooLong));
}

#[test]
fn client_is_the_nearest_that_is_no_trusted_proxy() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let trusted = |ip: IpAddr| ip.is_loopback() || ip == "198.51.100.7".parse::<IpAddr>().unwrap();
    let client = |field: &str, peer: &str| {
        let bytes = with(&format!("X-Forwarded-For: {field}"));
        ask(&bytes).unwrap().unwrap().0.client(ip(peer), trusted)
    };
    let near = "203.0.113.9";
    assert_eq!(client(near, "127.0.0.1"), ip(near));
    assert_eq!(
        client(near, "192.0.2.1"),
        ip("192.0.2.1"),
        "anybody can say this"
    );
    assert_eq!(client("10.0.0.1, 203.0.113.9", "127.0.0.1"), ip(near));
    assert_eq!(client("203.0.113.9, 198.51.100.7", "127.0.0.1"), ip(near));
    assert_eq!(
        client("203.0.113.9:1234, 198.51.100.7", "127.0.0.1"),
        ip(near)
    );
    assert_eq!(client("[2001:db8::1]:80", "::1"), ip("2001:db8::1"));
    assert_eq!(client("2001:db8::1", "::1"), ip("2001:db8::1"));
    assert_eq!(client("unknown", "127.0.0.1"), ip("127.0.0.1"));
    assert_eq!(client("203.0.113.9, junk", "127.0.0.1"), ip("127.0.0.1"));
    assert_eq!(client("", "127.0.0.1"), ip("127.0.0.1"));
    let many = vec!["198.51.100.7"; 1000].join(", ");
    let bytes = with(&format!("X-Forwarded-For: {many}"));
    assert_eq!(ask(&bytes).unwrap().unwrap().0.forwarded_for.len(), 16);
}

#[test]
fn tungstenite_upgrades_with_us() {
    use tungstenite::handshake::server::create_response;
    let request = request(&endpoint("/chat?x=1", Some("example.com")), NONCE).unwrap();
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(request.as_bytes()).unwrap();
    let mut builder = Request::builder().uri(parsed.path.unwrap());
    for field in parsed.headers.iter() {
        builder = builder.header(field.name, field.value);
    }
    let response = create_response(&builder.body(()).unwrap()).unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], ACCEPT);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0..400_usize) {
        let _ = ask(&bytes);
        let _ = parse_response(&bytes, NONCE);
        let bytes = [&head(&FIELDS)[..cut.min(120)], &bytes].concat();
        let _ = ask(&bytes);
    }
}
