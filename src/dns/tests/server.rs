//! A scripted name server on the loopback interface.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How a name server reacts to a question.
#[derive(Clone, Copy)]
pub(super) enum Act {
    /// 192.0.2.n for A, 2001:db8::n for AAAA, with this TTL.
    Both(u8, u32),
    /// 192.0.2.n for A, NODATA for AAAA.
    OnlyV4(u8, u32),
    /// NODATA for A, 2001:db8::n for AAAA.
    OnlyV6(u8, u32),
    /// Like `Both`, but without any reply to AAAA.
    SilentV6(u8, u32),
    /// Like `Both` over TCP; over UDP only the truncation flag.
    Truncated(u8, u32),
    /// An alias with the first TTL to an address with the second.
    Alias(u32, u32),
    /// An error code, with an SOA record of this TTL for NXDOMAIN.
    Code(ResponseCode, u32),
    /// Unspecified, duplicate and IPv4-mapped addresses.
    Odd,
    /// No reply.
    Silent,
}

/// A name server on the loopback.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    script: Arc<Script>,
    _tasks: JoinSet<()>,
}

struct Script {
    default: Act,
    names: Mutex<HashMap<String, Act>>,
    asked: Mutex<Vec<(String, RecordType, &'static str)>>,
    /// While `gated`, one permit for each answer.
    gate: Semaphore,
    gated: AtomicBool,
    waiting: AtomicUsize,
}

impl Server {
    pub(super) async fn start(default: Act) -> Self {
        // UDP and TCP must have the same port: try until one is free in both.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let script = Script::new(default);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&script)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&script)));
        Self {
            address,
            script,
            _tasks: tasks,
        }
    }

    pub(super) fn set(&self, name: &str, act: Act) {
        self.script
            .names
            .lock()
            .unwrap()
            .insert(name.to_owned(), act);
    }

    /// Starts a server that speaks TLS only.
    pub(super) async fn start_tls(default: Act, acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script::new(default);
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let script = Arc::clone(&script);
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (script, acceptor) = (Arc::clone(&script), acceptor.clone());
                    connections.spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            converse(stream, &script, "tls").await;
                        }
                    });
                }
            }
        });
        Self {
            address,
            script,
            _tasks: tasks,
        }
    }

    /// The number of questions that came over the transport `by`.
    pub(super) fn asked_by(&self, by: &str) -> usize {
        self.script
            .asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(.., asked_by)| *asked_by == by)
            .count()
    }

    /// Holds answers back until `release`.
    pub(super) fn hold(&self) {
        self.script.gated.store(true, Ordering::SeqCst);
    }

    pub(super) fn release(&self) {
        self.script.gated.store(false, Ordering::SeqCst);
        self.script
            .gate
            .add_permits(self.script.waiting.load(Ordering::SeqCst));
    }

    /// The number of questions for `name`, as A and as AAAA.
    pub(super) fn asked(&self, name: &str) -> (usize, usize) {
        let asked = self.script.asked.lock().unwrap();
        let count = |kind| {
            asked
                .iter()
                .filter(|(asked, asked_kind, _)| asked == name && *asked_kind == kind)
                .count()
        };
        (count(RecordType::A), count(RecordType::AAAA))
    }

    pub(super) fn asked_at_all(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }
}

impl Script {
    fn new(default: Act) -> Arc<Self> {
        Arc::new(Self {
            default,
            names: Mutex::default(),
            asked: Mutex::default(),
            gate: Semaphore::new(0),
            gated: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        })
    }

    async fn answer(&self, question: &[u8], by: &'static str) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).unwrap();
        let query = request.queries[0].clone();
        let name = query.name().to_ascii();
        self.asked
            .lock()
            .unwrap()
            .push((name.clone(), query.query_type(), by));
        if self.gated.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
        }
        let act = self
            .names
            .lock()
            .unwrap()
            .get(&name)
            .copied()
            .unwrap_or(self.default);
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.add_query(query.clone());
        fill(&mut response, &query, act, by)?;
        Some(response.to_vec().unwrap())
    }
}

fn fill(response: &mut Message, query: &Query, act: Act, by: &str) -> Option<()> {
    let (kind, name) = (query.query_type(), query.name().clone());
    let v4 = |n, ttl| Record::from_rdata(name.clone(), ttl, RData::A(A::new(192, 0, 2, n)));
    let v6 = |n: u8, ttl| {
        Record::from_rdata(
            name.clone(),
            ttl,
            RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into())),
        )
    };
    let soa = |ttl| {
        let data = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, ttl);
        Record::from_rdata(name.clone(), ttl, RData::SOA(data))
    };
    match (act, kind) {
        (Act::Silent, _) | (Act::SilentV6(..), RecordType::AAAA) => return None,
        (Act::Truncated(..), _) if by == "udp" => response.metadata.truncation = true,
        (
            Act::Both(n, ttl)
            | Act::OnlyV4(n, ttl)
            | Act::SilentV6(n, ttl)
            | Act::Truncated(n, ttl),
            RecordType::A,
        ) => {
            response.add_answer(v4(n, ttl));
        }
        (Act::Both(n, ttl) | Act::OnlyV6(n, ttl) | Act::Truncated(n, ttl), RecordType::AAAA) => {
            response.add_answer(v6(n, ttl));
        }
        (Act::OnlyV4(_, ttl), RecordType::AAAA) | (Act::OnlyV6(_, ttl), RecordType::A) => {
            response.add_authority(soa(ttl));
        }
        (Act::Alias(ttl, other), _) => {
            let target = Name::from_ascii("target.example.").unwrap();
            response.add_answer(Record::from_rdata(
                name.clone(),
                ttl,
                RData::CNAME(CNAME(target.clone())),
            ));
            let address = match kind {
                RecordType::A => RData::A(A::new(192, 0, 2, 1)),
                _ => RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            };
            response.add_answer(Record::from_rdata(target, other, address));
        }
        (Act::Code(code, ttl), _) => {
            response.metadata.response_code = code;
            if code == ResponseCode::NXDomain {
                response.add_authority(soa(ttl));
            }
        }
        (Act::Odd, RecordType::A) => {
            for address in [
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::new(192, 0, 2, 1),
                Ipv4Addr::new(192, 0, 2, 1),
            ] {
                response.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A(address))));
            }
        }
        (Act::Odd, _) => {
            let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
            response.add_answer(Record::from_rdata(
                name.clone(),
                60,
                RData::AAAA(AAAA(mapped)),
            ));
        }
        _ => panic!("unexpected question: {query}"),
    }
    Some(())
}

async fn serve_udp(socket: Arc<UdpSocket>, script: Arc<Script>) {
    let mut answers = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let (question, socket, script) = (
            buffer[..length].to_vec(),
            Arc::clone(&socket),
            Arc::clone(&script),
        );
        answers.spawn(async move {
            if let Some(answer) = script.answer(&question, "udp").await {
                socket.send_to(&answer, from).await.unwrap();
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let script = Arc::clone(&script);
        connections.spawn(async move { converse(stream, &script, "tcp").await });
    }
}

/// Answers the questions of one stream (RFC 1035 §4.2.2).
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: &Script,
    by: &'static str,
) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        if let Some(answer) = script.answer(&question, by).await {
            let mut framed = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(answer);
            stream.write_all(&framed).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}
