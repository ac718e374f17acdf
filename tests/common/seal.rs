//! Shadowsocks requests and packets made by hand on the ciphers of the `shadowsocks` crate, so that a test can get any
//! field wrong on purpose.

use super::{bytes::pattern, peers::Spec, socks::Target};
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use shadowsocks::{
    ServerConfig,
    crypto::{CipherKind, v1::Cipher, v2::tcp::TcpCipher, v2::udp::UdpCipher},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

const TAG: usize = 16;

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A method and its key.
#[derive(Clone, Debug)]
pub struct Sealing {
    kind: CipherKind,
    key: Vec<u8>,
}

/// One direction of a stream.
enum Stream {
    Old(Box<Cipher>),
    New(TcpCipher),
}

impl Stream {
    fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut bytes = [plain, &[0; TAG]].concat();
        match self {
            Self::Old(cipher) => {
                cipher.encrypt_packet(&mut bytes);
            }
            Self::New(cipher) => cipher.encrypt_packet(&mut bytes),
        }
        bytes
    }

    fn open(&mut self, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let good = match self {
            Self::Old(cipher) => cipher.decrypt_packet(&mut bytes),
            Self::New(cipher) => cipher.decrypt_packet(&mut bytes),
        };
        bytes.truncate(sealed.len() - TAG);
        good.then_some(bytes)
    }
}

/// The fields of a TCP request that a test may want otherwise.
#[derive(Clone, Debug)]
pub struct Request {
    /// Salt.
    pub salt: Vec<u8>,
    /// Header type; 0 from a client.
    pub kind: u8,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// ATYP, address, port.
    pub address: Vec<u8>,
    /// Length of the padding, as sent and as claimed.
    pub padding: usize,
    /// First payload.
    pub payload: Vec<u8>,
}

/// The fields of a SIP022 packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Session id of the client.
    pub session: u64,
    /// Packet id.
    pub id: u64,
    /// Header type; 0 from a client.
    pub kind: u8,
    /// Seconds since 1970.
    pub timestamp: u64,
}

impl Packet {
    /// A packet that a server must take.
    pub fn new(session: u64, id: u64) -> Self {
        Self {
            session,
            id,
            kind: 0,
            timestamp: now(),
        }
    }
}

impl Sealing {
    /// The method and key of `spec`.
    pub fn new(spec: &Spec) -> Self {
        let kind: CipherKind = spec.method.parse().unwrap();
        let config = ServerConfig::new(("127.0.0.1", 1), spec.password.clone(), kind).unwrap();
        Self {
            kind,
            key: config.key().to_vec(),
        }
    }

    /// Bytes of a salt.
    pub fn salt_len(&self) -> usize {
        self.kind.salt_len()
    }

    /// Whether the method is of SIP022.
    pub fn is_2022(&self) -> bool {
        self.kind.is_aead_2022()
    }

    /// A salt that no test has used before.
    pub fn fresh_salt(&self) -> Vec<u8> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .subsec_nanos();
        let seed = u64::from(nanos) << 32 | NEXT.fetch_add(1, Ordering::Relaxed);
        pattern(seed ^ now() << 20, self.salt_len())
    }

    /// A request that a server must take.
    pub fn request(&self, target: &Target, payload: &[u8]) -> Request {
        Request {
            salt: self.fresh_salt(),
            kind: 0,
            timestamp: now(),
            address: target.0.clone(),
            padding: if payload.is_empty() { 16 } else { 0 },
            payload: payload.to_vec(),
        }
    }

    fn stream(&self, salt: &[u8]) -> Stream {
        if self.is_2022() {
            Stream::New(TcpCipher::new(self.kind, &self.key, salt))
        } else {
            Stream::Old(Box::new(Cipher::new(self.kind, &self.key, salt)))
        }
    }

    /// The request on the wire.
    pub fn seal(&self, request: &Request) -> Vec<u8> {
        let mut stream = self.stream(&request.salt);
        let mut bytes = request.salt.clone();
        if self.is_2022() {
            let padding = u16::try_from(request.padding).unwrap().to_be_bytes();
            let variable = [
                request.address.as_slice(),
                &padding,
                &vec![0; request.padding],
                &request.payload,
            ]
            .concat();
            let len = u16::try_from(variable.len()).unwrap().to_be_bytes();
            let fixed = [
                &[request.kind],
                request.timestamp.to_be_bytes().as_slice(),
                &len,
            ]
            .concat();
            bytes.extend(stream.seal(&fixed));
            bytes.extend(stream.seal(&variable));
        } else {
            let body = [request.address.as_slice(), &request.payload].concat();
            bytes.extend(stream.seal(&u16::try_from(body.len()).unwrap().to_be_bytes()));
            bytes.extend(stream.seal(&body));
        }
        bytes
    }

    /// Opens as much of a server's answer as `bytes` holds whole; `request_salt` is checked for SIP022.
    ///
    /// # Panics
    /// If a chunk does not open or the header is not an answer to this request.
    pub fn open_response(&self, request_salt: &[u8], bytes: &[u8]) -> Vec<u8> {
        let Some((salt, mut rest)) = bytes.split_at_checked(self.salt_len()) else {
            return Vec::new();
        };
        let mut stream = self.stream(salt);
        let mut plain = Vec::new();
        let mut header = self.is_2022();
        loop {
            let head_len = if header {
                1 + 8 + self.salt_len() + 2
            } else {
                2
            } + TAG;
            let Some((head, after)) = rest.split_at_checked(head_len) else {
                return plain;
            };
            let head = stream.open(head).expect("a length that opens");
            if header {
                assert_eq!(head[0], 1, "type of a response");
                assert!(now().abs_diff(u64::from_be_bytes(head[1..9].try_into().unwrap())) <= 30);
                assert_eq!(
                    &head[9..9 + self.salt_len()],
                    request_salt,
                    "request salt in the response"
                );
                header = false;
            }
            let len = usize::from(u16::from_be_bytes(*head.last_chunk().unwrap()));
            let Some((payload, after)) = after.split_at_checked(len + TAG) else {
                return plain;
            };
            plain.extend(stream.open(payload).expect("a chunk that opens"));
            rest = after;
        }
    }

    /// A datagram of the methods of 2017.
    pub fn seal_packet_2017(&self, target: &Target, data: &[u8]) -> Vec<u8> {
        let salt = self.fresh_salt();
        let sealed = self
            .stream(&salt)
            .seal(&[target.0.as_slice(), data].concat());
        [salt, sealed].concat()
    }

    /// Opens a server's datagram of the methods of 2017.
    pub fn open_packet_2017(&self, bytes: &[u8]) -> (Target, Vec<u8>) {
        let (salt, sealed) = bytes.split_at(self.salt_len());
        let plain = self
            .stream(salt)
            .open(sealed)
            .expect("a datagram that opens");
        let (target, data) = Target::parse(&plain);
        (target, data.to_vec())
    }

    /// A client's datagram of SIP022.
    pub fn seal_packet(&self, packet: &Packet, target: &Target, data: &[u8]) -> Vec<u8> {
        self.seal_body(packet, &[&[0, 0], target.0.as_slice(), data].concat())
    }

    /// A packet whose body, after type and time, is `rest`.
    fn seal_body(&self, packet: &Packet, rest: &[u8]) -> Vec<u8> {
        let ids = [packet.session.to_be_bytes(), packet.id.to_be_bytes()].concat();
        let mut body = vec![packet.kind];
        body.extend(packet.timestamp.to_be_bytes());
        body.extend(rest);
        let cipher = UdpCipher::new(self.kind, &self.key, packet.session);
        if self.chacha() {
            let nonce = pattern(packet.session ^ packet.id ^ now() << 32, 24);
            let mut sealed = [ids, body, vec![0; TAG]].concat();
            cipher.encrypt_packet(&nonce, &mut sealed);
            return [nonce, sealed].concat();
        }
        body.extend([0; TAG]);
        cipher.encrypt_packet(&ids[4..16], &mut body);
        let mut header = Array::try_from(ids.as_slice()).unwrap();
        match self.key.len() {
            16 => aes::Aes128::new_from_slice(&self.key)
                .unwrap()
                .encrypt_block(&mut header),
            _ => aes::Aes256::new_from_slice(&self.key)
                .unwrap()
                .encrypt_block(&mut header),
        }
        [header.as_slice(), &body].concat()
    }

    /// Opens a server's datagram of SIP022.
    pub fn open_packet(&self, bytes: &[u8]) -> Answer {
        let (ids, body) = self.open_ids(bytes);
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(body[0], 1, "type of a server's packet");
        assert!(
            now().abs_diff(number(&body[1..])) <= 30,
            "timestamp of a server's packet"
        );
        let padding = usize::from(u16::from_be_bytes([body[17], body[18]]));
        let (target, data) = Target::parse(&body[19 + padding..body.len() - TAG]);
        Answer {
            server_session: number(&ids),
            id: number(&ids[8..]),
            client_session: number(&body[9..]),
            target,
            data: data.to_vec(),
        }
    }

    /// A server's answer stream with one chunk, to the request with this salt.
    pub fn seal_response(
        &self,
        kind: u8,
        timestamp: u64,
        request_salt: &[u8],
        data: &[u8],
    ) -> Vec<u8> {
        let mut bytes = self.fresh_salt();
        let mut stream = self.stream(&bytes);
        let len = u16::try_from(data.len()).unwrap().to_be_bytes();
        let head = if self.is_2022() {
            [
                &[kind],
                timestamp.to_be_bytes().as_slice(),
                request_salt,
                &len,
            ]
            .concat()
        } else {
            len.to_vec()
        };
        bytes.extend(stream.seal(&head));
        bytes.extend(stream.seal(data));
        bytes
    }

    /// The session id of a client's SIP022 packet.
    pub fn client_session(&self, bytes: &[u8]) -> u64 {
        u64::from_be_bytes(self.open_ids(bytes).0[..8].try_into().unwrap())
    }

    /// A server's datagram of SIP022; `packet` has the server's ids.
    pub fn seal_answer(
        &self,
        packet: &Packet,
        client_session: u64,
        from: &Target,
        data: &[u8],
    ) -> Vec<u8> {
        let client = client_session.to_be_bytes();
        self.seal_body(
            packet,
            &[client.as_slice(), &[0, 0], &from.0, data].concat(),
        )
    }

    /// The ids of a packet and its body, tag included.
    fn open_ids(&self, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        if self.chacha() {
            let (nonce, sealed) = bytes.split_at(24);
            let mut plain = sealed.to_vec();
            let cipher = UdpCipher::new(self.kind, &self.key, 0);
            assert!(
                cipher.decrypt_packet(nonce, &mut plain),
                "a datagram that opens"
            );
            let body = plain.split_off(16);
            (plain, body)
        } else {
            let mut header = Array::try_from(&bytes[..16]).unwrap();
            match self.key.len() {
                16 => aes::Aes128::new_from_slice(&self.key)
                    .unwrap()
                    .decrypt_block(&mut header),
                _ => aes::Aes256::new_from_slice(&self.key)
                    .unwrap()
                    .decrypt_block(&mut header),
            }
            let ids = header.to_vec();
            let session = u64::from_be_bytes(ids[..8].try_into().unwrap());
            let mut body = bytes[16..].to_vec();
            let cipher = UdpCipher::new(self.kind, &self.key, session);
            assert!(
                cipher.decrypt_packet(&ids[4..16], &mut body),
                "a datagram that opens"
            );
            (ids, body)
        }
    }

    fn chacha(&self) -> bool {
        self.kind.to_string().contains("chacha")
    }
}

/// A server's SIP022 packet, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Session id of the server.
    pub server_session: u64,
    /// Packet id.
    pub id: u64,
    /// Session id of the client, as echoed.
    pub client_session: u64,
    /// Who answered.
    pub target: Target,
    /// What.
    pub data: Vec<u8>,
}
