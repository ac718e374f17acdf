//! UDP destinations.

use super::socks::Target;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Who sent what.
type Seen = Arc<Mutex<Vec<(SocketAddr, Vec<u8>)>>>;

/// A UDP server on one loopback address.
#[derive(Debug)]
pub struct UdpTarget {
    address: SocketAddr,
    answers_from: SocketAddr,
    seen: Seen,
    stop: Arc<AtomicBool>,
}

impl UdpTarget {
    /// Echoes from the socket that was asked, on 127.0.0.1.
    pub fn echo() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self::start(socket.try_clone().unwrap(), socket)
    }

    /// Echoes on ::1.
    pub fn echo_v6() -> Self {
        let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        Self::start(socket.try_clone().unwrap(), socket)
    }

    /// Echoes from another socket than was asked: only a full-cone NAT lets the answer through.
    pub fn answers_from_elsewhere() -> Self {
        let asked = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self::start(asked, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    fn start(asked: UdpSocket, answering: UdpSocket) -> Self {
        let target = Self {
            address: asked.local_addr().unwrap(),
            answers_from: answering.local_addr().unwrap(),
            seen: Arc::default(),
            stop: Arc::default(),
        };
        let (seen, stop) = (Arc::clone(&target.seen), Arc::clone(&target.stop));
        thread::spawn(move || {
            let mut buf = vec![0; 65536];
            while let Ok((len, from)) = asked.recv_from(&mut buf) {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                seen.lock().unwrap().push((from, buf[..len].to_vec()));
                let _gone = answering.send_to(&buf[..len], from);
            }
        });
        target
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where to send.
    pub fn target(&self) -> Target {
        self.address.into()
    }

    /// By name; only for a target on 127.0.0.1.
    pub fn name(&self) -> Target {
        Target::name("localhost", self.address.port())
    }

    /// The address that answers.
    pub fn answers_from(&self) -> Target {
        self.answers_from.into()
    }

    /// Every datagram so far: who sent it, and what.
    pub fn seen(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.seen.lock().unwrap().clone()
    }

    /// Whether a datagram with these bytes has arrived.
    pub fn saw(&self, data: &[u8]) -> bool {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .any(|(_, seen)| seen == data)
    }

    /// How often a datagram with these bytes has arrived.
    pub fn count(&self, data: &[u8]) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, seen)| seen == data)
            .count()
    }
}

impl Drop for UdpTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Ok(socket) = UdpSocket::bind((self.address.ip(), 0)) {
            let _woken = socket.send_to(&[], self.address);
        }
    }
}
