//! A site that other web servers give out: which of them is asked, what they hear, and what happens when one fails.

use crate::common::{
    eventually, forward::Forwarder, http::Http, process::free_port, socks::dial, targets::TcpTarget,
};
use crate::site::{Layers, get, server};
use crate::transport_ws::Certificate;
use serde_json::json;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

/// A web server that says its name, and what it was asked.
struct Web {
    target: TcpTarget,
    asked: Arc<Mutex<Vec<String>>>,
    is_sick: Arc<AtomicBool>,
}

impl Web {
    fn start(name: &'static str) -> Self {
        let (asked, is_sick) = (
            Arc::<Mutex<Vec<String>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (asked_too, sick) = (Arc::clone(&asked), Arc::clone(&is_sick));
        let target = TcpTarget::serve(move |stream| {
            let mut http = Http::new(stream);
            while let Ok(head) = http.head() {
                asked_too.lock().unwrap().push(head);
                let status = if sick.load(SeqCst) {
                    "503 Sick"
                } else {
                    "200 OK"
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nServer: {name}\r\nContent-Length: {}\r\n\r\n{name}",
                    name.len()
                );
                if http.send(&answer).is_err() {
                    break;
                }
            }
        });
        Self {
            target,
            asked,
            is_sick,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.target.port())
    }

    fn count(&self, path: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|head| head.contains(path)).count()
    }
}

#[test]
fn requests_go_to_the_web_servers_in_turn_with_who_asks() {
    let webs = [Web::start("one"), Web::start("two")];
    let target = format!("{},{}", webs[0].url(), webs[1].url());
    let forward = Forwarder::start("http", "", &target, &[]);
    // On one connection, which is kept.
    let mut http = Http::new(dial(forward.address));
    for _ in 0..6 {
        http.send("GET /path?query HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 6.6.6.6\r\nX-Hop: 1\r\nConnection: x-hop\r\n\r\n")
            .unwrap();
        let answer = http.message(true).unwrap();
        assert!(
            answer.has(&format!("Server: {}", answer.text())),
            "{}",
            answer.head
        );
    }
    for web in &webs {
        assert_eq!(web.count("GET /path?query HTTP/1.1\r\n"), 3);
        assert_eq!(web.target.accepted(), 1, "its connection is kept");
        let asked = web.asked.lock().unwrap();
        let head = asked[0].to_ascii_lowercase();
        assert!(head.contains("\r\nhost: example.com\r\n"), "{head}");
        assert!(
            head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nx-forwarded-proto: http\r\n"), "{head}");
        assert!(
            !head.contains("6.6.6.6") && !head.contains("x-hop"),
            "{head}"
        );
    }
}

#[test]
fn one_visitor_goes_to_one_web_server_by_hash() {
    let webs = [Web::start("one"), Web::start("two"), Web::start("three")];
    let urls: Vec<_> = webs.iter().map(Web::url).collect();
    let target = format!("{}?strategy=hash", urls.join(","));
    let forward = Forwarder::start("http", "", &target, &[]);
    let first = get(forward.address, "/", "").text();
    for _ in 0..5 {
        assert_eq!(get(forward.address, "/", "").text(), first);
    }
}

#[test]
fn request_is_repeated_on_another_web_server_only_where_that_changes_nothing() {
    // It takes a request, and breaks the connection.
    let taken = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&taken);
    let broken = TcpTarget::serve(move |stream| {
        let mut http = Http::new(stream);
        if http.head().is_ok() {
            counted.fetch_add(1, SeqCst);
        }
    });
    let web = Web::start("well");
    let gone = free_port();
    let dead = format!("http://127.0.0.1:{gone},http://127.0.0.1:{}", broken.port());
    let forward = Forwarder::start("http", "", &format!("{dead},{}", web.url()), &[]);
    for _ in 0..4 {
        let answer = get(forward.address, "/", "");
        assert_eq!(answer.text(), "well", "{}", answer.head);
    }
    let log = forward.process.log();
    assert!(
        log.contains("a web server behind the site gave no answer"),
        "{log}"
    );
    let alone = Forwarder::start(
        "http",
        "",
        &format!("http://127.0.0.1:{},{}", broken.port(), web.url()),
        &[],
    );
    let before = taken.load(SeqCst);
    let mut http = Http::new(dial(alone.address));
    http.send("POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        .unwrap();
    assert!(http.head().unwrap().contains(" 502 "));
    assert_eq!(taken.load(SeqCst), before + 1);
    assert_eq!(web.count("/once"), 0);
}

#[test]
fn web_server_that_its_check_finds_sick_is_not_asked_until_it_is_well() {
    let webs = [Web::start("one"), Web::start("two")];
    webs[0].is_sick.store(true, SeqCst);
    let target = format!("{},{}?check=/health", webs[0].url(), webs[1].url());
    let forward = Forwarder::start("http", "", &target, &[]);
    let changed = || forward.process.log().matches("has changed").count();
    eventually("the sick one is found", || changed() == 1);
    for _ in 0..4 {
        assert_eq!(get(forward.address, "/", "").text(), "two");
    }
    webs[0].is_sick.store(false, SeqCst);
    eventually("it is well again", || changed() == 2);
    let one = (0..4).filter(|_| get(forward.address, "/", "").text() == "one");
    assert_eq!(one.count(), 2);
}

#[test]
fn websocket_of_a_web_server_is_passed_on() {
    let web = TcpTarget::serve(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        while let Ok(message) = socket.read() {
            if message.is_text() && socket.send(message).is_err() {
                break;
            }
        }
    });
    let certificate = Certificate::new();
    let url = format!("http://127.0.0.1:{}", web.port());
    let half = server(
        Layers::Ws,
        "aes-256-gcm",
        &certificate,
        &json!({"proxy": url}),
    );
    let forward = Forwarder::start("http", "", &url, &[]);
    for address in [half.address, forward.address] {
        let (mut socket, _) =
            tungstenite::client(format!("ws://{address}/chat"), dial(address)).unwrap();
        for text in ["first", "second"] {
            socket.send(tungstenite::Message::text(text)).unwrap();
            assert_eq!(socket.read().unwrap().to_text().unwrap(), text);
        }
    }
}
