//! TCP destinations on both loopbacks.

use super::{
    DEADLINE,
    bytes::{Pattern, digest},
    socks::Target,
};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// What a server that speaks first says.
pub const BANNER: &[u8] = b"220 at your service\r\n";

/// A TCP server on 127.0.0.1 and ::1, on one port; one thread a connection.
#[derive(Debug)]
pub struct TcpTarget {
    port: u16,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl TcpTarget {
    /// Serves every connection with `serve`.
    pub fn serve(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let (first, second) = bind_both();
        let target = Self {
            port: first.local_addr().unwrap().port(),
            accepted: Arc::new(AtomicUsize::new(0)),
            stop: Arc::new(AtomicBool::new(false)),
        };
        for listener in [first, second] {
            let (accepted, stop, serve) = (
                Arc::clone(&target.accepted),
                Arc::clone(&target.stop),
                serve.clone(),
            );
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    accepted.fetch_add(1, Ordering::AcqRel);
                    let serve = serve.clone();
                    thread::spawn(move || {
                        stream.set_read_timeout(Some(DEADLINE * 3)).unwrap();
                        stream.set_nodelay(true).unwrap();
                        serve(stream);
                    });
                }
            });
        }
        target
    }

    /// Sends back what it reads, and its own end after the client's.
    pub fn echo() -> Self {
        Self::serve(|mut stream| {
            let mut buf = vec![0; 64 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buf) {
                if stream.write_all(&buf[..n]).is_err() {
                    return;
                }
            }
            let _gone = stream.shutdown(Shutdown::Write);
        })
    }

    /// Reads to the end of the upload and only then answers with its digest.
    pub fn digest_at_end() -> Self {
        Self::serve(|mut stream| {
            let mut upload = Vec::new();
            if stream.read_to_end(&mut upload).is_ok() {
                let _gone = stream.write_all(&digest(&upload));
            }
        })
    }

    /// Both ways at once: reads [`Order`], sends `down` bytes while reading `up` bytes, then sends their digest.
    pub fn duplex() -> Self {
        Self::serve(|mut stream| {
            let mut order = [0; Order::LEN];
            if stream.read_exact(&mut order).is_err() {
                return;
            }
            let order = Order::from_bytes(&order);
            let mut reading = stream.try_clone().unwrap();
            let upload = thread::spawn(move || {
                let mut upload = vec![0; order.up];
                reading.read_exact(&mut upload).map(|()| digest(&upload))
            });
            let sent = write_pattern(&mut stream, order.seed, order.down);
            if let (Ok(()), Ok(sum)) = (sent, upload.join().unwrap()) {
                let _gone = stream.write_all(&sum);
                let mut rest = [0];
                let _end = stream.read(&mut rest); // closing first would reset what is still on its way
            }
        })
    }

    /// Greets every connection, then echoes.
    pub fn speaks_first() -> Self {
        Self::serve(|mut stream| {
            let mut buf = [0; 4096];
            let mut n = BANNER.len();
            buf[..n].copy_from_slice(BANNER);
            while stream.write_all(&buf[..n]).is_ok() {
                match stream.read(&mut buf) {
                    Ok(read @ 1..) => n = read,
                    _ => return,
                }
            }
        })
    }

    /// Accepts, never answers, and keeps the connection until the client ends it.
    pub fn silent() -> Self {
        Self::serve(|mut stream| {
            let mut buf = [0; 4096];
            while let Ok(1..) = stream.read(&mut buf) {}
        })
    }

    /// The port, the same on both loopbacks.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// By IPv4 address.
    pub fn v4(&self) -> Target {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)).into()
    }

    /// By IPv6 address.
    pub fn v6(&self) -> Target {
        SocketAddr::from((Ipv6Addr::LOCALHOST, self.port)).into()
    }

    /// By name.
    pub fn name(&self) -> Target {
        Target::name("localhost", self.port)
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }
}

impl Drop for TcpTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _woken = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _woken = TcpStream::connect((Ipv6Addr::LOCALHOST, self.port));
    }
}

/// What the client of [`TcpTarget::duplex`] asks for.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Seed of the bytes sent down.
    pub seed: u64,
    /// Bytes from client to target.
    pub up: usize,
    /// Bytes from target to client.
    pub down: usize,
}

impl Order {
    const LEN: usize = 24;

    /// On the wire.
    pub fn to_bytes(self) -> Vec<u8> {
        [self.seed, self.up as u64, self.down as u64]
            .iter()
            .flat_map(|n| n.to_be_bytes())
            .collect()
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        Self {
            seed: number(0),
            up: number(8) as usize,
            down: number(16) as usize,
        }
    }
}

/// Writes `len` bytes of the pattern of `seed`.
///
/// # Errors
/// Those of the stream.
pub fn write_pattern(stream: &mut TcpStream, seed: u64, len: usize) -> std::io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buf = vec![0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let n = left.min(buf.len());
        pattern.fill(&mut buf[..n]);
        stream.write_all(&buf[..n])?;
        left -= n;
    }
    Ok(())
}

/// One port on both loopbacks.
fn bind_both() -> (TcpListener, TcpListener) {
    for _ in 0..100 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(second) =
            TcpListener::bind((Ipv6Addr::LOCALHOST, first.local_addr().unwrap().port()))
        {
            return (first, second);
        }
    }
    panic!("no port that is free on both loopbacks");
}
