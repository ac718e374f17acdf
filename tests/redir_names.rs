//! Rules by name for what the firewall redirects: the names are in TLS and HTTP. The machines are those of
//! [`crate::redir`]; the web server at the far one says from where it was asked.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::common::{DEADLINE, eventually, peers::ssr};
use crate::emulated;
use crate::redir::{PORT, Scene, TARGETS};
use hickory_resolver::proto::{
    op::Message,
    rr::{RData, Record, RecordType, rdata::A},
};
use serde_json::{Value, json};

/// Serves HTTP at port 80 and HTTPS at port 443 of every address in the namespace of this thread.
pub(crate) fn web() {
    let key = rcgen::generate_simple_self_signed(vec!["any.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    for port in [80, 443] {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        let config = Arc::clone(&config);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let config = Arc::clone(&config);
                thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip().to_canonical();
                    if port == 80 {
                        answer(stream, peer);
                    } else {
                        let connection = rustls::ServerConnection::new(config).unwrap();
                        answer(rustls::StreamOwned::new(connection, stream), peer);
                    }
                });
            }
        });
    }
}

fn answer(mut stream: impl Read + Write, peer: IpAddr) {
    let mut head = [0; 4096];
    let _gone = stream.read(&mut head);
    let page = peer.to_string();
    let _gone = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    let _gone = stream.flush();
}

/// What curl gets at the gateway, or why it gets nothing.
pub(crate) fn curl(scene: &Scene, arguments: &[&str]) -> Result<String, i32> {
    let mut command = Command::new("curl");
    let seconds = DEADLINE.as_secs().to_string();
    command.args(["-sk", "--noproxy", "*", "--max-time", &seconds]);
    command.args(arguments);
    scene.link.a.place(&mut command).unwrap();
    let output = command.output().expect("scripts/test installs curl");
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        code => Err(code.unwrap_or(-1)),
    }
}

/// What the web server at `target` says to a client that asks it for `name`.
pub(crate) fn asked(scene: &Scene, scheme: &str, name: &str, target: &str) -> Result<String, i32> {
    let port = if scheme == "http" { 80 } else { 443 };
    let target = match target.contains(':') {
        true => format!("[{target}]"),
        false => target.to_owned(),
    };
    let resolve = format!("{name}:{port}:{target}");
    let url = format!("{scheme}://{name}/");
    curl(scene, &["--resolve", &resolve, &url])
}

fn scene(keys: &Value, more: &Value) -> Scene {
    let mut entry = json!({"protocol": "redir", "local_address": "::", "local_port": 1081});
    let all = entry.as_object_mut().unwrap();
    all.extend(keys.as_object().unwrap().clone());
    scene_of(&json!([entry]), more)
}

fn scene_of(entries: &Value, more: &Value) -> Scene {
    let mut top = json!({"outbound_fwmark": 255});
    let all = top.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    let scene = Scene::new(entries, &top);
    scene.link.b.run(web).unwrap();
    scene.load_rules();
    scene
}

/// Rules by name. None of the names exists, so nothing but the meant address can be connected to.
pub(crate) fn rules() -> Value {
    json!({"rules": [
        {"domain_suffix": "direct.test", "to": "direct"},
        {"domain": "blocked.test", "to": "block"},
    ]})
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn name_in_tls_or_http_decides_and_the_address_stays_over_link() {
    let gateway = emulated::A.to_string();
    for way in ["redirect", "tproxy"] {
        let scene = scene(&json!({"tcp_redir": way}), &rules());
        for scheme in ["http", "https"] {
            let asked = |name: &str, target: &str| asked(&scene, scheme, name, target);
            assert_eq!(asked("www.direct.test", TARGETS[0]), Ok(gateway.clone()));
            // Another name, or the address of another machine, or none at all: through the server.
            assert_eq!(asked("other.test", TARGETS[0]), Ok(TARGETS[0].to_owned()));
            assert_eq!(asked("other.test", TARGETS[1]), Ok(TARGETS[1].to_owned()));
            assert!(asked("blocked.test", TARGETS[0]).is_err());
            let pid = scene.local.id().to_string();
            eventually("`ssr why` names the rule of the name", || {
                let told = ssr(&["why", "--pid", &pid]).output().unwrap();
                String::from_utf8_lossy(&told.stdout).contains("(block)")
            });
            let bare = format!("{scheme}://{}/", TARGETS[0]);
            assert_eq!(curl(&scene, &[&bare]), Ok(TARGETS[0].to_owned()));
        }
        eventually("the log says so", || {
            scene.local.log().contains("name=\"www.direct.test\"")
        });
        speaks_first(&scene);
    }
}

/// A target that speaks first is heard although its client says nothing.
fn speaks_first(scene: &Scene) {
    let greeted = || {
        let target: IpAddr = TARGETS[0].parse().unwrap();
        let begun = Instant::now();
        let stream = TcpStream::connect_timeout(&(target, PORT).into(), DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), TARGETS[0]);
        begun.elapsed()
    };
    let fastest = (0..5).map(|_| scene.link.a.run(greeted).unwrap()).min();
    // 0.2 s, and what a busy machine takes.
    assert!(fastest.unwrap() < Duration::from_secs(1), "{fastest:?}");
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn names_are_read_only_where_somebody_asks_for_them_over_link() {
    let by_address = json!({"rules": [{"ip": TARGETS[0], "to": "direct"}]});
    for (keys, more, is_read) in [
        (json!({}), by_address.clone(), false),
        (json!({"sniff": true}), by_address, true),
        (json!({"sniff": false}), rules(), false),
    ] {
        let scene = scene(&keys, &more);
        let _page = asked(&scene, "http", "www.direct.test", TARGETS[0]).unwrap();
        assert_eq!(
            scene.local.log().contains("www.direct.test"),
            is_read,
            "{keys}"
        );
    }
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn name_replaces_the_address_if_the_config_says_so_over_link() {
    let entry = json!({"sniff_override_destination": true});
    let scene = scene(&entry, &json!({}));
    // The server resolves it: it is the far machine's own loopback there.
    let url = format!("http://{}/", TARGETS[0]);
    let page = curl(&scene, &["-H", "Host: localhost", &url]).unwrap();
    assert!(page.parse::<IpAddr>().unwrap().is_loopback(), "{page}");
}

/// A name server at the first target: every name has that target's address.
pub(crate) fn name_server() {
    let socket = UdpSocket::bind((TARGETS[0].parse::<IpAddr>().unwrap(), 53)).unwrap();
    thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            let request = Message::from_vec(&buf[..len]).unwrap();
            let asked = request.queries[0].clone();
            let mut response = Message::response(request.metadata.id, request.metadata.op_code);
            response.metadata.recursion_available = true;
            if asked.query_type() == RecordType::A {
                let data = RData::A(A(TARGETS[0].parse().unwrap()));
                response.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
            }
            response.add_query(asked);
            let _gone = socket.send_to(&response.to_vec().unwrap(), from);
        }
    });
}

/// The fake address of `name`, as a program at the gateway gets it.
pub(crate) fn fake_address(scene: &Scene, name: &str, kind: &str) -> String {
    let mut command = Command::new("dig");
    command.args(["@127.0.0.1", "-p", "5353", "+short", name, kind]);
    scene.link.a.place(&mut command).unwrap();
    let output = command.output().expect("scripts/test installs dig");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Datagrams to a fake address reach the name, and answers come from the fake address: others the socket would not take.
pub(crate) fn echoes_from(fake: &str, seen: &str) {
    let any = if fake.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let client = UdpSocket::bind(any).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
        .connect((fake.parse::<IpAddr>().unwrap(), PORT))
        .unwrap();
    for number in 0..5_u8 {
        client.send(&[number; 700]).unwrap();
        let mut buf = [0; 2048];
        let len = client.recv(&mut buf).unwrap();
        let mut expected = format!("{seen} ").into_bytes();
        expected.extend([number; 700]);
        assert_eq!(buf[..len], expected);
    }
}

#[test]
#[ignore = "needs root: namespaces and their firewalls"]
fn fake_addresses_lead_to_their_names_over_link() {
    let entries = json!([
        {"protocol": "redir", "local_address": "::", "local_port": 1081},
        // With the networks and the file of shadowsocks-rust.
        {"protocol": "fake-dns", "local_port": 5353, "fake_dns_record_expire_duration": 3600},
    ]);
    let mut more = rules();
    more["dns"] = json!(TARGETS[0]);
    let mut scene = scene_of(&entries, &more);
    scene.link.b.run(name_server).unwrap();
    let gateway = emulated::A.to_string();
    let ways = |scene: &Scene, known: &mut HashMap<String, String>| {
        for (name, expected) in [
            ("www.direct.test", Ok(gateway.as_str())),
            ("other.test", Ok(TARGETS[0])),
            ("blocked.test", Err(&())),
        ] {
            for kind in ["A", "AAAA"] {
                let key = format!("{name} {kind}");
                let fake = known
                    .entry(key)
                    .or_insert_with(|| fake_address(scene, name, kind));
                for scheme in ["http", "https"] {
                    let page = asked(scene, scheme, name, fake).map_err(drop);
                    assert_eq!(page.as_deref(), expected, "{scheme} {name} {fake}");
                }
                if let Ok(seen) = expected {
                    scene.link.a.run(|| echoes_from(fake, seen)).unwrap();
                }
            }
        }
    };
    let mut known = HashMap::new();
    ways(&scene, &mut known);
    assert!(
        known
            .values()
            .all(|fake| fake.starts_with("172.") || fake.starts_with("fc00::"))
    );

    // One that stands for no name is refused, and nobody is asked for it.
    let page = asked(&scene, "http", "x.test", "172.31.255.254");
    assert!(page.is_err(), "{page:?}");
    eventually("the log says why", || {
        scene
            .local
            .log()
            .contains("is a `fake-dns` address without a name")
    });
    let datagram = || {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"hello", ("172.31.255.254", PORT)).unwrap()
    };
    scene.link.a.run(datagram).unwrap();
    eventually("the datagram is refused", || {
        scene.local.log().contains("status=\"no_name\"")
    });

    // Programs that have kept their addresses need not ask again after a restart.
    let file = scene.config.path().join("shadowsocks-fakedns.sled");
    eventually("the names are saved", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.matches("other.test").count() == 2)
    });
    scene.restart();
    ways(&scene, &mut known);
}
