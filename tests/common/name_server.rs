//! A name server on the loopback, by UDP and TCP, whose answers depend on the first label of the name.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use hickory_resolver::proto::{
    op::{Edns, Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SOA, TXT},
    },
};

/// The time to live of all records, in seconds.
pub const TTL: u32 = 60;

/// A running name server.
pub struct NameServer {
    /// Where it answers.
    pub address: SocketAddr,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    /// The names that were asked, with their type and whether by TCP.
    asked: Mutex<Vec<(String, RecordType, bool)>>,
    /// The TCP connections.
    accepted: AtomicUsize,
    released: Mutex<bool>,
    release: Condvar,
    stop: AtomicBool,
}

impl NameServer {
    /// Starts one.
    pub fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let script = Arc::new(Script::default());
        let (a, b) = (Arc::clone(&script), Arc::clone(&script));
        thread::spawn(move || serve_udp(&Arc::new(udp), &a));
        thread::spawn(move || serve_tcp(&tcp, &b));
        Self { address, script }
    }

    /// How often a name was asked, without its final dot and whatever its case.
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.script.asked.lock().unwrap();
        let is_it = |asked: &str| asked.trim_end_matches('.').eq_ignore_ascii_case(name);
        asked.iter().filter(|(asked, ..)| is_it(asked)).count()
    }

    /// How many queries came by TCP.
    pub fn asked_by_tcp(&self) -> usize {
        let asked = self.script.asked.lock().unwrap();
        asked.iter().filter(|(.., by_tcp)| *by_tcp).count()
    }

    /// How many queries came.
    pub fn asked_at_all(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }

    /// Whether some name came with letters in upper case.
    pub fn has_seen_case(&self) -> bool {
        let asked = self.script.asked.lock().unwrap();
        asked
            .iter()
            .any(|(name, ..)| name.bytes().any(|byte| byte.is_ascii_uppercase()))
    }

    /// How many TCP connections there were.
    pub fn accepted(&self) -> usize {
        self.script.accepted.load(Ordering::SeqCst)
    }

    /// Lets the answers to names `held…` go.
    pub fn release(&self) {
        *self.script.released.lock().unwrap() = true;
        self.script.release.notify_all();
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.script.stop.store(true, Ordering::SeqCst);
        self.release();
        let _woken = TcpStream::connect(self.address);
        let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _woken = waker.send_to(&[], self.address);
    }
}

fn serve_udp(socket: &Arc<UdpSocket>, script: &Arc<Script>) {
    let mut buffer = [0; 4096];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        if script.stop.load(Ordering::SeqCst) {
            return;
        }
        let query = buffer[..len].to_vec();
        let (socket, script) = (Arc::clone(socket), Arc::clone(script));
        let label = first_label(&query);
        let answer = move || {
            for answer in script.answers(&query, false) {
                let _gone = socket.send_to(&answer, from);
            }
        };
        // A flood of names that get no answer must not become a flood of threads.
        match label.starts_with("held") {
            true => drop(thread::spawn(answer)),
            false => answer(),
        }
    }
}

fn serve_tcp(listener: &TcpListener, script: &Arc<Script>) {
    for stream in listener.incoming() {
        if script.stop.load(Ordering::SeqCst) {
            return;
        }
        let (stream, script) = (stream.unwrap(), Arc::clone(script));
        script.accepted.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || converse(stream, &script));
    }
}

/// Answers the queries of one connection, in whatever order.
fn converse(mut stream: TcpStream, script: &Arc<Script>) {
    loop {
        let mut len = [0; 2];
        if stream.read_exact(&mut len).is_err() {
            return;
        }
        let mut query = vec![0; u16::from_be_bytes(len).into()];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        let (mut writing, script) = (stream.try_clone().unwrap(), Arc::clone(script));
        thread::spawn(move || {
            for answer in script.answers(&query, true) {
                let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let _gone = writing.write_all(&[&len[..], &answer].concat());
            }
        });
    }
}

fn first_label(query: &[u8]) -> String {
    let message = Message::from_vec(query).unwrap();
    let name = message.queries[0].name().to_ascii().to_ascii_lowercase();
    name.split('.').next().unwrap().to_owned()
}

impl Script {
    /// The messages that answer a query.
    fn answers(&self, query: &[u8], by_tcp: bool) -> Vec<Vec<u8>> {
        let request = Message::from_vec(query).unwrap();
        let asked = &request.queries[0];
        let (name, kind) = (asked.name().clone(), asked.query_type());
        self.asked
            .lock()
            .unwrap()
            .push((name.to_ascii(), kind, by_tcp));
        let label = first_label(query);
        if label.starts_with("held") {
            let released = self.released.lock().unwrap();
            drop(self.release.wait_while(released, |released| !*released));
        }
        let mut response = respond(&request, &label);
        let mut right = response.to_vec().unwrap();
        let most = request.edns.as_ref().map_or(512, Edns::max_payload);
        if !by_tcp && right.len() > usize::from(most) {
            response.answers.clear();
            response.metadata.truncation = true;
            right = response.to_vec().unwrap();
        }
        match label.as_str() {
            "silent" => vec![],
            label if label.starts_with("flood") => vec![],
            "forged" if !by_tcp => forgeries(&request).into_iter().chain([right]).collect(),
            "stormed" if !by_tcp => forgeries(&request).into_iter().cycle().take(40).collect(),
            "lowered" if !by_tcp => {
                let mut lowered = response.clone();
                lowered.queries[0].set_name(name.to_lowercase());
                vec![lowered.to_vec().unwrap()]
            }
            _ => vec![right],
        }
    }
}

fn respond(request: &Message, label: &str) -> Message {
    let asked = &request.queries[0];
    let (name, kind) = (asked.name().clone(), asked.query_type());
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = true;
    response.metadata.recursion_available = true;
    response.add_query(asked.clone());
    if label == "ancient" && request.edns.is_some() {
        response.metadata.response_code = ResponseCode::FormErr;
        return response;
    }
    if let Some(edns) = &request.edns {
        let mut own = Edns::new();
        own.set_max_payload(1232);
        own.set_dnssec_ok(edns.flags().dnssec_ok);
        response.set_edns(own);
    }
    let record = |name: &Name, data| Record::from_rdata(name.clone(), TTL, data);
    let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, TTL);
    let denial = record(&Name::from_ascii("test.").unwrap(), RData::SOA(soa));
    match (label, kind) {
        ("missing", _) => {
            response.metadata.response_code = ResponseCode::NXDomain;
            response.add_authority(denial);
        }
        ("refused", _) => response.metadata.response_code = ResponseCode::Refused,
        ("long", RecordType::TXT) => {
            let text = (0..16).map(|n: u8| char::from(b'a' + n).to_string().repeat(250));
            response.add_answer(record(&name, RData::TXT(TXT::new(text.collect()))));
        }
        ("alias", RecordType::A) => {
            let target = Name::from_ascii("target.test.").unwrap();
            response.add_answer(record(&name, RData::CNAME(CNAME(target.clone()))));
            response.add_answer(record(&target, RData::A(A::new(192, 0, 2, 7))));
        }
        (label, RecordType::A) if label.starts_with("here") => {
            response.add_answer(record(&name, RData::A(A::new(127, 0, 0, 1))));
        }
        (label, RecordType::AAAA) if label.starts_with("here") => {
            response.add_authority(denial);
        }
        (_, RecordType::A) => {
            response.add_answer(record(&name, RData::A(A::new(192, 0, 2, 1))));
        }
        (_, RecordType::AAAA) => {
            let address = AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            response.add_answer(record(&name, RData::AAAA(address)));
        }
        _ => {
            response.add_authority(denial);
        }
    }
    response
}

/// What somebody sends who does not know the id, or not the case of the name, or asks for another name.
fn forgeries(request: &Message) -> Vec<Vec<u8>> {
    let forged = |change: &dyn Fn(&mut Message)| {
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.add_query(request.queries[0].clone());
        change(&mut response);
        let name = response.queries[0].name().clone();
        let data = RData::A(A::new(203, 0, 113, 66));
        response.add_answer(Record::from_rdata(name, TTL, data));
        response.to_vec().unwrap()
    };
    let other = Name::from_ascii("other.test.").unwrap();
    vec![
        forged(&|response| response.metadata.id ^= 1),
        forged(&|response| {
            response.queries[0].set_name(other.clone());
        }),
        forged(&|response| {
            response.queries[0].set_query_type(RecordType::AAAA);
        }),
        vec![0; 7],
        request.to_vec().unwrap(),
    ]
}
