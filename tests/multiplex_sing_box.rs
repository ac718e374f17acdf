//! sing-box's `multiplex` with sing-box.

use crate::common::{
    DEADLINE,
    bytes::pattern,
    matrix::{self, Targets},
    peers::{Half, Program::Ssr, Spec, Start},
    process::Process,
    sing_box::SingBox,
    socks::Socks,
    targets::TcpTarget,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    sync::Barrier,
    thread,
    time::Duration,
};

const METHOD: &str = "2022-blake3-aes-128-gcm";
const PROTOCOLS: [&str; 3] = ["smux", "yamux", "h2mux"];

fn multiplex(protocol: &str, padding: bool) -> Value {
    json!({"multiplex": {
        "enabled": true, "protocol": protocol, "padding": padding, "max_connections": 2,
    }})
}

/// What sing-box cannot do with its own server either: it ends a multiplexed stream in both directions at once, and cuts long
/// datagrams.
fn is_possible(name: &str) -> bool {
    !name.contains("half-close") && !["udp: full cone", "udp: 30000 bytes"].contains(&name)
}

fn carries(socks: &Socks) {
    let targets = Targets::start();
    let failed = matrix::failures(socks, &targets, is_possible);
    assert!(failed.is_empty(), "{failed:?}");
}

/// A hundred streams at once, each with data of its own.
fn carries_a_hundred_at_once(socks: &Socks) {
    let echo = TcpTarget::echo();
    let all_open = Barrier::new(100);
    thread::scope(|scope| {
        for number in 0..100 {
            let (echo, all_open) = (&echo, &all_open);
            scope.spawn(move || {
                let mut stream = socks.connect(&echo.v4());
                let sent = pattern(number, 50_000);
                stream.write_all(&sent).unwrap();
                let mut back = vec![0; sent.len()];
                stream.read_exact(&mut back).unwrap();
                assert!(back == sent);
                all_open.wait();
            });
        }
    });
}

/// Bytes that nobody reads do not hold up other streams.
fn stopped_readers_do_not_stop_others(socks: &Socks, sent_to_nobody: usize) {
    let echo = TcpTarget::echo();
    let silent = TcpTarget::serve(|stream| {
        thread::park_timeout(DEADLINE);
        drop(stream);
    });
    let mut stopped: Vec<_> = (0..2).map(|_| socks.connect(&silent.v4())).collect();
    for stream in &mut stopped {
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let _ = stream.write_all(&vec![1; sent_to_nobody]);
    }
    for _ in 0..5 {
        matrix::echoes(socks, &echo.v4(), 100_000);
    }
}

fn server(spec: &Spec) -> Half {
    Start::server(Ssr, spec).run()
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn sing_box_client_with_multiplex_reaches_ssr_server() {
    let spec = Spec::new(METHOD);
    let server = server(&spec);
    for protocol in PROTOCOLS {
        for padding in [false, true] {
            eprintln!("{protocol} {padding}");
            let client = SingBox::client(
                &spec,
                server.address,
                &multiplex(protocol, padding),
                &json!([]),
            );
            carries(&client.socks());
            matrix::echoes(&client.socks(), &TcpTarget::echo().v4(), 20 << 20);
            carries_a_hundred_at_once(&client.socks());
        }
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn streams_of_sing_box_that_nobody_reads_do_not_hold_up_the_others() {
    let spec = Spec::new(METHOD);
    let server = server(&spec);
    for protocol in PROTOCOLS {
        eprintln!("{protocol}");
        let client = SingBox::client(
            &spec,
            server.address,
            &multiplex(protocol, false),
            &json!([]),
        );
        // smux has no windows: the streams of a session share what the server holds for them.
        let sent = if protocol == "smux" {
            1 << 20
        } else {
            64 << 20
        };
        let before = server.process.memory_kib("VmRSS");
        stopped_readers_do_not_stop_others(&client.socks(), sent);
        let grown = server.process.memory_kib("VmRSS").saturating_sub(before);
        assert!(grown < 24 << 10, "{grown} KiB");
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn targets_are_left_when_a_sing_box_client_is_killed() {
    let spec = Spec::new(METHOD);
    let server = server(&spec);
    for protocol in PROTOCOLS {
        eprintln!("{protocol}");
        let client = SingBox::client(
            &spec,
            server.address,
            &multiplex(protocol, false),
            &json!([]),
        );
        let (ended, end) = std::sync::mpsc::channel();
        let target = TcpTarget::serve(move |mut stream| {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            ended.send(()).unwrap();
        });
        let mut flow = client.socks().connect(&target.v4());
        flow.write_all(&[1; 1000]).unwrap();
        flow.read_exact(&mut [0; 1000]).unwrap();
        client.process.signal(rustix::process::Signal::KILL);
        end.recv_timeout(DEADLINE)
            .expect("the connection to the target ends");
    }
}

/// Otherwise every request to the program that was to be there would time out.
#[test]
fn program_of_another_on_its_port_is_not_taken_for_a_process() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let mut process = Process::spawn("sleep", Command::new("sleep").arg("1")).unwrap();
    assert!(process.listening(&[address]).unwrap_err().contains("ended"));
}
