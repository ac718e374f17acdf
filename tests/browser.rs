//! Headless Chromium through the pair, by SOCKS5 and by HTTP: documents, images, 100 parallel requests, an upload and a WebSocket.

use crate::common::{peers::Pair, process::Process};
use std::{path::Path, process::Command, time::Duration};

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
