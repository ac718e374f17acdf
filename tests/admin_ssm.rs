//! The Shadowsocks Server Management API v1, as programs for it call it.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::{
    admin::{METHOD, server},
    common::{
        DEADLINE,
        admin::{Answer, Api},
        eventually,
        peers::{Half, Program::Ssr, Spec, Start, password},
        targets::TcpTarget,
        udp::UdpTarget,
    },
};

fn call(api: &Api, method: &str, path: &str, body: &Value) -> Answer {
    let kind = "Content-Type: application/json\r\n";
    api.send(
        method,
        &format!("/server/v1{path}"),
        kind,
        &body.to_string(),
    )
}

fn get(api: &Api, path: &str) -> Value {
    api.json(&format!("/server/v1{path}"))
}

/// `ssr local` of the user with this key.
fn local(server: &Half, key: &str) -> Half {
    let spec = Spec {
        method: METHOD.to_owned(),
        password: format!("{}:{key}", Spec::new(METHOD).password),
    };
    Start::local(Ssr, &spec, server.address).run()
}

fn works(local: &Half, echo: &TcpTarget) -> bool {
    let mut stream = local.socks().connect(&echo.v4());
    let _gone = stream.write_all(b"hello");
    stream.read_exact(&mut [0; 5]).is_ok()
}

#[test]
fn users_are_managed_as_the_document_says_and_work_at_once() {
    let (api, keys) = Api::new();
    let (server, echo) = (server(keys), TcpTarget::echo());
    for path in ["", "/"] {
        let info = get(&api, path);
        assert_eq!(info["apiVersion"], "v1");
        assert!(
            info["server"].as_str().unwrap().starts_with("ssr "),
            "{info}"
        );
    }
    let [first, second] = [20, 21].map(|seed| password(METHOD, seed));
    let new = json!({"username": "carl", "uPSK": first});
    let added = call(&api, "POST", "/users", &new);
    assert_eq!((added.status, added.text.as_str()), (201, ""));
    let carl = local(&server, &first);
    assert!(works(&carl, &echo));
    let list = get(&api, "/users");
    let users = list["users"].as_array().unwrap();
    assert!(users.contains(&new) && users.len() >= 2, "{list}");
    for (body, why) in [
        (new.clone(), "a user of this name"),
        (json!({"username": "dora", "uPSK": first}), "another user's"),
        (json!({"username": "dora", "uPSK": "short"}), "bytes"),
        (json!({"username": "", "uPSK": second}), "a name has"),
        (json!({"username": "dora"}), "uPSK"),
        (json!(5), "body"),
    ] {
        let answer = call(&api, "POST", "/users", &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(why), "{body}: {error}");
    }
    let mut open = carl.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    open.set_read_timeout(Some(DEADLINE)).unwrap();
    let same = call(&api, "PATCH", "/users/carl", &json!({"uPSK": first}));
    assert_eq!(same.status, 400, "{same:?}");
    let changed = call(&api, "PATCH", "/users/carl", &json!({"uPSK": second}));
    assert_eq!((changed.status, changed.text.as_str()), (204, ""));
    assert!(
        !matches!(open.read(&mut [0]), Ok(1..)),
        "the flow has ended"
    );
    assert!(!works(&carl, &echo));
    let carl = local(&server, &second);
    assert!(works(&carl, &echo));
    // As sing-box has it.
    let changed = call(&api, "PUT", "/users/carl", &json!({"uPSK": first}));
    assert_eq!(changed.status, 204, "{changed:?}");
    for (method, body) in [
        ("GET", Value::Null),
        ("PATCH", json!({"uPSK": second})),
        ("DELETE", Value::Null),
    ] {
        let answer = call(&api, method, "/users/nobody", &body);
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    let removed = call(&api, "DELETE", "/users/carl", &Value::Null);
    assert_eq!((removed.status, removed.text.as_str()), (204, ""));
    assert!(!works(&local(&server, &first), &echo));
    let log = server.process.log();
    assert!(!log.contains(&first) && !log.contains(&second), "{log}");
}

#[test]
fn stats_count_payload_datagrams_and_sessions_until_they_are_cleared() {
    let (api, keys) = Api::new();
    let (server, echo, datagrams) = (server(keys), TcpTarget::echo(), UdpTarget::echo());
    let key = password(METHOD, 22);
    let new = json!({"username": "carl", "uPSK": key});
    assert_eq!(call(&api, "POST", "/users", &new).status, 201);
    let carl = local(&server, &key);
    let association = carl.socks().associate();
    for _ in 0..3 {
        let mut stream = carl.socks().connect(&echo.v4());
        stream.write_all(&[7; 1000]).unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        association.exchange(&datagrams.target(), &[7; 100]);
    }
    // A datagram may be sent again where an answer is late.
    let used = |user: &Value| {
        let number = |name: &str| user[name].as_u64().unwrap();
        let (up, down) = (number("uplinkPackets"), number("downlinkPackets"));
        assert!(up >= 3 && down >= 3 && number("udpSessions") == 1, "{user}");
        assert_eq!(number("uplinkBytes"), 3000 + 100 * up, "{user}");
        assert_eq!(number("downlinkBytes"), 3000 + 100 * down, "{user}");
        assert_eq!(number("tcpSessions"), 3, "{user}");
    };
    eventually("all is counted", || {
        let bytes = |user: &Value, name: &str| user[name].as_u64().unwrap() % 1000 >= 300;
        let user = get(&api, "/users/carl");
        bytes(&user, "uplinkBytes") && bytes(&user, "downlinkBytes")
    });
    let user = get(&api, "/users/carl");
    assert_eq!(
        (&user["username"], &user["uPSK"]),
        (&json!("carl"), &json!(key))
    );
    used(&user);
    let stats = call(&api, "GET", "/stats?clear=true", &Value::Null).json();
    used(&stats);
    let users = stats["users"].as_array().unwrap();
    let user = users
        .iter()
        .find(|user| user["username"] == "carl")
        .unwrap();
    used(user);
    assert_eq!(user.get("uPSK"), None);
    let cleared = get(&api, "/stats");
    for name in [
        "downlinkPackets",
        "downlinkBytes",
        "uplinkPackets",
        "uplinkBytes",
        "tcpSessions",
        "udpSessions",
    ] {
        assert_eq!(cleared[name], 0, "{cleared}");
    }
    // What quotas and figures are made of goes on.
    let users = api.json("/api/v1/users");
    let users = users.as_array().unwrap();
    let user = users.iter().find(|user| user["name"] == "carl").unwrap();
    assert!(user["bytes_up"].as_u64().unwrap() >= 3300, "{user}");
}

#[test]
fn server_is_named_where_there_are_several_and_one_without_users_says_so() {
    let spec = Spec::new(METHOD);
    let (api, keys) = Api::new();
    let port = |seed| {
        let users = json!([{"name": "ann", "password": password(METHOD, seed)}]);
        json!({"server": "127.0.0.1", "server_port": crate::common::process::free_port(), "method": METHOD,
            "password": spec.password, "users": users, "remarks": format!("port {seed}")})
    };
    let _server = Start::server(Ssr, &spec)
        .with(keys)
        .with(json!({"servers": [port(30), port(31)]}))
        .run();
    assert_eq!(api.get("/server/v1/users").status, 404);
    for seed in [30, 31] {
        let user = api.json(&format!("/port%20{seed}/server/v1/users/ann"));
        assert_eq!(user["uPSK"], password(METHOD, seed));
    }
    assert_eq!(api.get("/other/server/v1/users").status, 404);
    let unknown = Api {
        address: api.address,
        token: None,
    };
    assert_eq!(unknown.get("/server/v1/users").status, 401);
    let (api, keys) = Api::new();
    let _server = Start::server(Ssr, &spec).with(keys).run();
    assert_eq!(get(&api, "/stats")["users"], json!([]));
    let answer = api.get("/server/v1/users");
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("no `users`"), "{answer:?}");
}
