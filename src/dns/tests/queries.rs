//! Tests of what reaches the name servers: which server, over which transport, with which name.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TlsConfig;
use hickory_resolver::proto::op::ResponseCode;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{Instant, advance};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::server::{Act, Server};
use super::{SECOND, both, config, eventually, ips, resolver};
use crate::dns::{Config, Error, Resolver, Source};

#[tokio::test(start_paused = true)]
async fn second_server_answers_for_a_silent_first() {
    let (dead, live) = (
        Server::start(Act::Silent).await,
        Server::start(Act::Both(2, 60)).await,
    );
    let resolver = resolver(config(&[&dead, &live]));
    let start = Instant::now();
    assert_eq!(resolver.lookup("one.example").await, both(2));
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    // From then on the live server comes first.
    let (start, asked) = (Instant::now(), dead.asked_at_all());
    assert_eq!(resolver.lookup("two.example").await, both(2));
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(dead.asked_at_all(), asked);
    // Until the first has had time to recover.
    advance(31 * SECOND).await;
    assert_eq!(resolver.lookup("three.example").await, both(2));
    assert!(dead.asked_at_all() > asked);
}

#[tokio::test(start_paused = true)]
async fn second_server_answers_for_one_that_refuses() {
    for code in [ResponseCode::Refused, ResponseCode::ServFail] {
        let (bad, good) = (
            Server::start(Act::Code(code, 0)).await,
            Server::start(Act::Both(2, 60)).await,
        );
        let resolver = resolver(config(&[&bad, &good]));
        let start = Instant::now();
        assert_eq!(resolver.lookup("name.example").await, both(2));
        assert!(
            start.elapsed() < Duration::from_millis(100),
            "{:?}",
            start.elapsed()
        );
        // It may know other names, and stays first: A and AAAA of each.
        assert_eq!(resolver.lookup("other.example").await, both(2));
        assert_eq!(bad.asked_at_all(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn healthy_first_server_is_the_only_one_asked() {
    let (first, second) = (
        Server::start(Act::Both(1, 60)).await,
        Server::start(Act::Both(2, 60)).await,
    );
    let resolver = resolver(config(&[&first, &second]));
    assert_eq!(resolver.lookup("name.example").await, both(1));
    assert_eq!(second.asked_at_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn failure_of_all_servers_is_reported_and_counted() {
    let server = Server::start(Act::Code(ResponseCode::ServFail, 0)).await;
    let resolver = resolver(config(&[&server]));
    assert!(matches!(
        resolver.lookup("name.example").await,
        Err(Error::ServerFailure(_))
    ));
    let counters = resolver.counters();
    assert_eq!(
        (counters.failures, counters.timeouts, counters.negative),
        (1, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn truncated_answers_are_queried_again_over_tcp() {
    let server = Server::start(Act::Truncated(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("name.example").await, both(1));
    assert_eq!(server.asked_by("tcp"), 2);
}

#[tokio::test(start_paused = true)]
async fn missing_aaaa_costs_fifty_milliseconds() {
    let server = Server::start(Act::SilentV6(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    let start = Instant::now();
    assert_eq!(resolver.lookup("name.example").await, ips(&["192.0.2.1"]));
    assert!(
        (50..100).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    // The late half neither changes the cached answer nor counts as a failure.
    advance(6 * SECOND).await;
    assert_eq!(resolver.cached("name.example"), Some(ips(&["192.0.2.1"])));
    assert_eq!(resolver.counters().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn late_aaaa_completes_the_answer() {
    let server = Server::start(Act::SilentV6(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("name.example").await, ips(&["192.0.2.1"]));
    server.set("name.example.", Act::Both(1, 60));
    // The retransmission gets an answer.
    eventually("both families", || {
        resolver.cached("name.example") == Some(both(1))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_family_is_enough() {
    let server = Server::start(Act::OnlyV4(1, 60)).await;
    server.set("six.example.", Act::OnlyV6(6, 60));
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("four.example").await, ips(&["192.0.2.1"]));
    assert_eq!(resolver.lookup("six.example").await, ips(&["2001:db8::6"]));
}

#[tokio::test(start_paused = true)]
async fn undialable_addresses_are_left_out_and_mapped_ones_unmapped() {
    let server = Server::start(Act::Odd).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(
        resolver.lookup("odd.example").await,
        ips(&["192.0.2.1", "127.0.0.1"])
    );
}

/// A source with a search list and a port, which only hickory's form allows.
fn with_search(server: &Server, search: &[&str]) -> Config {
    let value = json!({
        "search": search,
        "name_servers": [{
            "ip": server.address.ip(),
            "connections": [{"port": server.address.port(), "protocol": {"type": "udp"}}],
        }],
    });
    Config {
        source: Source::from_value(&value).unwrap(),
        ..config(&[])
    }
}

#[tokio::test(start_paused = true)]
async fn search_list_is_for_short_names() {
    let server = Server::start(Act::Code(ResponseCode::NXDomain, 30)).await;
    server.set("box.b.example.", Act::Both(1, 60));
    server.set("www.other.", Act::Both(2, 60));
    let resolver = resolver(with_search(&server, &["a.example.", "b.example."]));
    assert_eq!(resolver.lookup("Box").await, both(1));
    assert_eq!(
        (server.asked("box.a.example."), server.asked("box.")),
        ((1, 1), (0, 0))
    );
    assert_eq!(resolver.lookup("www.other").await, both(2));
    assert_eq!(server.asked("www.other.a.example."), (0, 0));
    assert_eq!(resolver.lookup("box.").await, Err(Error::NoSuchName));
    assert_eq!(server.asked("box."), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn search_is_bounded() {
    let server = Server::start(Act::Code(ResponseCode::NXDomain, 30)).await;
    let search: Vec<String> = (0..50).map(|n| format!("s{n}.example.")).collect();
    let search: Vec<&str> = search.iter().map(String::as_str).collect();
    let resolver = resolver(with_search(&server, &search));
    assert_eq!(resolver.lookup("made.up").await, Err(Error::NoSuchName));
    assert_eq!(server.asked_at_all(), 2 * (1 + 6));
}

#[tokio::test]
async fn every_transport_can_be_set_up() {
    for source in [
        "google",
        "cloudflare_tls",
        "quad9_https",
        "tcp://192.0.2.1",
        "udp://192.0.2.1",
    ] {
        let config = Config {
            source: source.parse().unwrap(),
            ..config(&[])
        };
        assert!(Resolver::new(config, Handle::current()).is_ok(), "{source}");
    }
}

#[tokio::test(start_paused = true)]
async fn tls_to_a_plain_server_fails() {
    let server = Server::start(Act::Both(1, 60)).await;
    let source = format!("tls://{}#dns.example", server.address)
        .parse()
        .unwrap();
    let resolver = resolver(Config {
        source,
        ..config(&[])
    });
    assert!(matches!(
        resolver.lookup("name.example").await,
        Err(Error::Unreachable(_) | Error::Timeout)
    ));
}

/// A self-signed certificate for dns.example, valid for a hundred years; used only by these tests.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const KEY: &[u8] = include_bytes!("key.pem");

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(CERTIFICATE).unwrap()
}

fn acceptor() -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate()],
            PrivateKeyDer::from_pem_slice(KEY).unwrap(),
        );
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

/// Trusts the certificate of these tests and no other.
fn trust() -> TlsConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    let mut tls = TlsConfig::new().unwrap();
    tls.config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls
}

#[tokio::test]
async fn answers_come_over_tls_only_if_the_certificate_has_the_name() {
    let server = Server::start_tls(Act::Both(1, 60), acceptor()).await;
    for (name, answers) in [("dns.example", true), ("other.example", false)] {
        let source = format!("tls://{}#{name}", server.address).parse().unwrap();
        let config = Config {
            source,
            ..config(&[])
        };
        let resolver = Resolver::with_tls(config, Handle::current(), trust()).unwrap();
        let answer = resolver.lookup("name.example").await;
        assert_eq!(answer == both(1), answers, "{name}: {answer:?}");
    }
    assert_eq!(server.asked_by("tls"), 2);
    // No public authority has signed this certificate.
    let source = format!("tls://{}#dns.example", server.address)
        .parse()
        .unwrap();
    let resolver = resolver(Config {
        source,
        ..config(&[])
    });
    let refused = resolver
        .lookup("name.example")
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("TLS or certificate"), "{refused}");
}
