//! What `ssr local` believes of a server: only answers to its own request, sealed now, once.

use crate::common::{
    ANSWER, SILENCE,
    bytes::pattern,
    impostor::{Impostor, udp_target},
    probe::End,
    seal::{Packet, now},
    socks::Association,
};
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};

const METHODS: [&str; 3] = [
    "aes-256-gcm",
    "2022-blake3-aes-256-gcm",
    "2022-blake3-chacha20-poly1305",
];

/// Answers a request of the local half with what `answer` makes of the salt and the whole request, and returns what the
/// client gets.
fn client_gets(
    scene: &Impostor,
    answer: impl Fn(&[u8], &[u8]) -> Vec<u8> + Sync,
) -> (Vec<u8>, End) {
    let salt_len = scene.sealing.salt_len();
    let exchange = scene.exchange(|request| answer(&request[..salt_len], request));
    exchange.written.unwrap();
    (exchange.got, exchange.end)
}

fn believes_nothing(scene: &Impostor, what: &str, answer: impl Fn(&[u8], &[u8]) -> Vec<u8> + Sync) {
    let (got, end) = client_gets(scene, answer);
    assert!(got.is_empty(), "{what}: the client got {} bytes", got.len());
    assert_ne!(end, End::Never, "{what}: the connection stays open");
}

/// The client's association, where its first packet came from, and the session of that.
fn asked(scene: &Impostor) -> (Association, SocketAddr, u64) {
    let (association, packet, from) = scene.associated();
    let session = scene.sealing.client_session(&packet);
    (association, from, session)
}

fn answers(
    scene: &Impostor,
    to: SocketAddr,
    packet: &Packet,
    session: u64,
    data: &[u8],
) -> Vec<u8> {
    let sealed = scene
        .sealing
        .seal_answer(packet, session, &udp_target(), data);
    scene.udp.send_to(&sealed, to).unwrap();
    sealed
}

/// A server's packet that a client must take.
fn packet(session: u64, id: u64) -> Packet {
    Packet {
        kind: 1,
        ..Packet::new(session, id)
    }
}

#[test]
fn only_a_true_answer_reaches_the_client() {
    for method in METHODS {
        let scene = Impostor::new(method, json!({}));
        let (got, _) = client_gets(&scene, |salt, _| {
            scene.sealing.seal_response(1, now(), salt, b"answer")
        });
        assert_eq!(got, b"answer");
        believes_nothing(&scene, "garbage", |_, _| pattern(1, 300));
        believes_nothing(&scene, "nothing", |_, _| Vec::new());
        let len = scene
            .sealing
            .seal_response(1, now(), &scene.sealing.fresh_salt(), b"answer")
            .len();
        for at in (0..len).step_by(5) {
            believes_nothing(&scene, "a damaged answer", |salt, _| {
                let mut answer = scene.sealing.seal_response(1, now(), salt, b"answer");
                answer[at] ^= 1;
                answer
            });
            believes_nothing(&scene, "a truncated answer", |salt, _| {
                scene.sealing.seal_response(1, now(), salt, b"answer")[..at].to_vec()
            });
        }
    }
}

#[test]
fn an_answer_to_another_request_is_not_believed() {
    for method in &METHODS[1..] {
        let scene = Impostor::new(method, json!({}));
        let other = scene.sealing.fresh_salt();
        believes_nothing(&scene, "another request's answer", |_, _| {
            scene.sealing.seal_response(1, now(), &other, b"answer")
        });
        believes_nothing(&scene, "a request header", |salt, _| {
            scene.sealing.seal_response(0, now(), salt, b"answer")
        });
        for skew in [-40, 40] {
            let then = now().checked_add_signed(skew).unwrap();
            believes_nothing(&scene, "a stale answer", |salt, _| {
                scene.sealing.seal_response(1, then, salt, b"answer")
            });
        }
    }
}

#[test]
fn the_clients_own_request_is_not_an_answer() {
    for method in METHODS {
        let scene = Impostor::new(method, json!({}));
        believes_nothing(&scene, "the reflected request", |_, request| {
            request.to_vec()
        });
    }
}

#[test]
fn only_true_datagrams_reach_the_client() {
    for method in &METHODS[1..] {
        let scene = Impostor::new(method, json!({}));
        let (association, from, session) = asked(&scene);
        while association.receive(SILENCE / 8).is_some() {}
        let mut stale = packet(1, 0);
        stale.timestamp -= 40;
        answers(&scene, from, &stale, session, b"stale");
        answers(
            &scene,
            from,
            &packet(1, 1),
            session ^ 1,
            b"another session's",
        );
        answers(&scene, from, &Packet::new(1, 2), session, b"a request");
        for len in 0..100 {
            scene.udp.send_to(&pattern(len as u64, len), from).unwrap();
        }
        let sealed = answers(&scene, from, &packet(1, 4), session, b"answer");
        let (source, data) = association.receive(ANSWER).expect("the true answer");
        assert_eq!(
            (source, data.as_slice()),
            (udp_target(), b"answer".as_slice())
        );
        scene.udp.send_to(&sealed, from).unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(&sealed, from).unwrap();
        assert!(
            association.receive(SILENCE).is_none(),
            "a replayed or forged answer came through"
        );
    }
}

#[test]
fn a_server_that_restarts_is_still_heard() {
    for method in &METHODS[1..] {
        let scene = Impostor::new(method, json!({}));
        let (association, from, session) = asked(&scene);
        for server_session in [1, 2] {
            for id in [0, 1, 2] {
                answers(&scene, from, &packet(server_session, id), session, b"here");
                assert!(
                    association.receive(ANSWER).is_some(),
                    "server session {server_session}, packet {id}"
                );
            }
        }
        answers(
            &scene,
            from,
            &packet(1, 3),
            session,
            b"late, from the old one",
        );
        assert!(
            association.receive(ANSWER).is_some(),
            "the old session's last packets"
        );
        answers(
            &scene,
            from,
            &packet(1, 3),
            session,
            b"late, from the old one",
        );
        assert!(
            association.receive(SILENCE).is_none(),
            "a replay of the old session"
        );
    }
}

#[test]
fn garbage_from_the_servers_address_does_not_break_the_association() {
    for method in &METHODS[1..] {
        let scene = Impostor::new(method, json!({}));
        let (association, from, session) = asked(&scene);
        scene.udp.send_to(&pattern(1, 1000), from).unwrap();
        association.send(&udp_target(), b"again");
        let mut buf = [0; 4096];
        let (len, again) = scene.udp.recv_from(&mut buf).expect("the next packet");
        assert_eq!(again, from, "the client's socket was replaced");
        assert_eq!(
            scene.sealing.client_session(&buf[..len]),
            session,
            "the session was replaced"
        );
        answers(&scene, from, &packet(9, 0), session, b"fine");
        assert_eq!(association.receive(ANSWER).expect("an answer").1, b"fine");
    }
}
