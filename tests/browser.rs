//! Headless Chromium through the pair: documents, images, 100 parallel requests, an upload and a WebSocket.

use crate::common::{peers::Pair, process::Process};
use std::{path::Path, process::Command, time::Duration};

#[test]
#[ignore = "needs peers: scripts/test"]
fn chromium_renders_a_page_through_the_pair() {
    for method in ["2022-blake3-aes-256-gcm", "chacha20-ietf-poly1305"] {
        let pair = Pair::ssr(method);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/browser");
        let mut command = Command::new(script);
        command.arg(pair.local.address.port().to_string());
        let mut browser = Process::spawn("browser", &mut command).unwrap();
        let (status, log) = browser.wait(Duration::from_secs(180));
        assert!(status.success(), "{method}: {log}");
    }
}
