//! `memory_mib` bounds what clients that do not read make the server hold.

use crate::common::{
    at_rest,
    peers::{Program, Spec, Start},
    reverse::dial,
    targets::TcpTarget,
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

/// Downloads that nobody reads.
const STALLED: usize = 1500;

#[test]
fn memory_mib_holds_for_the_buffers_of_clients_that_do_not_read() {
    let target = TcpTarget::serve(|mut stream| {
        let bytes = vec![7; 32 << 10];
        while stream.write_all(&bytes).is_ok() {}
    });
    let local = TcpTarget::echo();
    let server = Start::server(Program::Ssr, &Spec::new("none"))
        .with(json!({ "limits": { "memory_mib": 8 } }))
        .run();
    let request = |port: u16| -> TcpStream {
        let mut stream = dial(server.address);
        let socket = socket2::SockRef::from(&stream);
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let address = [&[1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat();
        stream.write_all(&address).unwrap();
        stream
    };
    let before = server.process.memory_kib("VmRSS");
    let stalled: Vec<TcpStream> = (0..STALLED).map(|_| request(target.port())).collect();
    let grown = || server.process.memory_kib("VmRSS").saturating_sub(before);
    let kib = at_rest("the buffers are full", grown);
    println!("{kib} KiB");
    assert!(kib < 32 << 10, "{kib} KiB");
    // Others are served, with less at a time.
    let mut other = request(local.port());
    let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut back = vec![0; sent.len()];
    let mut writer = other.try_clone().unwrap();
    let written = sent.clone();
    let writer = thread::spawn(move || writer.write_all(&written).unwrap());
    other.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == sent);
    drop(stalled);
}
