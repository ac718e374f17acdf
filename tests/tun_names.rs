//! `protocol: tun` together with names, rules, several servers and a browser. The machines are those of [`crate::redir`].

use std::{path::Path, process::Command, time::Duration};

use crate::common::{DEADLINE, eventually, peers, process::Process};
use crate::emulated;
use crate::redir::{Scene, TARGETS, echoes_datagrams, echoes_stream, start};
use crate::redir_names::{asked, echoes_from, fake_address, name_server, rules, web};
use crate::tun::{auto, carries_all, lead_into, target};
use rustix::process::Signal;
use serde_json::json;

/// Opens the tun device `given` (TUNSETIFF with IFF_TUN and IFF_NO_PI) as descriptor 9, and becomes the program of its arguments.
const OPEN_AND_BECOME: &str = r#"
import fcntl, os, struct, sys
device = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(device, 0x400454ca, struct.pack("16sH22x", b"given", 0x1001))
os.dup2(device, 9)
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn names_in_tls_and_http_decide_in_a_device_too_over_link() {
    let scene = Scene::new(&auto(), &rules());
    scene.link.b.run(web).unwrap();
    let gateway = emulated::A.to_string();
    for scheme in ["http", "https"] {
        let asked = |name: &str, target: &str| asked(&scene, scheme, name, target);
        assert_eq!(asked("www.direct.test", TARGETS[0]), Ok(gateway.clone()));
        for target in TARGETS {
            assert_eq!(asked("other.test", target), Ok(target.to_owned()));
        }
        assert!(asked("blocked.test", TARGETS[0]).is_err());
    }
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn fake_addresses_lead_to_their_names_through_a_device_over_link() {
    let entries = json!([auto(), {"protocol": "fake-dns", "local_port": 5353}]);
    let mut more = rules();
    more["dns"] = json!(TARGETS[0]);
    let scene = Scene::new(&entries, &more);
    scene.link.b.run(web).unwrap();
    scene.link.b.run(name_server).unwrap();
    let gateway = emulated::A.to_string();
    for (name, expected) in [
        ("www.direct.test", Ok(gateway.as_str())),
        ("other.test", Ok(TARGETS[0])),
        ("blocked.test", Err(())),
    ] {
        for kind in ["A", "AAAA"] {
            let fake = fake_address(&scene, name, kind);
            let page = asked(&scene, "http", name, &fake).map_err(drop);
            assert_eq!(page.as_deref(), expected.as_ref().copied(), "{name} {fake}");
            if let Ok(seen) = expected {
                scene.link.a.run(|| echoes_from(&fake, seen)).unwrap();
            }
        }
    }
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn device_goes_on_with_the_next_server_over_link() {
    let spec = peers::Spec::new("2022-blake3-aes-256-gcm");
    let second = json!({
        "server": emulated::B.to_string(), "server_port": 8389, "method": spec.method, "password": spec.password,
    });
    let mut scene = Scene::new(&auto(), &json!({"servers": [second]}));
    std::fs::write(scene.config.path().join("server"), second.to_string()).unwrap();
    let _second = start("server", &scene.config, &scene.link.b);
    let carries = |scene: &Scene| {
        for index in [0, 1] {
            let gateway = &scene.link.a;
            gateway
                .run(|| echoes_stream(target(index), target(index)))
                .unwrap();
        }
    };
    carries(&scene);
    scene.server.signal(Signal::KILL);
    scene.server.wait(DEADLINE);
    // No new request fails.
    (0..10).for_each(|_| carries(&scene));
    scene.link.a.run(datagrams_pass_again).unwrap();
}

/// Datagrams may be lost until the server's end is noticed.
fn datagrams_pass_again() {
    eventually("datagrams pass", || {
        std::panic::catch_unwind(|| echoes_datagrams(target(0), target(0))).is_ok()
    });
}

#[test]
#[ignore = "needs root: namespaces and tun devices"]
fn device_that_was_inherited_is_served_over_link() {
    let mut scene = Scene::new(
        &json!({"protocol": "socks", "local_port": 1080}),
        &json!({}),
    );
    scene.local.signal(Signal::TERM);
    scene.local.wait(DEADLINE);
    let config = scene.config.path().join("local");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut keys: serde_json::Value = serde_json::from_str(&text).unwrap();
    keys["locals"] = json!([{"protocol": "tun", "tun_device_fd": 9}]);
    std::fs::write(&config, keys.to_string()).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", OPEN_AND_BECOME]);
    let ssr = peers::ssr(&["local", "-v", "-c", config.to_str().unwrap()]);
    command.arg(ssr.get_program()).args(ssr.get_args());
    let gateway = &scene.link.a;
    gateway.ip("tuntap add dev given mode tun").unwrap();
    lead_into(gateway, "given");
    gateway.place(&mut command).unwrap();
    scene.local = Process::spawn("ssr local", &mut command).unwrap();
    scene.local.running().unwrap();
    carries_all(gateway);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn chromium_renders_a_page_through_a_device_over_link() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/browser");
    let installed = Command::new(&script).arg("install").status().unwrap();
    assert!(installed.success());
    let scene = Scene::new(&auto(), &json!({}));
    let mut command = Command::new(&script);
    command.args(["serve", TARGETS[0], "8000"]);
    scene.link.b.place(&mut command).unwrap();
    let page = Process::spawn("page", &mut command).unwrap();
    eventually("the page is served", || page.log().contains("serving"));
    let mut command = Command::new(&script);
    command.args(["direct", &format!("http://{}:8000/", TARGETS[0])]);
    scene.link.a.place(&mut command).unwrap();
    let mut browser = Process::spawn("browser", &mut command).unwrap();
    let (status, log) = browser.wait(Duration::from_secs(180));
    assert!(status.success(), "{log}");
    let log = scene.local.log();
    assert!(log.contains("198.51.100.7:8000"), "{log}");
}
