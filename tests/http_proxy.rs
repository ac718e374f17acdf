//! `ssr local` as an HTTP and SOCKS4 proxy: real clients, and a client that says exactly what a test wants.

use crate::common::{
    http::{Http, origin},
    peers::{Pair, Program, Spec, Start, base64},
    process::{free_port, v4},
    socks::{Socks, dial},
    targets::TcpTarget,
};
use crate::outbound_proxy::tls_before;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::Shutdown,
    process::{Command, Output},
};

const METHOD: &str = "2022-blake3-aes-128-gcm";

/// A pair whose local side has these keys in its entry, and these at the top level.
pub(crate) fn pair(entry: Value, top: Value) -> Pair {
    let spec = Spec::new(METHOD);
    Pair::with(Start::server(Program::Ssr, &spec), |at| {
        let mut local = json!({"local_address": "127.0.0.1"});
        local
            .as_object_mut()
            .unwrap()
            .extend(entry.as_object().unwrap().clone());
        Start::local(Program::Ssr, &spec, at)
            .with(json!({ "locals": [local] }))
            .with(top)
    })
}

pub(crate) fn http() -> Pair {
    pair(json!({"protocol": "http"}), json!({}))
}

pub(crate) fn client(pair: &Pair) -> Http {
    Http::new(dial(pair.local.address))
}

pub(crate) fn get(target: &TcpTarget, path: &str) -> String {
    format!(
        "GET http://127.0.0.1:{}{path} HTTP/1.1\r\nHost: x\r\n\r\n",
        target.port()
    )
}

fn run(command: &mut Command) -> Output {
    for proxy in [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "NO_PROXY",
    ] {
        command.env_remove(proxy);
    }
    command.output().unwrap()
}

#[test]
fn one_port_speaks_every_protocol() {
    for protocol in ["socks", "mixed"] {
        let pair = pair(json!({"protocol": protocol}), json!({}));
        let target = origin();
        let proxy = pair.local.address.to_string();
        let url = |host: &str| format!("http://{host}:{}/hello", target.port());
        let http = format!("http://{proxy}");
        let [v4, name, v6] = ["127.0.0.1", "localhost", "[::1]"].map(url);
        for arguments in [
            ["-x", &http, &v4],
            ["-x", &http, &name],
            ["-x", &http, &v6],
            ["--socks4", &proxy, &v4],
            ["--socks4a", &proxy, &name],
            ["--socks5", &proxy, &v4],
            ["--socks5-hostname", &proxy, &name],
        ] {
            let output = run(Command::new("curl")
                .args(["-sS", "-m", "20"])
                .args(arguments));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.stdout, b"hello",
                "{protocol} {arguments:?}: {stderr}"
            );
        }
        let tunnel = run(Command::new("curl").args([
            "-sS",
            "-m",
            "20",
            "--proxytunnel",
            "-x",
            &http,
            &name,
        ]));
        assert_eq!(tunnel.stdout, b"hello", "{tunnel:?}");
        let mut wget = Command::new("wget");
        wget.args(["-q", "-T", "20", "-t", "1", "-O", "-", "-e"])
            .arg(format!("http_proxy={http}"))
            .arg(&name);
        let wget = run(&mut wget);
        assert_eq!(wget.stdout, b"hello", "{wget:?}");
    }
}

#[test]
fn clients_reach_https_by_every_protocol() {
    let pair = pair(json!({}), json!({}));
    let origin = origin();
    let (port, _) = tls_before(v4(origin.port()));
    let proxy = pair.local.address.to_string();
    let url = format!("https://127.0.0.1:{port}/hello");
    for scheme in ["http", "socks4", "socks4a", "socks5", "socks5h"] {
        let at = format!("{scheme}://{proxy}");
        let mut curl = Command::new("curl");
        let output = run(curl.args(["-sSk", "-m", "20", "-x", &at, &url]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"hello", "{scheme}: {stderr}");
    }
    let mut wget = Command::new("wget");
    wget.args([
        "-q",
        "-T",
        "20",
        "-t",
        "1",
        "--no-check-certificate",
        "-O",
        "-",
        "-e",
    ])
    .arg(format!("https_proxy=http://{proxy}"))
    .arg(&url);
    assert_eq!(run(&mut wget).stdout, b"hello");
}

#[test]
fn any_method_is_told_apart_from_socks() {
    let pair = pair(json!({"protocol": "mixed"}), json!({}));
    let target = origin();
    for method in ["get", "m-search", "!x", "~", "9", "`a|b^c"] {
        let request = get(&target, "/head").replacen("GET", method, 1);
        let answer = client(&pair).ask(&request).text();
        assert!(answer.starts_with(&format!("{method} /head ")), "{answer}");
    }
    for first in [b"(x\r\n", b"\xff\0\0\0", b"\x16\x03\x01\0"] {
        let mut stream = dial(pair.local.address);
        stream.write_all(first).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
}

#[test]
fn http_port_speaks_nothing_else() {
    let pair = http();
    for first in [
        &[5, 1, 0][..],
        &[4, 1, 0, 80, 127, 0, 0, 1, 0],
        b"\x16\x03\x01\0\x05",
    ] {
        let mut stream = dial(pair.local.address);
        stream.write_all(first).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "),
            "{answer:?}"
        );
    }
}

#[test]
fn connection_serves_several_hosts() {
    let pair = http();
    let (one, other) = (origin(), origin());
    let mut client = client(&pair);
    for target in [&one, &one, &other, &one] {
        assert_eq!(client.ask(&get(target, "/hello")).text(), "hello");
    }
    assert_eq!(
        (one.accepted(), other.accepted()),
        (2, 1),
        "a connection stays for the next request to the same host"
    );
    // Requests may come before the responses to earlier ones.
    client
        .send(&(get(&one, "/hello") + &get(&other, "/head") + &get(&one, "/204")))
        .unwrap();
    assert_eq!(client.message(true).unwrap().text(), "hello");
    assert!(
        client
            .message(true)
            .unwrap()
            .text()
            .starts_with("GET /head HTTP/1.1\r\n")
    );
    assert_eq!(
        client.message(false).unwrap().line(),
        "HTTP/1.1 204 No Content"
    );
    // A server that closes an idle connection is no failure.
    for _ in 0..3 {
        assert_eq!(client.ask(&get(&one, "/once")).text(), "once");
    }
    // CONNECT may follow.
    let connect = format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n\r\n", one.port());
    client.send(&connect).unwrap();
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200 "));
    let inside = client.ask("GET /hello HTTP/1.1\r\n\r\n");
    assert_eq!(inside.text(), "hello");
}

#[test]
fn fields_for_the_proxy_stay_here() {
    let pair = http();
    let target = origin();
    let answer = client(&pair).ask(&format!(
        "GET http://127.0.0.1:{}/head HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\n\
         Connection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n",
        target.port()
    ));
    assert_eq!(
        answer.text(),
        format!(
            "GET /head HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nX-End: 2\r\n\r\n",
            target.port()
        )
    );
}

#[test]
fn bodies_pass_by_their_framing() {
    let pair = http();
    let target = origin();
    let url = format!("http://127.0.0.1:{}/echo", target.port());
    let mut client = client(&pair);
    for len in [0, 1, 5000, 300_000] {
        let body = "x".repeat(len);
        let answer = client.ask(&format!(
            "POST {url} HTTP/1.1\r\nContent-Length: {len}\r\n\r\n{body}"
        ));
        assert_eq!(answer.body, body.as_bytes(), "{len} bytes");
        assert!(answer.has("Transfer-Encoding: chunked"));
        let chunk = match len {
            0 => String::new(),
            _ => format!("{len:x}\r\n{body}\r\n"),
        };
        let answer = client.ask(&format!(
            "POST {url} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
        ));
        assert_eq!(answer.body, body.as_bytes(), "{len} bytes in chunks");
    }
    for path in ["/hello", "/204", "/304"] {
        let request = get(&target, path).replace("GET", "HEAD");
        let answer = client.ask(&request);
        assert!(!answer.line().contains("404"), "{answer:?}");
    }
    client.send(&get(&target, "/304")).unwrap();
    assert!(client.message(false).unwrap().has("Content-Length: 9"));
    let answer = client.ask(&get(&target, "/until-end"));
    assert!(answer.has("Connection: close"), "{answer:?}");
    assert_eq!(answer.text(), "all of it");
    assert!(client.is_over());
}

#[test]
fn client_waits_for_continue() {
    let pair = http();
    let target = origin();
    let mut client = client(&pair);
    client
        .send(&format!(
            "POST http://127.0.0.1:{}/echo HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
            target.port()
        ))
        .unwrap();
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    let answer = client.ask("body");
    assert_eq!(answer.text(), "body");
    assert_eq!(client.ask(&get(&target, "/hello")).text(), "hello");
}

#[test]
fn answer_may_come_before_the_whole_request() {
    let pair = http();
    let target = origin();
    let mut client = client(&pair);
    let answer = client.ask(&format!(
        "POST http://127.0.0.1:{}/early HTTP/1.1\r\nContent-Length: 1000000\r\n\r\npart",
        target.port()
    ));
    assert!(
        answer.line().contains("413") && answer.has("Connection: close"),
        "{answer:?}"
    );
    client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    assert!(client.is_over());
}

#[test]
fn client_may_end_its_direction_first() {
    let pair = http();
    let target = origin();
    let mut client = client(&pair);
    client.send(&get(&target, "/hello")).unwrap();
    client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.message(true).unwrap().text(), "hello");
    assert!(client.is_over());
}

#[test]
fn http_1_0_is_closed_unless_it_asks() {
    let pair = http();
    let target = origin();
    let old = get(&target, "/hello").replace("HTTP/1.1", "HTTP/1.0");
    let mut one = client(&pair);
    assert!(one.ask(&old).has("Connection: close"));
    assert!(one.is_over());
    let mut kept = client(&pair);
    let keep = old.replace("Host: x", "Proxy-Connection: keep-alive");
    for _ in 0..2 {
        let answer = kept.ask(&keep);
        assert!(answer.has("Connection: keep-alive"), "{answer:?}");
    }
}

#[test]
fn upgrade_passes_both_directions() {
    let pair = http();
    let target = origin();
    let mut client = client(&pair);
    client
        .send(&format!(
            "GET http://127.0.0.1:{}/upgrade HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly",
            target.port()
        ))
        .unwrap();
    let head = client.head().unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("Upgrade: echo"),
        "{head}"
    );
    let mut bytes = [0; 7];
    client.reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hiearly");
    client.send("more").unwrap();
    client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest().unwrap(), b"more");
}

#[test]
fn websocket_works_through_the_proxy() {
    let pair = http();
    let target = TcpTarget::serve(|stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_text() {
                socket.send(message).unwrap();
            }
        }
    });
    let mut client = client(&pair);
    client
        .send(&format!(
            "GET http://127.0.0.1:{}/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            target.port()
        ))
        .unwrap();
    let head = client.head().unwrap();
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let stream = client.reader.into_inner();
    let role = tungstenite::protocol::Role::Client;
    let mut socket = tungstenite::WebSocket::from_raw_socket(stream, role, None);
    socket.send("over the proxy".into()).unwrap();
    assert_eq!(
        socket.read().unwrap().into_text().unwrap(),
        "over the proxy"
    );
}

#[test]
fn broken_response_is_a_broken_connection() {
    let pair = http();
    let target = origin();
    let mut client = client(&pair);
    client.send(&get(&target, "/cut")).unwrap();
    let end = client.message(true).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn failures_are_pages_that_say_what_failed() {
    let pair = http();
    let target = origin();
    let mut client = client(&pair);
    let dead = free_port();
    for (request, status, text) in [
        (
            format!("GET http://127.0.0.1:{dead}/ HTTP/1.1\r\n\r\n"),
            "502",
            "ended before an answer came",
        ),
        (get(&target, "/two-lengths"), "502", "ambiguous"),
        (get(&target, "/hello"), "200", "hello"),
    ] {
        let answer = client.ask(&request);
        assert!(answer.line().contains(status), "{answer:?}");
        assert!(answer.text().contains(text), "{}", answer.text());
    }
    let head = client.ask(&format!("HEAD http://127.0.0.1:{dead}/ HTTP/1.1\r\n\r\n"));
    assert!(head.line().contains("502"), "{head:?}");
    assert_eq!(
        client.ask(&get(&target, "/hello")).text(),
        "hello",
        "nothing is left of the page"
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET https://x/ HTTP/1.1\r\n\r\n", "400"),
        ("CONNECT x HTTP/1.1\r\n\r\n", "400"),
        (
            "POST http://x/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400",
        ),
        ("GARBAGE\r\n\r\n", "400"),
    ] {
        let mut client = Http::new(dial(pair.local.address));
        let answer = client.ask(request);
        assert!(
            answer.line().contains(status) && answer.has("Connection: close"),
            "{answer:?}"
        );
        client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
        assert!(client.is_over());
    }
}

#[test]
fn unreachable_server_is_named() {
    let spec = Spec::new(METHOD);
    let local = Start::local(Program::Ssr, &spec, v4(free_port())).run();
    let mut client = Http::new(dial(local.address));
    let answer = client.ask("GET http://127.0.0.1:1/ HTTP/1.1\r\n\r\n");
    assert!(answer.line().contains("502"), "{answer:?}");
    assert!(
        answer.text().contains("cannot connect to 127.0.0.1"),
        "{}",
        answer.text()
    );
    // The server is known to fail now, so nothing is confirmed early.
    let answer = client.ask("CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n");
    assert!(answer.line().contains("502"), "{answer:?}");
}

fn login_file(section: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let users = json!({section: {"users": [{"user_name": "ann", "password": "s3:cret"}]}});
    std::fs::write(&file, users.to_string()).unwrap();
    (dir, file)
}

#[test]
fn login_is_asked_for_and_taken() {
    for (key, section) in [
        ("http_auth_config_path", "basic"),
        ("socks5_auth_config_path", "password"),
    ] {
        let (_dir, file) = login_file(section);
        let pair = pair(json!({ key: file }), json!({}));
        let target = origin();
        let mut client = client(&pair);
        let plain = get(&target, "/head");
        let with = |login: &str, request: &str| {
            let field = format!(
                "\r\nProxy-Authorization: Basic {}\r\n\r\n",
                base64(login.as_bytes())
            );
            request.replace("\r\n\r\n", &field)
        };
        for request in [
            plain.clone(),
            with("ann:other", &plain),
            with("bob:s3:cret", &plain),
            with("ann", &plain),
        ] {
            let answer = client.ask(&request);
            assert!(answer.line().contains("407"), "{key}: {answer:?}");
            assert!(
                answer
                    .head
                    .contains("\r\nProxy-Authenticate: Basic realm=\"ssr\""),
                "{answer:?}"
            );
        }
        let answer = client.ask(&with("ann:s3:cret", &plain));
        assert!(answer.line().contains("200"), "{answer:?}");
        assert!(
            !answer.text().contains("Authorization"),
            "{}",
            answer.text()
        );
        // Each request needs it.
        assert!(client.ask(&plain).line().contains("407"));
        let connect = format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n\r\n", target.port());
        let mut tunnel = Http::new(dial(pair.local.address));
        assert!(tunnel.ask(&connect).line().contains("407"));
        tunnel.send(&with("ann:s3:cret", &connect)).unwrap();
        assert!(tunnel.head().unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(tunnel.ask("GET /hello HTTP/1.1\r\n\r\n").text(), "hello");
        // SOCKS4 has no passwords; SOCKS5 without one is refused.
        let mut old = dial(pair.local.address);
        old.write_all(&[4, 1, 0, 80, 127, 0, 0, 1, 0]).unwrap();
        let mut answer = Vec::new();
        old.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [0, 91, 0, 0, 0, 0, 0, 0], "{key}");
        let nobody = Socks::new(pair.local.address);
        assert_eq!(nobody.request(1, &target.v4()).unwrap_err(), 0xff);
        let ann = Socks {
            login: Some(("ann".into(), "s3:cret".into())),
            ..nobody
        };
        ann.connect(&target.v4());
    }
}

#[test]
fn login_by_curl_and_wget() {
    let (_dir, file) = login_file("basic");
    let pair = pair(
        json!({"protocol": "http", "http_auth_config_path": file}),
        json!({}),
    );
    let target = origin();
    let url = format!("http://localhost:{}/hello", target.port());
    let proxy = format!("http://ann:s3%3Acret@{}", pair.local.address);
    for tunnel in [
        &["-sS"][..],
        &["-sS", "--proxytunnel"],
        &["-sS", "--proxytunnel", "--proxy-anyauth"],
    ] {
        let output = run(Command::new("curl")
            .args(tunnel)
            .args(["-m", "20", "-x", &proxy, &url]));
        assert_eq!(output.stdout, b"hello", "{output:?}");
    }
    let wrong = run(Command::new("curl")
        .args(["-s", "-w", "%{http_code}", "-o", "/dev/null", "-x"])
        .arg(format!("http://ann:wrong@{}", pair.local.address))
        .arg(&url));
    assert_eq!(wrong.stdout, b"407");
    let mut wget = Command::new("wget");
    wget.args([
        "-q",
        "-t",
        "1",
        "-T",
        "20",
        "-O",
        "-",
        "--proxy-user=ann",
        "--proxy-password=s3:cret",
        "-e",
    ])
    .arg(format!("http_proxy=http://{}", pair.local.address))
    .arg(&url);
    let wget = run(&mut wget);
    assert_eq!(wget.stdout, b"hello", "{wget:?}");
}

#[test]
fn socks4_requests_are_answered() {
    let pair = pair(json!({}), json!({}));
    let target = TcpTarget::echo();
    let mut bytes = vec![4, 1];
    bytes.extend(target.port().to_be_bytes());
    bytes.extend(b"\0\0\0\x01me\0localhost\0ahead");
    let mut stream = dial(pair.local.address);
    stream.write_all(&bytes).unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\0\x5a\0\0\0\0\0\0ahead");
    // BIND is refused, and so is what is not SOCKS4.
    for wrong in [
        &[4, 2, 0, 80, 127, 0, 0, 1, 0][..],
        &[[4, 1, 0, 80, 1, 1, 1, 1].as_slice(), &[b'a'; 300]].concat(),
    ] {
        let mut stream = dial(pair.local.address);
        stream.write_all(wrong).unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0, 91, 0, 0, 0, 0, 0, 0]);
    }
}
