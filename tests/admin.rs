//! The admin API: who may call, and what it answers.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::{
    DEADLINE,
    admin::{Api, TOKEN},
    eventually,
    http::Http,
    peers::{Half, Pair, Program::Ssr, Spec, Start, password},
    process::{free_port, v4},
    targets::TcpTarget,
};

pub(crate) const METHOD: &str = "2022-blake3-aes-256-gcm";

/// A server with an API, and with the user ann.
pub(crate) fn server(api: Value) -> Half {
    let ann = json!({"name": "ann", "password": password(METHOD, 2), "rate_limit": 9_000_000,
        "quota_bytes": 5_000_000, "max_connections": 9, "max_ips": 3, "expires": "2099-01-01"});
    Start::server(Ssr, &Spec::new(METHOD))
        .with(api)
        .with(json!({"users": [ann]}))
        .run()
}

/// `ssr local` of ann.
pub(crate) fn anns(server: &Half) -> Half {
    let key = Spec::new(METHOD).password;
    let spec = Spec {
        method: METHOD.to_owned(),
        password: format!("{key}:{}", password(METHOD, 2)),
    };
    Start::local(Ssr, &spec, server.address).run()
}

#[test]
fn server_tells_its_state_and_what_users_use() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let (ann, echo) = (anns(&server), TcpTarget::echo());
    let mut open = ann.socks().connect(&echo.v4());
    open.write_all(&[7; 10_000]).unwrap();
    open.read_exact(&mut [0; 10_000]).unwrap();
    eventually("the stream is counted", || {
        api.json("/api/v1/users")[0]["bytes_down"] == 10_000
    });
    let users = api.json("/api/v1/users");
    let ann = &users[0];
    assert_eq!(ann["name"], "ann");
    assert_eq!(ann["bytes_up"], 10_000);
    assert_eq!(ann["connections"], 1);
    assert_eq!(ann["ips"], json!(["127.0.0.1"]));
    assert_eq!(ann["used_bytes"], 20_000);
    assert!(ann["last_seen"].as_u64().unwrap() > 1_700_000_000);
    let limits = json!({"rate_limit": 9_000_000, "quota_bytes": 5_000_000, "max_connections": 9,
        "max_ips": 3, "expires": 4_070_908_800_u64});
    for (key, limit) in limits.as_object().unwrap() {
        assert_eq!(ann["limits"][key], *limit, "{key}");
    }
    let status = api.json("/api/v1/status");
    assert_eq!(status["role"], "server");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], server.process.id());
    assert_eq!(status["connections"], 1);
    assert!(status["memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(
        status["servers"][0]["name"],
        json!(server.address.to_string())
    );
    assert_eq!(status["bytes_up"], 10_000, "while the stream lasts");
    // A key that nobody has.
    let stranger = Start::local(Ssr, &Spec::new(METHOD), server.address).run();
    let mut refused = stranger.socks().connect(&echo.v4());
    let _gone = refused.write_all(b"hello");
    eventually("the cause is counted", || {
        let failures = &api.json("/api/v1/status")["failures"];
        failures
            .as_object()
            .unwrap()
            .values()
            .any(|count| *count == 1)
    });
    let failed = api.json("/api/v1/failures");
    assert!(!failed["failed"].as_array().unwrap().is_empty(), "{failed}");
}

#[test]
fn local_tells_which_server_it_uses() {
    let (api, keys) = Api::new();
    let (echo, ruled) = (TcpTarget::echo(), TcpTarget::echo());
    let rules = json!({"rules": [{"port": ruled.port(), "to": "direct"}]});
    let local = |address| {
        Start::local(Ssr, &Spec::new(METHOD), address)
            .with(keys)
            .with(rules)
    };
    let pair = Pair::with(Start::server(Ssr, &Spec::new(METHOD)), local);
    let mut open = pair.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    let servers = api.json("/api/v1/servers");
    let one = &servers[0];
    assert_eq!(one["address"], json!(pair.server.address.to_string()));
    assert_eq!(
        (&one["active"], &one["failed"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(one["connections"], Value::Null, "it is the only one");
    assert!(one["latency_ms"].as_f64().unwrap() > 0.0, "{one}");
    let (mut status, mut sessions) = (Value::Null, Value::Null);
    eventually("bytes are counted while the stream lasts", || {
        status = api.json("/api/v1/status");
        sessions = api.json("/api/v1/sessions");
        status["bytes_down"] == 5 && sessions[0]["bytes_down"] == 5
    });
    assert_eq!(status["role"], "local");
    assert_eq!(sessions[0]["target"], v4(echo.port()).to_string());
    assert_eq!(sessions[0]["rule"], Value::Null);
    let _direct = pair.socks().connect(&ruled.v4());
    eventually("the rule of a session is told", || {
        let sessions = api.json("/api/v1/sessions");
        let list = sessions.as_array().unwrap();
        let mut rules = list.iter().filter_map(|one| one["rule"].as_str());
        rules.any(|rule| rule.contains(".json:") && rule.ends_with(" (direct)"))
    });
    let id = &sessions[0]["id"];
    assert_eq!(api.delete(&format!("/api/v1/sessions/{id}")).status, 204);
    assert!(!matches!(open.read(&mut [0]), Ok(1)), "it has ended");
    assert_eq!(status["servers"][0]["address"], one["address"]);
}

#[test]
fn nothing_is_told_without_the_token_and_a_source_that_guesses_is_refused() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let stranger = Api {
        token: None,
        address: api.address,
    };
    for path in ["/metrics", "/api/v1/status", "/api/v1/users", "/api/v1/x"] {
        let answer = stranger.get(path);
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert!(
            answer
                .head
                .to_lowercase()
                .contains("www-authenticate: bearer")
        );
        assert!(!answer.text.contains("ann"), "{answer:?}");
        assert!(answer.json()["hint"].as_str().unwrap().contains("Bearer"));
    }
    assert_eq!(api.get("/api/v1/x").status, 404);
    let wrong = Api {
        token: Some(format!("{TOKEN}x")),
        address: api.address,
    };
    for _ in 0..10 {
        assert_eq!(wrong.get("/api/v1/status").status, 401);
    }
    let answer = wrong.get("/api/v1/status");
    assert_eq!(answer.status, 429);
    assert!(answer.head.to_lowercase().contains("retry-after: 60"));
    assert_eq!(
        api.get("/api/v1/status").status,
        429,
        "the guess may be right"
    );
    eventually("the log says so once", || {
        server
            .process
            .log()
            .matches("a wrong token was refused")
            .count()
            == 1
    });
    assert!(!server.process.log().contains(TOKEN));
}

#[test]
fn pages_of_other_sites_cannot_call() {
    let address = v4(free_port());
    let api = Api {
        address,
        token: None,
    };
    let _server = server(json!({"admin": {"address": address}}));
    assert_eq!(api.get("/api/v1/status").status, 200);
    let ask = |fields: &str| api.send("PUT", "/api/v1/log", fields, "{\"level\":\"info\"}");
    assert_eq!(ask("").status, 200);
    assert_eq!(ask("Host: rebound.example\r\n").status, 421);
    assert_eq!(ask("Origin: https://evil.example\r\n").status, 403);
    assert_eq!(ask("Origin: null\r\n").status, 403);
    assert_eq!(ask("Sec-Fetch-Site: cross-site\r\n").status, 403);
    assert_eq!(ask(&format!("Origin: http://{address}\r\n")).status, 200);
    let answer = api.send("OPTIONS", "/api/v1/log", "", "");
    assert_eq!(answer.status, 405);
    assert!(!answer.head.to_lowercase().contains("access-control"));
}

#[test]
fn log_level_changes_while_the_process_runs() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let (ann, echo) = (anns(&server), TcpTarget::echo());
    let request = || {
        let mut stream = ann.socks().connect(&echo.v4());
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    };
    let is_said = |text: &str| server.process.log().contains(text);
    request();
    let answer = api.put("/api/v1/log", &json!({"level": "debug"}));
    assert_eq!(answer.json(), json!({"level": "debug"}));
    eventually("lines of level debug come", || {
        request();
        is_said("stream ended")
    });
    assert_eq!(
        api.put("/api/v1/log", &json!({"level": "error"})).status,
        200
    );
    for wrong in [json!({"level": "loud"}), json!({}), json!({"levels": 1})] {
        let answer = api.put("/api/v1/log", &wrong);
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
    }
    assert_eq!(api.get("/api/v1/log").status, 405);
    let long = format!("{{\"level\": \"{}\"}}", "x".repeat(100_000));
    assert_eq!(api.send("PUT", "/api/v1/log", "", &long).status, 413);
}

#[test]
fn connections_that_say_nothing_make_room() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let before = server.process.open_files();
    let held: Vec<TcpStream> = (0..200).map(|_| api.connect()).collect();
    assert_eq!(api.get("/api/v1/status").status, 200);
    eventually("the oldest are closed", || {
        server.process.open_files() <= before + 64
    });
    let mut first = held.into_iter().next().unwrap();
    assert_eq!(
        first.read(&mut [0; 1]).unwrap_or(0),
        0,
        "the oldest is closed"
    );
}

#[test]
fn callers_that_are_slow_are_not_waited_for() {
    let (api, keys) = Api::new();
    let _server = server(keys);
    let mut slow = api.connect();
    slow.set_read_timeout(Some(DEADLINE)).unwrap();
    slow.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: 127")
        .unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ended = slow.read_to_end(&mut rest);
    assert!(
        begun.elapsed() < Duration::from_secs(19),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn one_connection_carries_several_requests() {
    let (api, keys) = Api::new();
    let _server = server(keys);
    let mut http = Http::new(api.connect());
    let request = format!(
        "GET /api/v1/users HTTP/1.1\r\nHost: {}\r\nAuthorization: bearer {TOKEN}\r\n\r\n",
        api.address
    );
    for _ in 0..3 {
        let answer = http.ask(&request);
        assert!(answer.line().contains("200"), "{answer:?}");
        assert!(answer.text().contains("ann"));
    }
}

#[test]
fn tls_protects_the_api() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (
        directory.path().join("cert.pem"),
        directory.path().join("key.pem"),
    );
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (api, mut keys) = Api::new();
    keys["admin"]["tls"] = json!({"cert": cert, "key": key});
    let _server = server(keys);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, api.connect());
    let request = format!(
        "GET /api/v1/users HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"name\":\"ann\""), "{answer}");
    // Plain HTTP gets nothing.
    let mut plain = api.connect();
    plain.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("ann"));
}
