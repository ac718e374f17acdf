//! What flows hold in the buffers of the kernel.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::eventually;
use crate::common::peers::{Pair, Program::Ssr, Spec, Start};
use crate::common::socks::read_array;

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// Enough for an average, and few enough for the files of a process.
const READERS: usize = 120;

/// A port that sends to everybody without an end.
fn fountain(ip: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || while stream.write_all(&[7; 64 << 10]).is_ok() {});
        }
    });
    address
}

/// Bytes that were written to established sockets and are not acknowledged, as `filter` of `ss` chooses the sockets.
fn waiting(filter: &str) -> usize {
    let mut command = Command::new("ss");
    let output = command.args(["-tmnHO", "state", "established", filter]);
    let text = String::from_utf8(output.output().unwrap().stdout).unwrap();
    let of = |line: &str| {
        let memory = line.split_once("skmem:(").unwrap().1;
        let mut fields = memory.split([',', ')']);
        let found = fields.find_map(|field| field.strip_prefix('w')?.parse::<usize>().ok());
        found.unwrap()
    };
    text.lines().map(of).sum()
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn slow_readers_of_a_fast_target_have_little_wait_to_be_sent() {
    let spec = Spec::new(METHOD);
    let pair = Pair::with(Start::server(Ssr, &spec), |at| Start::local(Ssr, &spec, at));
    let target = fountain(Ipv4Addr::LOCALHOST);
    let mut readers: Vec<TcpStream> = (0..READERS)
        .map(|_| pair.socks().connect(&target.into()))
        .collect();
    // Each reads a little at a time, which is when buffers grow.
    for _ in 0..10 {
        for reader in &mut readers {
            let [_] = read_array(reader);
            reader.read_exact(&mut [0; 16 << 10]).unwrap();
        }
        thread::sleep(Duration::from_millis(100));
    }
    let (local, server) = (pair.local.address.port(), pair.server.address.port());
    let ours = format!("( sport = :{local} or sport = :{server} )");
    let mut last = 0;
    eventually("the buffers are full", || {
        let before = std::mem::replace(&mut last, waiting(&ours));
        thread::sleep(Duration::from_millis(200));
        last > 0 && last.abs_diff(before) < last / 20
    });
    // Two sockets of a flow. Without a limit they hold 4 to 6 MiB.
    let each = last / READERS;
    println!("{} KiB a flow to be sent", each >> 10);
    assert!(each < 512 << 10, "{} KiB a flow", each >> 10);
}
