//! Shadowsocks inside WebSocket through nginx, which is what a CDN is.

use std::{
    io::{self, ErrorKind, Read},
    time::{Duration, Instant},
};

use crate::common::{
    DEADLINE, eventually,
    matrix::{self, Targets},
    nginx::Cdn,
    peers::{Half, Program::Ssr, Spec, Start},
    reverse::exchange,
    targets::TcpTarget,
};
use crate::transport_ws::{BARE, Certificate, Kind, METHOD, PATH};
use serde_json::json;

/// TLS outside, plain inside, and a header that says who came.
fn cdn(server: &Half, certificate: &Certificate) -> Cdn {
    let (cert, key) = (certificate.cert.display(), certificate.key.display());
    let tls = format!("ssl_certificate {cert}; ssl_certificate_key {key};");
    let more = "proxy_set_header X-Forwarded-For 203.0.113.9; proxy_buffering off;";
    Cdn::before(server.address, PATH, Some(&tls), more)
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn pair_works_through_nginx() {
    let certificate = Certificate::new();
    let spec = Spec::new(METHOD);
    let mut keys = certificate.server(BARE);
    keys["transport"]["trusted_proxies"] = json!(["127.0.0.0/8"]);
    keys["mode"] = json!("tcp_and_udp");
    let server = Start::server(Ssr, &spec).with(keys).flags(&["-v"]).run();
    let nginx = cdn(&server, &certificate);
    let targets = Targets::start();
    for mux in [false, true] {
        let mut client = certificate.client(Kind { tls: true, mux });
        // nginx carries no datagrams beside the WebSocket.
        client["transport"]["udp_over"] = json!("ws");
        client["mode"] = json!("tcp_and_udp");
        let local = Start::local(Ssr, &spec, nginx.address).with(client).run();
        let failed = matrix::failures(&local.socks(), &targets, |_| true);
        assert!(failed.is_empty(), "mux {mux}: {failed:#?}");
    }
    eventually("the log names the client that nginx tells of", || {
        server.process.log().contains("203.0.113.9")
    });
}

/// Where it is told nothing, nginx cuts what says nothing for 60 s.
#[test]
#[ignore = "needs peers: scripts/test"]
fn quiet_streams_outlive_what_nginx_allows_to_silence() {
    let certificate = Certificate::new();
    let spec = Spec::new(METHOD);
    let keys = certificate.server(BARE);
    let server = Start::server(Ssr, &spec).with(keys).run();
    let nginx = cdn(&server, &certificate);
    let echo = TcpTarget::serve(|stream| {
        stream.set_read_timeout(None).unwrap();
        let _gone = io::copy(&mut &stream, &mut &stream);
    });
    let locals = [false, true].map(|mux| {
        let client = certificate.client(Kind { tls: true, mux });
        Start::local(Ssr, &spec, nginx.address).with(client).run()
    });
    let mut streams = locals
        .each_ref()
        .map(|local| local.socks().connect(&echo.v4()));
    for stream in &mut streams {
        exchange(stream, b"before").unwrap();
    }
    let quiet = Instant::now();
    for (mux, stream) in [false, true].into_iter().zip(&mut streams) {
        let left = Duration::from_secs(64).saturating_sub(quiet.elapsed());
        stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .unwrap();
        let silence = stream.read(&mut [0]).map_err(|error| error.kind());
        let after = quiet.elapsed();
        assert_eq!(silence, Err(ErrorKind::WouldBlock), "mux {mux}, {after:?}");
    }
    for stream in &mut streams {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        exchange(stream, b"after").unwrap();
    }
}
