//! `outbound_proxy`: SOCKS5, HTTP and Shadowsocks proxies between `ssr local` and the server, and between `ssr server` and targets.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::common::{
    eventually,
    matrix::{self, Targets},
    peers::{
        Half, Pair,
        Program::{self, Ssr},
        Role, Spec, Start, base64,
    },
    process::{Process, free_port, v4},
    socks::{CONNECT, Socks},
    targets::TcpTarget,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const METHOD: &str = "2022-blake3-aes-256-gcm";
const USER: &str = "us@er";
const PASSWORD: &str = "p:w/";
/// Both, as a URL has them.
const LOGIN: &str = "us%40er:p%3Aw%2F";

/// An HTTP proxy that knows CONNECT, and the requests that it has read.
struct HttpProxy {
    listener: TcpTarget,
    requests: Arc<Mutex<Vec<String>>>,
}

impl HttpProxy {
    /// Requires a login.
    fn start() -> Self {
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let listener = TcpTarget::serve(move |stream| {
            let _broken = connect(stream, &seen);
        });
        Self { listener, requests }
    }

    fn address(&self) -> SocketAddr {
        v4(self.listener.port())
    }

    fn url(&self, login: &str) -> String {
        format!("http://{login}@{}", self.address())
    }

    /// The targets of the requests so far.
    fn targets(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let target = |request: &String| request.split(' ').nth(1).unwrap().to_owned();
        requests.iter().map(target).collect()
    }
}

/// Serves one client of an HTTP proxy.
fn connect(mut client: TcpStream, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let login = base64(format!("{USER}:{PASSWORD}").as_bytes());
    if !head.contains(&format!("\r\nProxy-Authorization: Basic {login}\r\n")) {
        return client
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    }
    seen.lock().unwrap().push(head);
    let Ok(far) = TcpStream::connect(&target) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\nsorry");
    };
    // In one segment with what the target says first, if it does.
    let mut first = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n".to_vec();
    far.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut banner = [0; 100];
    let len = (&far).read(&mut banner).unwrap_or(0);
    first.extend(&banner[..len]);
    client.write_all(&first)?;
    far.set_read_timeout(None)?;
    let pump = |mut from: TcpStream, mut to: TcpStream| {
        let _broken = io::copy(&mut from, &mut to);
        let _gone = to.shutdown(Shutdown::Write);
    };
    let (one, other) = (client.try_clone()?, far.try_clone()?);
    let up = thread::spawn(move || pump(one, other));
    pump(far, client);
    up.join().unwrap();
    Ok(())
}

/// A SOCKS5 proxy that requires a login: a pair of `ssr`.
struct SocksProxy {
    pair: Pair,
    _logins: TempDir,
}

impl SocksProxy {
    fn start() -> Self {
        let logins = tempfile::tempdir().unwrap();
        let file = logins.path().join("auth.json");
        let users = json!({"password": {"users": [{"user_name": USER, "password": PASSWORD}]}});
        std::fs::write(&file, users.to_string()).unwrap();
        let spec = Spec::new("aes-128-gcm");
        let pair = Pair::with(Start::server(Ssr, &spec).flags(&["-v"]), |at| {
            let locals = json!([{"local_address": "127.0.0.1", "socks5_auth_config_path": file}]);
            Start::local(Ssr, &spec, at).with(json!({"locals": locals}))
        });
        Self {
            pair,
            _logins: logins,
        }
    }

    fn url(&self, login: &str) -> String {
        format!("socks5://{login}@{}", self.pair.local.address)
    }

    /// Whether it has served a stream.
    fn was_used(&self) -> bool {
        self.pair.server.process.log().contains("stream ended")
    }
}

/// A pair whose client goes through `proxies`.
fn local_through(keys: Value) -> Pair {
    let spec = Spec::new(METHOD);
    Pair::with(Start::server(Ssr, &spec), |at| {
        Start::local(Ssr, &spec, at).with(keys).flags(&["-v"])
    })
}

#[test]
fn client_reaches_its_server_through_a_chain_with_logins() {
    let (first, second, third) = (SocksProxy::start(), SocksProxy::start(), HttpProxy::start());
    let proxies = [first.url(LOGIN), second.url(LOGIN), third.url(LOGIN)];
    let pair = local_through(json!({"outbound_proxy": proxies, "mode": "tcp_only"}));
    let targets = Targets::start();
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 1_000_000);
    matrix::both_ways(&pair.socks(), &targets, 1_000_000, 1_000_000);
    matrix::half_close(&pair.socks(), &targets, 100_000);
    matrix::server_speaks_first(&pair.socks(), &targets);
    let server = pair.server.address.to_string();
    assert!(third.targets().iter().all(|target| *target == server));
    drop(pair);
    eventually("both SOCKS5 proxies have served", || {
        first.was_used() && second.was_used()
    });
    // The other way round: the HTTP proxy leads to the SOCKS5 proxy.
    let pair = local_through(
        json!({"outbound_proxy": [third.url(LOGIN), second.url(LOGIN)], "mode": "tcp_only"}),
    );
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 100_000);
    assert_eq!(
        third.targets().last(),
        Some(&second.pair.local.address.to_string())
    );
}

#[test]
fn server_reaches_targets_through_a_proxy_that_resolves_their_names() {
    let proxy = HttpProxy::start();
    let spec = Spec::new(METHOD);
    let server = Start::server(Ssr, &spec)
        .with(json!({"outbound_proxy": proxy.url(LOGIN), "mode": "tcp_only"}));
    let pair = Pair::with(server, |at| Start::local(Ssr, &spec, at));
    let targets = Targets::start();
    matrix::echoes(&pair.socks(), &targets.echo.name(), 100_000);
    matrix::server_speaks_first(&pair.socks(), &targets);
    let name = format!("localhost:{}", targets.echo.port());
    assert_eq!(proxy.targets().first(), Some(&name));
}

#[test]
fn private_targets_are_refused_before_a_proxy_hears_of_them() {
    let proxy = HttpProxy::start();
    let spec = Spec::new(METHOD);
    let server = Start::server(Ssr, &spec).flags(&["-v"]).with(json!({
        "outbound_proxy": proxy.url(LOGIN), "mode": "tcp_only", "deny_private": true,
    }));
    let pair = Pair::with(server, |at| Start::local(Ssr, &spec, at));
    let targets = Targets::start();
    for target in [targets.echo.name(), targets.echo.v4()] {
        let mut stream = pair.socks().request(CONNECT, &target).unwrap().0;
        let _ = stream.write_all(b"x");
        let _ = stream.read(&mut [0]);
    }
    eventually("both are denied", || {
        let log = pair.server.process.log();
        let ended = log.lines().filter(|line| line.contains("stream ended"));
        ended
            .filter(|line| line.contains("status=\"denied\""))
            .count()
            == 2
    });
    assert!(proxy.targets().is_empty());
}

/// Asks `local` for a connection, and waits until its log says all of `words`.
fn fails_with(local: &Half, words: &[&str]) {
    let target = v4(1).into();
    if let Ok((mut stream, ..)) = local.socks().request(CONNECT, &target) {
        let _ = stream.write_all(b"x");
        let _ = stream.read(&mut [0]);
    }
    eventually(&format!("the log says {words:?}"), || {
        let log = local.process.log();
        words.iter().all(|word| log.contains(word))
    });
    let log = local.process.log();
    assert!(!log.contains("p:w") && !log.contains("wrong-"), "{log}");
}

#[test]
fn proxy_that_fails_is_named_with_the_reason() {
    let (socks, http) = (SocksProxy::start(), HttpProxy::start());
    let dead = free_port();
    // It never stops.
    let endless = TcpTarget::serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let silent = TcpTarget::silent();
    let at = |target: &TcpTarget| format!("http://127.0.0.1:{}", target.port());
    let wrong = "us%40er:wrong-";
    for (proxies, words) in [
        (
            json!([socks.url(wrong)]),
            &[
                "server cannot be reached",
                "the proxy socks5://127.0.0.1:",
                "refused the login of `us@er`",
            ][..],
        ),
        (
            json!([socks.url(LOGIN), http.url(wrong)]),
            &["the proxy http://127.0.0.1:", "(407)"],
        ),
        (
            json!([format!("socks5://{}", socks.pair.local.address)]),
            &["wants a user name and a password"],
        ),
        (
            json!(format!("socks5://127.0.0.1:{dead}")),
            &["cannot be reached", "refused"],
        ),
        (
            json!([http.url(LOGIN), format!("socks5://127.0.0.1:{dead}")]),
            &["refused to connect, with status 502"],
        ),
        (
            json!(format!("socks5://{}", http.address())),
            &["gave no connection within 2 s"],
        ),
        (
            json!(format!("http://{}", socks.pair.local.address)),
            &["the proxy http://"],
        ),
        (json!(at(&endless)), &["sent too long an answer"]),
        (json!(at(&silent)), &["gave no connection within 2 s"]),
    ] {
        let keys =
            json!({"outbound_proxy": proxies, "mode": "tcp_only", "timeouts": {"connect": 2}});
        let pair = local_through(keys);
        fails_with(&pair.local, words);
    }
}

#[test]
fn datagrams_go_through_a_socks5_proxy() {
    let proxy = SocksProxy::start();
    let mut pair = local_through(json!({"outbound_proxy": proxy.url(LOGIN)}));
    let targets = Targets::start();
    matrix::echoes_datagram(&pair.socks(), &targets, 1000);
    matrix::two_targets(&pair.socks(), &targets);
    matrix::burst(&pair.socks(), &targets);
    let begun = || {
        proxy
            .pair
            .server
            .process
            .log()
            .contains("association began")
    };
    eventually("the proxy has relayed datagrams", begun);

    // A proxy that refuses: nothing goes beside it.
    pair = local_through(json!({"outbound_proxy": proxy.url("us%40er:wrong-")}));
    let client = pair.socks().associate();
    client.send(&targets.udp.target(), b"beside");
    eventually("the refusal is logged", || {
        let log = pair.local.process.log();
        log.contains("the proxy relays no datagrams") && log.contains("refused the login")
    });
    assert!(!targets.udp.saw(b"beside"));
}

/// A Shadowsocks server to pass, and its URL.
fn hop(program: Program, method: &str) -> (Half, String) {
    let spec = Spec::new(method);
    let server = Start::server(program, &spec).flags(&["-v"]).run();
    let login = base64(format!("{method}:{}", spec.password).as_bytes());
    let url = format!("ss://{login}@{}", server.address);
    (server, url)
}

/// Everything that a pair can do, through what stands between its halves.
fn carries_all(pair: &Pair, targets: &Targets) {
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 3_000_000);
    matrix::both_ways(&pair.socks(), targets, 1_000_000, 1_000_000);
    matrix::half_close(&pair.socks(), targets, 100_000);
    matrix::server_speaks_first(&pair.socks(), targets);
    matrix::echoes_datagram(&pair.socks(), targets, 1000);
    matrix::two_targets(&pair.socks(), targets);
}

#[test]
fn chain_of_shadowsocks_servers_carries_streams_and_datagrams() {
    let targets = Targets::start();
    for (near, far) in [
        ("2022-blake3-aes-128-gcm", "aes-256-gcm"),
        ("chacha20-ietf-poly1305", "2022-blake3-chacha20-poly1305"),
        ("none", "2022-blake3-aes-256-gcm"),
    ] {
        let ((one, first), (other, second)) = (hop(Ssr, near), hop(Ssr, far));
        let pair = local_through(json!({"outbound_proxy": [first, second]}));
        carries_all(&pair, &targets);
        matrix::burst(&pair.socks(), &targets);
        drop(pair);
        for server in [one, other] {
            eventually("it has carried both", || {
                let log = server.process.log();
                log.contains("association began") && log.contains("stream ended")
            });
        }
    }
}

#[test]
fn datagrams_go_through_several_proxies_of_both_kinds() {
    let targets = Targets::start();
    let (first, last) = (SocksProxy::start(), SocksProxy::start());
    let (_server, url) = hop(Ssr, METHOD);
    for chain in [
        json!([first.url(LOGIN), last.url(LOGIN)]),
        json!([first.url(LOGIN), url, last.url(LOGIN)]),
        json!([url, first.url(LOGIN)]),
    ] {
        let pair = local_through(json!({"outbound_proxy": chain}));
        carries_all(&pair, &targets);
    }
    // A relay that ends is asked for again.
    let mut gone = SocksProxy::start();
    let chain = json!([first.url(LOGIN), gone.url(LOGIN)]);
    let pair = local_through(json!({"outbound_proxy": chain}));
    matrix::echoes_datagram(&pair.socks(), &targets, 100);
    gone.pair.half(Role::Local).process.signal(Signal::KILL);
    let client = pair.socks().associate();
    client.send(&targets.udp.target(), b"lost");
    eventually("the loss is logged", || {
        pair.local
            .process
            .log()
            .contains("the proxy relays no datagrams")
    });
    assert!(!targets.udp.saw(b"lost"));
}

#[test]
fn shadowsocks_proxies_mix_with_others_for_streams() {
    let targets = Targets::start();
    let (http, (_server, url)) = (HttpProxy::start(), hop(Ssr, METHOD));
    for chain in [json!([http.url(LOGIN), url]), json!([url, http.url(LOGIN)])] {
        let seen = http.targets().len();
        let pair = local_through(json!({"outbound_proxy": chain, "mode": "tcp_only"}));
        matrix::echoes(&pair.socks(), &targets.echo.v4(), 1_000_000);
        matrix::server_speaks_first(&pair.socks(), &targets);
        assert!(http.targets().len() > seen);
    }
    // Between a server and its targets.
    let spec = Spec::new(METHOD);
    let server = Start::server(Ssr, &spec).with(json!({"outbound_proxy": url, "mode": "tcp_only"}));
    let pair = Pair::with(server, |at| Start::local(Ssr, &spec, at));
    matrix::echoes(&pair.socks(), &targets.echo.name(), 1_000_000);
    matrix::half_close(&pair.socks(), &targets, 100_000);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn servers_of_others_are_passed() {
    let targets = Targets::start();
    for method in ["aes-256-gcm", "chacha20-ietf-poly1305"] {
        let (_server, url) = hop(Program::Libev, method);
        let pair = local_through(json!({"outbound_proxy": url}));
        // An end of one direction is that of both to ss-server.
        matrix::echoes(&pair.socks(), &targets.echo.v4(), 1_000_000);
        matrix::both_ways(&pair.socks(), &targets, 1_000_000, 1_000_000);
        matrix::server_speaks_first(&pair.socks(), &targets);
        matrix::echoes_datagram(&pair.socks(), &targets, 1000);
        matrix::two_targets(&pair.socks(), &targets);
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn pproxy_is_passed() {
    let python = std::env::var_os("SSR_PEER_PYTHON").expect("scripts/test sets SSR_PEER_PYTHON");
    let (targets, ports) = (Targets::start(), [free_port(), free_port()]);
    let urls = [
        format!("ss://aes-256-gcm:hunter2@127.0.0.1:{}", ports[0]),
        format!("socks5://127.0.0.1:{}", ports[1]),
    ];
    let mut command = std::process::Command::new(python);
    command.args([
        "-m", "pproxy", "-v", "-l", &urls[0], "-l", &urls[1], "-ul", &urls[0],
    ]);
    let mut pproxy = Process::spawn("pproxy", &mut command).unwrap();
    pproxy.listening(&ports.map(v4)).unwrap();
    // Its relay of datagrams does not start with the Python of today.
    let pair = local_through(json!({"outbound_proxy": urls[0], "mode": "tcp_only"}));
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 1_000_000);
    let pair = local_through(json!({"outbound_proxy": urls, "mode": "tcp_only"}));
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 1_000_000);
}

/// The flag of `ssserver`, for `ssr local` too.
#[test]
fn flag_of_the_client_names_the_proxies() {
    let (proxy, (_server, url)) = (HttpProxy::start(), hop(Ssr, METHOD));
    let spec = Spec::new(METHOD);
    let http = proxy.url(LOGIN);
    let flags = ["--outbound-proxy", &url, "--outbound-proxy", &http];
    let pair = Pair::with(Start::server(Ssr, &spec), |at| {
        let local = Start::local(Ssr, &spec, at).with(json!({"mode": "tcp_only"}));
        local.flags(&flags)
    });
    let targets = Targets::start();
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 1000);
    let server = pair.server.address.to_string();
    let seen = proxy.targets();
    assert!(!seen.is_empty() && seen.iter().all(|target| *target == server));
}

/// TLS in front of `upstream`, with a certificate for `proxy.example`; returns its port and the certificate.
pub(crate) fn tls_before(upstream: SocketAddr) -> (u16, String) {
    use tokio_rustls::rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, pem::PemObject as _},
    };
    let made = rcgen::generate_simple_self_signed(["proxy.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let serve = async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let accepted = acceptor.accept(stream);
                tokio::spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(upstream).await.unwrap();
                    if let Ok(mut near) = accepted.await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(serve);
    });
    (port, made.cert.pem())
}

#[test]
fn https_proxy_is_verified() {
    let proxy = HttpProxy::start();
    let (port, certificate) = tls_before(proxy.address());
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, certificate).unwrap();
    let url = |options: &str| {
        format!(
            "https://{LOGIN}@127.0.0.1:{port}?ca={}{options}",
            ca.display()
        )
    };
    let keys = |url: String| json!({"outbound_proxy": url, "mode": "tcp_only"});
    let pair = local_through(keys(url("&server_name=proxy.example")));
    let targets = Targets::start();
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 1_000_000);
    let seen = proxy.targets().len();
    for (url, word) in [
        (url(""), "the TLS handshake with 127.0.0.1 failed"),
        (
            format!("https://{LOGIN}@127.0.0.1:{port}?server_name=proxy.example"),
            "the TLS handshake with proxy.example failed",
        ),
    ] {
        let pair = local_through(keys(url));
        fails_with(&pair.local, &[word]);
    }
    assert_eq!(proxy.targets().len(), seen, "the login stays with us");
}

/// The flag of `ssserver` is the key.
#[test]
fn flag_of_the_server_names_the_proxies() {
    let proxy = HttpProxy::start();
    let spec = Spec::new(METHOD);
    let url = proxy.url(LOGIN);
    let flags = ["--outbound-proxy", &url];
    let server = Start::server(Ssr, &spec)
        .with(json!({"mode": "tcp_only"}))
        .flags(&flags);
    let pair = Pair::with(server, |at| Start::local(Ssr, &spec, at));
    let targets = Targets::start();
    matrix::echoes(&Socks::new(pair.local.address), &targets.echo.v4(), 1000);
    assert_eq!(proxy.targets().len(), 1);
}
