//! The site in front of a listener (`fallback`), and sites of `ssr forward`: the same for whoever is no client of ours, and bounded.

use crate::common::{
    DEADLINE, eventually,
    forward::Forwarder,
    http::Http,
    peers::{Half, Program::Ssr, Spec, Start, ssr},
    process::{Process, free_port, make_private, v4},
    socks::dial,
    targets::TcpTarget,
};
use crate::transport_ws::Certificate;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::fs::symlink,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) const SECRET_PATH: &str = "/secret-path";
const UPGRADE: &str = "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A directory with a site, and what is no part of it.
fn root() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    fs::create_dir_all(site.join("empty")).unwrap();
    fs::create_dir_all(site.join(".git")).unwrap();
    fs::create_dir_all(site.join(".well-known")).unwrap();
    fs::write(site.join("index.html"), "<h1>the front page</h1>").unwrap();
    fs::write(site.join("page.txt"), "0123456789".repeat(1000)).unwrap();
    fs::write(site.join(".git/config"), "hidden").unwrap();
    fs::write(site.join(".well-known/security.txt"), "known").unwrap();
    fs::write(dir.path().join("outside.txt"), "outside").unwrap();
    symlink("../outside.txt", site.join("out.txt")).unwrap();
    symlink(dir.path(), site.join("out")).unwrap();
    symlink("page.txt", site.join("in.txt")).unwrap();
    dir
}

fn site_of(root: &TempDir) -> String {
    root.path().join("site").display().to_string()
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layers {
    Ws,
    Wss,
    Tls,
}

/// A stream of either kind.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn connect(address: SocketAddr, certificate: Option<&Certificate>) -> Self {
        let tcp = dial(address);
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        let Some(certificate) = certificate else {
            return Self::Plain(tcp);
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&certificate.ca).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tls = StreamOwned::new(session, tcp);
        tls.flush().unwrap();
        Self::Tls(Box::new(tls))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// What a stranger sees: the answer without its date, how the connection ends, and when.
#[derive(Debug)]
struct Seen {
    answer: String,
    end: Result<(), io::ErrorKind>,
    time: Duration,
}

impl Seen {
    fn is_like(&self, other: &Self, margin: u64) -> bool {
        self.answer == other.answer
            && self.end == other.end
            && self.time.abs_diff(other.time) < Duration::from_millis(margin)
    }
}

/// Sends `parts` with a moment between them and reads to the end.
fn seen(
    address: SocketAddr,
    certificate: Option<&Certificate>,
    parts: &[&[u8]],
    end: bool,
) -> Seen {
    let begun = Instant::now();
    let mut wire = Wire::connect(address, certificate);
    // A connection that is kept for longer is one that is kept.
    let patience = Duration::from_millis(3500);
    wire.tcp().set_read_timeout(Some(patience)).unwrap();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            thread::sleep(Duration::from_millis(50));
        }
        wire.write_all(part).unwrap();
        wire.flush().unwrap();
    }
    if end && let Wire::Plain(stream) = &wire {
        stream.shutdown(Shutdown::Write).unwrap();
    } else if end && let Wire::Tls(stream) = &mut wire {
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }
    let mut answer = Vec::new();
    let ended = wire.read_to_end(&mut answer).map(drop);
    let text = String::from_utf8_lossy(&answer);
    let lines = text
        .split("\r\n")
        .filter(|line| !line.starts_with("Date: "));
    let mut answer = lines.collect::<Vec<_>>().join("\r\n");
    // Where a compressed body is cut into chunks depends on when the file was read.
    if answer.contains("Content-Encoding: gzip")
        && let Some(end) = answer.find("\r\n\r\n")
    {
        answer.truncate(end);
    }
    Seen {
        answer,
        end: ended.map_err(|error| error.kind()),
        time: begun.elapsed(),
    }
}

/// A server of Shadowsocks with a site in front, whose strangers have two seconds.
pub(crate) fn server(
    layers: Layers,
    method: &str,
    certificate: &Certificate,
    fallback: &Value,
) -> Half {
    let mut transport = json!({"fallback": fallback});
    if layers != Layers::Tls {
        transport["type"] = json!("ws");
        transport["path"] = json!(SECRET_PATH);
    }
    if layers != Layers::Ws {
        transport["tls"] = json!({"cert": certificate.cert, "key": certificate.key});
    }
    Start::server(Ssr, &Spec::new(method))
        .with(json!({"transport": transport, "timeouts": {"handshake": 2}, "mode": "tcp_only"}))
        .run()
}

/// The same site alone.
fn alone(certificate: Option<&Certificate>, target: &str) -> (Process, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let address = v4(free_port());
        let listen = match certificate {
            None => format!("http://{address}"),
            Some(made) => format!(
                "https://{address}?cert={}&key={}",
                made.cert.display(),
                made.key.display()
            ),
        };
        let config = dir.path().join("forward.json");
        let keys = json!({"forwards": [{"listen": listen, "target": target}], "timeouts": {"handshake": 2}});
        fs::write(&config, keys.to_string()).unwrap();
        make_private(&config);
        let mut process =
            Process::spawn("ssr forward", ssr(&["forward", "-c"]).arg(&config)).unwrap();
        match process.running() {
            Ok(()) => return (process, address),
            Err(log) => assert!(log.contains("in use"), "{log}"),
        }
    }
    panic!("three ports in a row were taken");
}

/// What strangers may try.
fn attempts() -> Vec<(Vec<Vec<u8>>, bool)> {
    let get = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\nHost: example.com\r\n{fields}Connection: close\r\n\r\n")
            .into_bytes()
    };
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    let many = "X: y\r\n".repeat(200);
    let mut whole: Vec<Vec<u8>> = vec![
        get("GET /", ""),
        get("HEAD /", ""),
        get("GET /page.txt", "Range: bytes=5-14\r\n"),
        get("GET /page.txt", "Accept-Encoding: gzip\r\n"),
        get("GET /nothing", ""),
        get("POST /", "Content-Length: 5\r\n"),
        get("PUT /x", "Transfer-Encoding: chunked\r\n"),
        get("DELETE /", ""),
        get("CONNECT example.com:443", ""),
        get("GET http://example.com/", ""),
        get("GET *", ""),
        get("GET /", &long),
        get("GET /", &many),
        get("GET /", "Content-Length: x\r\n"),
        get(&format!("GET /{}", "y".repeat(30_000)), ""),
        get(SECRET_PATH, ""),
        get(&format!("GET {SECRET_PATH}"), ""),
        get(&format!("POST {SECRET_PATH}"), "Upgrade: websocket\r\n"),
        format!("GET /other HTTP/1.1\r\n{UPGRADE}\r\n").into_bytes(),
        b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\nGET /page HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        b"\x05\x01\x00".to_vec(),
        vec![0x16, 3, 1, 0, 200, 1, 0, 0, 196],
        vec![0xff; 3],
        vec![0x80; 60],
        (0..=255).cycle().take(900).collect(),
        b"GET".to_vec(),
        Vec::new(),
    ];
    let mut all: Vec<(Vec<Vec<u8>>, bool)> =
        whole.drain(..).map(|bytes| (vec![bytes], false)).collect();
    // In pieces, and with an end.
    let first = get("GET /page.txt", "");
    all.push((vec![first[..20].to_vec(), first[20..].to_vec()], false));
    all.push((vec![first[..1].to_vec(), first[1..].to_vec()], false));
    all.push((vec![first[..20].to_vec()], true));
    all.push((vec![first], true));
    all.push((vec![b"GET / HT".to_vec()], false));
    all.push((vec![vec![1, 2, 3]], true));
    all.push((vec![], true));
    all
}

fn same_for_strangers(layers: Layers, method: &str) {
    let (certificate, root) = (Certificate::new(), root());
    let fallback = json!({"root": site_of(&root)});
    let server = server(layers, method, &certificate, &fallback);
    let used = (layers != Layers::Ws).then_some(&certificate);
    let (_alone, address) = alone(used, &format!("file://{}", site_of(&root)));
    thread::scope(|scope| {
        let running: Vec<_> = attempts()
            .into_iter()
            .map(|(parts, end)| {
                let server = server.address;
                scope.spawn(move || {
                    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                    let sent = parts.concat();
                    let sent = String::from_utf8_lossy(sent.get(..60).unwrap_or(&sent));
                    let mut differ = Vec::new();
                    // A busy machine may keep one of them waiting.
                    for margin in [700, 900, 1100, 1300, 1500] {
                        let parts = &parts;
                        let (with, without) = thread::scope(|both| {
                            let with = both.spawn(|| seen(server, used, parts, end));
                            let without = seen(address, used, parts, end);
                            (with.join().unwrap(), without)
                        });
                        if with.is_like(&without, margin) {
                            return with.answer;
                        }
                        differ.push((with, without));
                    }
                    panic!("{layers:?}, {method}: {sent:?}: {differ:#?}");
                })
            })
            .collect();
        let answers: Vec<_> = running.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(answers[0].contains("the front page"), "{}", answers[0]);
        assert!(
            answers[2].contains(" 206 ") && answers[2].ends_with("5678901234"),
            "{}",
            answers[2]
        );
        assert!(
            answers[3].contains("Content-Encoding: gzip"),
            "{}",
            answers[3]
        );
        assert!(answers[4].starts_with("HTTP/1.1 404 "), "{}", answers[4]);
        assert!(
            answers
                .iter()
                .any(|answer| answer.starts_with("HTTP/1.1 400 "))
        );
        assert!(
            answers
                .iter()
                .any(|answer| answer.starts_with("HTTP/1.1 431 "))
        );
    });
}

#[test]
fn strangers_cannot_tell_whether_a_websocket_is_behind_the_site() {
    same_for_strangers(Layers::Ws, "aes-256-gcm");
    same_for_strangers(Layers::Wss, "2022-blake3-aes-256-gcm");
}

#[test]
fn strangers_cannot_tell_whether_shadowsocks_in_tls_is_behind_the_site() {
    for method in ["2022-blake3-aes-256-gcm", "aes-256-gcm"] {
        same_for_strangers(Layers::Tls, method);
    }
}

#[test]
fn clients_are_served_behind_a_site() {
    let (certificate, root, echo) = (Certificate::new(), root(), TcpTarget::echo());
    let fallback = json!({"root": site_of(&root)});
    for (layers, mux) in [
        (Layers::Ws, 0),
        (Layers::Ws, 1),
        (Layers::Wss, 0),
        (Layers::Tls, 0),
    ] {
        for method in ["2022-blake3-aes-256-gcm", "aes-256-gcm"] {
            let server = server(layers, method, &certificate, &fallback);
            let mut transport = json!({});
            if layers != Layers::Tls {
                transport = json!({"type": "ws", "path": SECRET_PATH, "mux": mux});
            }
            if layers != Layers::Ws {
                transport["tls"] = json!({"ca": certificate.ca, "server_name": "localhost"});
            }
            let local = Start::local(Ssr, &Spec::new(method), server.address)
                .with(json!({"transport": transport, "mode": "tcp_only"}))
                .run();
            for _ in 0..3 {
                let mut stream = local.socks().connect(&echo.v4());
                stream.write_all(b"hello").unwrap();
                let mut back = [0; 5];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(&back, b"hello", "{layers:?} {mux} {method}");
            }
        }
    }
}

#[test]
fn client_may_come_on_a_connection_that_was_a_visitors() {
    let (certificate, root) = (Certificate::new(), root());
    let fallback = json!({"root": site_of(&root)});
    let server = server(Layers::Ws, "aes-256-gcm", &certificate, &fallback);
    let mut http = Http::new(dial(server.address));
    http.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert!(http.message(true).unwrap().text().contains("front page"));
    http.send(&format!("GET {SECRET_PATH} HTTP/1.1\r\n{UPGRADE}\r\n"))
        .unwrap();
    let head = http.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "RFC 6455 §1.3: {head}"
    );
}

/// A request to `address`, and its answer.
pub(crate) fn get(address: SocketAddr, path: &str, fields: &str) -> crate::common::http::Message {
    let mut http = Http::new(dial(address));
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n{fields}Connection: close\r\n\r\n");
    http.send(&request).unwrap();
    let is_short = |head: &str| head.contains(" 304 ");
    let head = http.head().unwrap();
    let mut body = Vec::new();
    if !is_short(&head) {
        http.reader.read_to_end(&mut body).unwrap();
    }
    crate::common::http::Message { head, body }
}

#[test]
fn site_of_files_answers_like_a_web_server() {
    let root = root();
    let forward = Forwarder::start("http", "", &format!("file://{}", site_of(&root)), &[]);
    let at = forward.address;
    let page = get(at, "/page.txt", "");
    assert!(page.line().contains("200"), "{}", page.head);
    assert!(page.has("Content-Type: text/plain"), "{}", page.head);
    assert!(
        page.has("Accept-Ranges: bytes") && page.has("Content-Length: 10000"),
        "{}",
        page.head
    );
    let tag = page
        .head
        .lines()
        .find_map(|line| line.strip_prefix("Etag: "))
        .unwrap()
        .to_owned();
    let same = get(at, "/page.txt", &format!("If-None-Match: {tag}\r\n"));
    assert!(same.line().contains("304"), "{}", same.head);
    let part = get(
        at,
        "/page.txt",
        &format!("Range: bytes=-3\r\nIf-Range: {tag}\r\n"),
    );
    assert!(
        part.line().contains("206") && part.text() == "789",
        "{}",
        part.head
    );
    let whole = get(
        at,
        "/page.txt",
        "Range: bytes=-3\r\nIf-Range: \"other\"\r\n",
    );
    assert!(whole.line().contains("200"), "{}", whole.head);
    let none = get(at, "/page.txt", "Range: bytes=99999-\r\n");
    assert!(none.line().contains("416"), "{}", none.head);
    let gzip = get(at, "/page.txt", "Accept-Encoding: gzip\r\n");
    assert!(
        gzip.has("Content-Encoding: gzip") && gzip.has("Vary: accept-encoding"),
        "{}",
        gzip.head
    );
    assert!(gzip.has(&format!("Etag: W/{tag}")), "{}", gzip.head);
    assert!(gzip.body.len() < 1000);
    assert!(get(at, "/empty", "").line().contains("307"));
    fs::write(root.path().join("site/404.html"), "not here").unwrap();
    let missing = get(at, "/missing", "");
    assert!(
        missing.line().contains("404") && missing.text() == "not here",
        "{}",
        missing.head
    );
}

#[test]
fn only_what_is_beneath_the_root_and_not_hidden_is_given_out() {
    let root = root();
    let forward = Forwarder::start("http", "", &format!("file://{}", site_of(&root)), &[]);
    let at = forward.address;
    for path in ["/in.txt", "/.well-known/security.txt", "/"] {
        let page = get(at, path, "");
        assert!(page.line().contains("200"), "{path}: {}", page.head);
    }
    for path in [
        "/../outside.txt",
        "/empty/../../outside.txt",
        "/%2e%2e/outside.txt",
        "/%2e%2e%2foutside.txt",
        "/..%2foutside.txt",
        "/..%5coutside.txt",
        "/%252e%252e/outside.txt",
        "//etc/passwd",
        "/etc/passwd",
        "/out.txt",
        "/out/outside.txt",
        "/out/",
        "/empty/",
        "/.git/config",
        "/%2egit/config",
        "/page.txt%00",
        "/page.txt/",
    ] {
        let page = get(at, path, "");
        assert!(
            page.line().contains("404"),
            "{path}: {} {}",
            page.head,
            page.text()
        );
        assert!(!page.text().contains("outside"), "{path}");
    }
}

/// Opens a connection that has been answered and is kept.
fn visit(address: SocketAddr) -> Option<Http> {
    let mut http = Http::new(dial(address));
    http.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
    http.message(true).ok().map(|_| http)
}

#[test]
fn visitors_are_bounded_and_take_no_place_of_a_client() {
    /// Connections of visitors of one site.
    const MOST: usize = 1024;
    let (certificate, root, echo) = (Certificate::new(), root(), TcpTarget::echo());
    let spec = Spec::new("aes-256-gcm");
    let server = Start::server(Ssr, &spec)
        .with(json!({
            "transport": {"type": "ws", "path": SECRET_PATH, "fallback": {"root": site_of(&root)}},
            "limits": {"connections": 4, "handshakes": 8}, "mode": "tcp_only",
        }))
        .run();
    drop(certificate);
    let (files, before) = (
        server.process.open_files(),
        server.process.memory_kib("Anonymous"),
    );
    let visitors: Vec<_> = (0..MOST + 100)
        .map(|_| visit(server.address).unwrap())
        .collect();
    eventually("the oldest have made room", || {
        server.process.open_files() <= files + MOST + 8
    });
    let each = server
        .process
        .memory_kib("Anonymous")
        .saturating_sub(before)
        / MOST as u64;
    assert!(each < 32, "{each} KiB a visitor");
    let local = Start::local(Ssr, &spec, server.address)
        .with(json!({"transport": {"type": "ws", "path": SECRET_PATH}, "mode": "tcp_only"}))
        .run();
    let mut stream = local.socks().connect(&echo.v4());
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    drop(visitors);
    eventually("they are gone", || server.process.open_files() <= files + 8);
}
