//! What clients connect to: a process of its own with a port for each behaviour. Its threads block, which takes the fewest
//! system calls for a connection.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::net::RecvFlags;
use serde_json::{Value, json};

use crate::link::Namespace;
use crate::mmsg::Batch;
use crate::process::Process;
use crate::result::Result;

/// Connections that one port serves at a time.
const THREADS: usize = 64;
/// Bytes of a request: how many to answer (big-endian `u64`), and padding.
pub(crate) const REQUEST: usize = 128;
/// Bytes of the body of a response of HTTP.
pub(crate) const PAGE: usize = 512;
/// Connections accepted between two sweeps for those that have ended.
const SWEEP: usize = 500;
/// Bytes of the payload that is sent again and again without being copied into the kernel.
const BLOCK: usize = 1 << 20;

/// The targets' process.
pub(crate) struct Targets {
    _process: Process,
    /// Sends as fast as it can.
    pub(crate) source: SocketAddr,
    /// Reads as fast as it can.
    pub(crate) sink: SocketAddr,
    /// Echoes what it reads.
    pub(crate) echo: SocketAddr,
    /// Answers requests of [`REQUEST`] bytes.
    pub(crate) respond: SocketAddr,
    /// Answers requests of HTTP/1.1 with [`PAGE`] bytes and keeps the connection.
    pub(crate) http: SocketAddr,
    /// Speaks first.
    pub(crate) banner: SocketAddr,
    /// Echoes the first bytes of each of very many connections.
    pub(crate) hold: SocketAddr,
    /// Echoes datagrams.
    pub(crate) udp: SocketAddr,
}

impl Targets {
    /// Starts them at `address`, in a network namespace if one is given.
    pub(crate) fn start(address: Ipv4Addr, namespace: Option<&Namespace>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["target", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start(command, namespace)?;
        let mut line = Vec::new();
        let mut output = process.child().stdout.take().ok_or("no output")?;
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            output.read_exact(&mut byte)?;
            line.extend(byte);
        }
        let ports: Value = serde_json::from_slice(&line)?;
        let port = |name: &str| -> Result<SocketAddr> {
            let text = ports.get(name).and_then(Value::as_str);
            Ok(text.ok_or("a target is missing")?.parse()?)
        };
        Ok(Self {
            source: port("source")?,
            sink: port("sink")?,
            echo: port("echo")?,
            respond: port("respond")?,
            http: port("http")?,
            banner: port("banner")?,
            hold: port("hold")?,
            udp: port("udp")?,
            _process: process,
        })
    }
}

/// `load target ADDRESS`: opens the ports, prints them as one line of JSON, serves until its standard input ends.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    crate::process::raise_file_limit();
    let block = Arc::new(block()?);
    let address: Ipv4Addr = arguments.first().ok_or("no address")?.parse()?;
    let udp = UdpSocket::bind((address, 0))?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&udp, 4 << 20)?;
    let ports = json!({
        "source": serve(address, move |stream| source(&stream, &block))?,
        "sink": serve(address, |stream| drain(&stream, |_| {}))?,
        "echo": serve(address, echo)?,
        "respond": serve(address, respond)?,
        "http": serve(address, http)?,
        "banner": serve(address, banner)?,
        "hold": hold(address)?,
        "udp": udp.local_addr()?,
    });
    thread::spawn(move || echo_datagrams(&udp));
    println!("{ports}");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// Opens a port; each of [`THREADS`] threads serves one of its connections at a time.
fn serve(
    address: Ipv4Addr,
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = Arc::new(listen(address)?);
    let serve = Arc::new(serve);
    for _ in 0..THREADS {
        let (listener, serve) = (Arc::clone(&listener), Arc::clone(&serve));
        thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    // Clients close when they have enough.
                    let _ = serve(stream);
                }
            })?;
    }
    listener.local_addr()
}

/// A listener with a queue as long as the kernel allows.
fn listen(address: Ipv4Addr) -> io::Result<TcpListener> {
    let any = SocketAddr::from((address, 0));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&any.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A file in memory with the payload.
pub(crate) fn block() -> Result<OwnedFd> {
    let file = std::fs::File::from(memfd_create("block", MemfdFlags::CLOEXEC)?);
    // Not all zero, in case something on the way treats zeros specially.
    let bytes: Vec<u8> = (0..BLOCK).map(|index| (index % 251) as u8).collect();
    (&file).write_all(&bytes)?;
    Ok(file.into())
}

/// Sends until the peer has gone.
pub(crate) fn source(stream: &TcpStream, block: &OwnedFd) -> io::Result<()> {
    loop {
        send_block(stream, block, BLOCK)?;
    }
}

/// Sends up to `limit` bytes of the block; returns how many.
pub(crate) fn send_block(stream: &TcpStream, block: impl AsFd, limit: usize) -> io::Result<usize> {
    let mut offset = 0;
    Ok(sendfile(
        stream,
        block,
        Some(&mut offset),
        limit.min(BLOCK),
    )?)
}

/// Reads until the peer ends, without copying out of the kernel (`MSG_TRUNC`); `took` gets the bytes of each read.
pub(crate) fn drain(stream: &TcpStream, mut took: impl FnMut(u64)) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    loop {
        match rustix::net::recv(stream, buffer.as_mut_slice(), RecvFlags::TRUNC)? {
            (_, 0) => return Ok(()),
            (_, length) => took(length as u64),
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(buffer.get(..length).unwrap_or_default())?,
        }
    }
}

fn respond(mut stream: TcpStream) -> io::Result<()> {
    let bytes = vec![b'r'; 64 << 10];
    let mut request = [0; REQUEST];
    loop {
        stream.read_exact(&mut request)?;
        let wanted = request.first_chunk().copied().unwrap_or_default();
        let mut left = usize::try_from(u64::from_be_bytes(wanted)).unwrap_or(0);
        while left > 0 {
            let part = left.min(bytes.len());
            stream.write_all(bytes.get(..part).unwrap_or_default())?;
            left -= part;
        }
    }
}

fn http(mut stream: TcpStream) -> io::Result<()> {
    let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {PAGE}\r\n\r\n").into_bytes();
    response.extend([b'p'; PAGE]);
    let mut head = Vec::new();
    let mut part = [0; 2048];
    loop {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            length => head.extend(part.get(..length).unwrap_or_default()),
        }
        // Clients send one request at a time, without a body.
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(&response)?;
        }
    }
}

fn banner(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"220 ready\r\n")?;
    drain(&stream, |_| {})
}

/// One thread that answers each new connection once and keeps it until its client has gone.
fn hold(address: Ipv4Addr) -> io::Result<SocketAddr> {
    let listener = listen(address)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        let mut held = Vec::new();
        let mut bytes = [0; 64];
        while let Ok((mut stream, _)) = listener.accept() {
            let answered = stream
                .read_exact(&mut bytes)
                .and_then(|()| stream.write_all(&bytes))
                .and_then(|()| stream.set_nonblocking(true));
            if answered.is_ok() {
                held.push(stream);
            }
            if held.len() % SWEEP == 0 {
                held.retain(is_open);
            }
        }
    });
    Ok(address)
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut batch = Batch::of(&[]);
    loop {
        // Errors come from clients that have gone.
        if let Ok(count) = batch.receive(socket) {
            let _ = batch.send(socket, count, true);
        }
    }
}
