#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::fs;
use std::future::poll_fn;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::time::timeout;

use super::*;
use crate::net::tests::{pattern, read_all, sockets, within};

const NAME: &str = "proxy.example";

/// An authority of its own, and a certificate by it.
struct Authority {
    ca: String,
    cert: String,
    key: String,
    pin: [u8; 32],
}

impl Authority {
    fn new() -> Self {
        Self::issue(|_| {})
    }

    fn issue(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        change(&mut params);
        let cert = params.signed_by(&key, &issuer).unwrap();
        let pin = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            &rcgen::PublicKeyData::subject_public_key_info(&key),
        );
        Self {
            ca: issuer.pem(),
            cert: cert.pem(),
            key: key.serialize_pem(),
            pin: pin.as_ref().try_into().unwrap(),
        }
    }

    /// As `openssl req -x509` makes it: one certificate, for the server and of an authority.
    fn alone(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap().pem();
        Self {
            ca: cert.clone(),
            cert,
            key: key.serialize_pem(),
            pin: [0; 32],
        }
    }

    fn server(&self) -> Server {
        Server::new(text(&self.cert), text(&self.key)).unwrap()
    }

    fn trusted(&self) -> Trust {
        Trust {
            ca: Some(text(&self.ca)),
            ..Trust::default()
        }
    }
}

fn text(pem: &str) -> Pem {
    Pem::Text(pem.as_bytes().to_vec())
}

async fn connection() -> (Stream, Stream) {
    let (near, far) = sockets().await;
    (Stream::new(near), Stream::new(far))
}

/// Both ends after the handshake.
async fn joined(
    client: &Client,
    server: &Server,
) -> (Result<Stream, crate::net::Error>, io::Result<Stream>) {
    let (near, far) = connection().await;
    within(async { tokio::join!(client.connect(near), server.handshake(far)) }).await
}

async fn pair() -> (Stream, Stream) {
    let authority = Authority::new();
    let client = Client::new(NAME, &authority.trusted()).unwrap();
    let (near, far) = joined(&client, &authority.server()).await;
    (near.unwrap(), far.unwrap())
}

#[tokio::test]
async fn bulk_passes_both_ways_at_once_whatever_the_pieces() {
    let payload = pattern(3_000_000);
    for piece in [700, 20_000, 400_000] {
        let (near, far) = pair().await;
        let send = async |stream: &Stream| {
            let (mut at, mut size) = (0, 1);
            while at < payload.len() {
                let end = payload.len().min(at + size);
                let middle = at + (end - at) / 3;
                let parts = [&payload[at..middle], &payload[middle..end]].map(IoSlice::new);
                at += poll_fn(|cx| stream.poll_write(cx, &parts)).await.unwrap();
                size = (size * 3) % 700_001 + 1;
            }
            stream.shutdown().await.unwrap();
        };
        let work = async {
            tokio::join!(
                send(&near),
                send(&far),
                read_all(&near, piece),
                read_all(&far, piece)
            )
        };
        let ((), (), down, up) = within(work).await;
        assert!(
            up.unwrap() == payload && down.unwrap() == payload,
            "{piece}"
        );
    }
}

#[tokio::test]
async fn end_of_one_direction_leaves_the_other_open() {
    let (near, far) = pair().await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(within(read_all(&far, 100)).await.unwrap(), b"question");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(within(read_all(&near, 100)).await.unwrap(), b"answer");
}

#[tokio::test]
async fn cut_stream_is_no_end() {
    let (near, far) = pair().await;
    near.write_all(b"first half").await.unwrap();
    drop(near);
    let mut room = [0; 100];
    assert_eq!(within(far.read(&mut room)).await.unwrap(), 10);
    let error = within(far.read(&mut room)).await.unwrap_err();
    // A reset, where the tickets of the handshake were left unread.
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ),
        "{error}"
    );
}

#[tokio::test]
async fn reader_is_not_ready_for_what_tls_says_to_itself() {
    // The server's tickets follow the handshake: they are records, and no bytes for the reader.
    let (near, far) = pair().await;
    let quiet = timeout(Duration::from_millis(50), near.readable()).await;
    assert!(quiet.is_err());
    far.write_all(b"x").await.unwrap();
    within(near.readable()).await.unwrap();
    assert_eq!(
        near.try_read(&mut [IoSliceMut::new(&mut [0; 8])]).unwrap(),
        1
    );
}

#[tokio::test]
async fn parked_stream_takes_tickets_in_and_serves_on() {
    let (near, far) = pair().await;
    let parked = near.park().unwrap();
    assert!(parked.is_untouched());
    let near = parked.resume().unwrap();
    near.write_all(b"hello").await.unwrap();
    let mut room = [0; 8];
    assert_eq!(within(far.read(&mut room)).await.unwrap(), 5);
    far.write_all(b"hi").await.unwrap();
    assert_eq!(within(near.read(&mut room)).await.unwrap(), 2);
}

#[tokio::test]
async fn only_the_right_server_is_trusted() {
    let (own, other) = (Authority::new(), Authority::new());
    let past = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let expired = Authority::issue(past);
    let (alone, old) = (Authority::alone(|_| {}), Authority::alone(past));
    let pinned = |ca: bool, authority: &Authority| Trust {
        ca: ca.then(|| text(&own.ca)),
        pins: vec![authority.pin],
        insecure: false,
    };
    let insecure = Trust {
        insecure: true,
        ..Trust::default()
    };
    let wrong_key = crate::crypto::base64::encode(&own.pin);
    let (untrusted, other_name, late, authority) = (
        Some("not issued by a trusted authority"),
        Some("not for other.example but for proxy.example"),
        Some("expired "),
        Some("that of an authority"),
    );
    let (any, wrong, default) = ("any.example", "other.example", Trust::default());
    let cases = [
        ("its authority", NAME, own.trusted(), &own, None),
        ("another's", NAME, other.trusted(), &own, untrusted),
        ("the world's", NAME, default, &own, untrusted),
        ("another name", wrong, own.trusted(), &own, other_name),
        ("expired", NAME, expired.trusted(), &expired, late),
        ("its key", any, pinned(false, &own), &own, None),
        (
            "its expired key",
            NAME,
            pinned(false, &expired),
            &expired,
            None,
        ),
        (
            "another key",
            NAME,
            pinned(false, &other),
            &own,
            Some(&*wrong_key),
        ),
        ("key and authority", NAME, pinned(true, &own), &own, None),
        (
            "key, not authority",
            NAME,
            pinned(true, &other),
            &other,
            untrusted,
        ),
        ("anybody", any, insecure, &own, None),
        ("itself", NAME, alone.trusted(), &alone, None),
        (
            "itself by another name",
            wrong,
            alone.trusted(),
            &alone,
            other_name,
        ),
        ("itself, expired", NAME, old.trusted(), &old, late),
        (
            "another that is its own",
            NAME,
            old.trusted(),
            &alone,
            authority,
        ),
    ];
    for (what, name, trust, server, refusal) in cases {
        let client = Client::new(name, &trust).unwrap();
        let (near, far) = joined(&client, &server.server()).await;
        match refusal {
            None => assert!(near.is_ok() && far.is_ok(), "{what}: {near:?} {far:?}"),
            Some(reason) => {
                let error = near.expect_err(what).to_string();
                assert!(error.contains(reason), "{what}: {error}");
                assert!(far.is_err(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn plain_bytes_on_a_tls_port_are_an_error_at_once() {
    let server = Authority::new().server();
    let (near, far) = connection().await;
    near.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let error = within(server.handshake(far)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn wrong_files_are_named_with_their_key() {
    let (own, other) = (Authority::new(), Authority::new());
    let missing = Pem::File("/nonexistent/cert.pem".into());
    let cases = [
        (
            missing.clone(),
            text(&own.key),
            "cert",
            "/nonexistent/cert.pem",
        ),
        (text(&own.cert), missing, "key", "/nonexistent/cert.pem"),
        (
            text(&own.key),
            text(&own.key),
            "cert",
            "no certificate found",
        ),
        (
            text(&own.cert),
            text(&own.cert),
            "key",
            "no private key found",
        ),
        (
            text(&own.cert),
            text(&other.key),
            "key",
            "the key does not belong to the certificate",
        ),
    ];
    for (cert, key, blamed, words) in cases {
        let error = Server::new(cert, key).unwrap_err();
        assert_eq!(error.key(), blamed, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = Client::new("not a name", &Trust::default()).unwrap_err();
    assert_eq!(error.key(), "server_name");
}

#[tokio::test]
async fn changed_certificate_is_read_again_and_a_broken_one_is_not_used() {
    let (first, second) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (
        directory.path().join("cert.pem"),
        directory.path().join("key.pem"),
    );
    let write = |authority: &Authority| {
        fs::write(&cert, &authority.cert).unwrap();
        fs::write(&key, &authority.key).unwrap();
    };
    write(&first);
    let server = Server::new(cert.clone().into(), key.clone().into()).unwrap();
    let look = || {
        let mut current = server.current.lock().unwrap();
        current.checked = current.checked.checked_sub(LOOK).unwrap();
    };
    let serves = async |authority: &Authority| {
        let client = Client::new(NAME, &authority.trusted()).unwrap();
        joined(&client, &server).await.0.is_ok()
    };
    assert!(serves(&first).await);
    fs::write(&cert, "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    look();
    assert!(serves(&first).await);
    write(&second);
    look();
    assert!(serves(&second).await && !serves(&first).await);
}

const LOOK: Duration = Duration::from_secs(3);

#[tokio::test]
async fn stranger_cannot_make_the_server_hold_much() {
    let server = Authority::new().server();
    let (near, far) = connection().await;
    // The beginning of a ClientHello of 60 kB, in records of 16 kB.
    let mut hello = vec![1, 0, 0xea, 0x60];
    hello.resize(60_000, 0);
    let send = async {
        for part in hello.chunks(RECORD - 4) {
            let len = u16::try_from(part.len()).unwrap().to_be_bytes();
            let record = [&[22, 3, 1], len.as_slice(), part].concat();
            if near.write_all(&record).await.is_err() {
                return;
            }
        }
    };
    let work = async { tokio::join!(send, server.handshake(far)) };
    let error = within(work).await.1.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
