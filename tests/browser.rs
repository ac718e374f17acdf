//! Headless Chromium: the dashboard, and pages through the pair, by SOCKS5 and by HTTP: documents, images, 100 parallel requests, an upload and a WebSocket.

use crate::admin::{METHOD, anns, server};
use crate::common::{
    admin::{Api, TOKEN},
    eventually,
    peers::{Half, Pair, Program::Ssr, Spec, Start},
    process::Process,
    targets::TcpTarget,
};
use serde_json::json;
use std::{
    io::{Read, Write},
    path::Path,
    process::Command,
    time::Duration,
};

/// Uses the dashboard. `SSR_SCREENSHOTS` names a directory for pictures.
fn dashboard(api: &Api, role: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/browser");
    let mut command = Command::new(script);
    command
        .arg("dashboard")
        .arg(format!("http://{}/", api.address))
        .arg(TOKEN);
    if let Some(directory) = std::env::var_os("SSR_SCREENSHOTS") {
        let directory = Path::new(&directory).join(role);
        std::fs::create_dir_all(&directory).unwrap();
        command.arg(directory);
    }
    let mut browser = Process::spawn("browser", &mut command).unwrap();
    let (status, log) = browser.wait(Duration::from_secs(180));
    assert!(status.success(), "{log}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn dashboard_of_the_server_works_in_chromium() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let (ann, echo) = (anns(&server), TcpTarget::echo());
    let mut open = ann.socks().connect(&echo.v4());
    open.write_all(&[7; 400_000]).unwrap();
    open.read_exact(&mut [0; 400_000]).unwrap();
    let stranger = Start::local(Ssr, &Spec::new(METHOD), server.address).run();
    let mut refused = stranger.socks().connect(&echo.v4());
    let _gone = refused.write_all(b"hello");
    eventually("a failure is counted", || {
        let failures = &api.json("/api/v1/status")["failures"];
        !failures.as_object().unwrap().is_empty()
    });
    dashboard(&api, "server");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn dashboard_of_the_client_works_in_chromium() {
    let spec = Spec::new(METHOD);
    let servers: Vec<Half> = (0..2).map(|_| Start::server(Ssr, &spec).run()).collect();
    let entry = |server: &Half, name| {
        json!({"server": "127.0.0.1", "server_port": server.address.port(), "method": METHOD,
            "password": spec.password, "remarks": name})
    };
    let (api, keys) = Api::new();
    let _local = Start::local(Ssr, &spec, servers[0].address)
        .with(keys)
        .with(json!({"servers": [entry(&servers[0], "one"), entry(&servers[1], "two")]}))
        .run();
    dashboard(&api, "local");
}

/// Renders the page by a proxy that speaks `scheme`.
fn render(pair: &Pair, scheme: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/browser");
    let mut command = Command::new(script);
    command.arg(pair.local.address.port().to_string());
    command.arg(scheme);
    let mut browser = Process::spawn("browser", &mut command).unwrap();
    let (status, log) = browser.wait(Duration::from_secs(180));
    assert!(status.success(), "{scheme}: {log}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn chromium_renders_a_page_through_the_pair() {
    for method in ["2022-blake3-aes-256-gcm", "chacha20-ietf-poly1305"] {
        render(&Pair::ssr(method), "socks5");
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn chromium_renders_a_page_through_an_http_proxy() {
    let pair = crate::http_proxy::http();
    render(&pair, "http");
    drop(pair);
    // The port that speaks everything.
    render(&Pair::ssr("2022-blake3-aes-256-gcm"), "http");
}
