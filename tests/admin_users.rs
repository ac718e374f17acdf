//! What the admin API changes: users, sessions, the server that is used, the config.

use std::{
    io::{ErrorKind, Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    admin::{METHOD, anns, server},
    common::{
        DEADLINE,
        admin::Api,
        eventually,
        peers::{Half, Program::Ssr, Spec, Start},
        process::v4,
        targets::TcpTarget,
    },
};

/// `ssr local` with a password as the API says it.
fn local(server: &Half, password: &str) -> Half {
    let spec = Spec {
        method: METHOD.to_owned(),
        password: format!("{}:{password}", Spec::new(METHOD).password),
    };
    Start::local(Ssr, &spec, server.address).run()
}

fn works(local: &Half, echo: &TcpTarget) -> bool {
    let mut stream = local.socks().connect(&echo.v4());
    let _gone = stream.write_all(b"hello");
    stream.read_exact(&mut [0; 5]).is_ok()
}

fn user(api: &Api, name: &str) -> Value {
    let users = api.json("/api/v1/users");
    let mut users = users.as_array().unwrap().iter();
    users
        .find(|user| user["name"] == name)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn user_comes_and_goes_without_a_restart() {
    let (api, keys) = Api::new();
    let (server, echo) = (server(keys), TcpTarget::echo());
    let made = api.put("/api/v1/users/bob?host=vpn.example", &json!({"max_ips": 2}));
    assert_eq!(made.status, 200, "{made:?}");
    let made = made.json();
    let password = made["password"].as_str().unwrap();
    let port = server.address.port();
    let link = made["link"].as_str().unwrap();
    assert!(link.starts_with("ss://2022-blake3-aes-256-gcm:"), "{link}");
    assert!(link.contains(&format!("@vpn.example:{port}")), "{link}");
    assert!(link.ends_with("#bob"), "{link}");
    assert!(made["qr"].as_str().unwrap().contains("<svg"));
    let again = api.json("/api/v1/users/bob/link?host=vpn.example");
    assert_eq!(again["link"], made["link"]);
    let bob = local(&server, password);
    assert!(works(&bob, &echo));
    assert_eq!(user(&api, "bob")["limits"]["max_ips"], 2);
    // A change leaves what it does not name, and null takes a limit away.
    let change =
        json!({"quota_bytes": 1_000_000, "quota_period": "daily", "expires": "2099-01-01"});
    assert_eq!(api.put("/api/v1/users/bob", &change).status, 200);
    let limits = &user(&api, "bob")["limits"];
    assert_eq!(limits["quota_bytes"], 1_000_000);
    assert_eq!(limits["max_ips"], 2);
    assert_eq!(limits["expires"], 4_070_908_800_u64);
    let change = json!({"max_ips": null, "expires": null});
    assert_eq!(api.put("/api/v1/users/bob", &change).status, 200);
    let limits = &user(&api, "bob")["limits"];
    assert_eq!(
        (&limits["max_ips"], &limits["expires"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(limits["quota_bytes"], 1_000_000);
    assert!(works(&bob, &echo));
    let mut open = bob.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(api.delete("/api/v1/users/bob").status, 204);
    open.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(
        !matches!(open.read(&mut [0; 5]), Ok(1..)),
        "the flow has ended"
    );
    assert!(!works(&bob, &echo));
    assert_eq!(api.delete("/api/v1/users/bob").status, 404);
    // Others go on.
    assert!(works(&anns(&server), &echo));
    let log = server.process.log();
    assert!(!log.contains(password) && log.contains("user=bob"), "{log}");
}

#[test]
fn wrong_settings_change_nothing() {
    let (api, keys) = Api::new();
    let _server = server(keys);
    let before = user(&api, "ann")["limits"].clone();
    for (body, status) in [
        (json!({"quota_bytes": 0}), 400),
        (json!({"max_connections": 0}), 400),
        (json!({"expires": "tomorrow"}), 400),
        (json!({"quota_bytes": 5, "quota_period": "hourly"}), 400),
        (json!({"quota_bytes": 5, "quota_day": 32}), 400),
        (json!({"quota": 5}), 400),
        (json!(5), 400),
        (json!({"password": "short"}), 400),
        (json!({"password": Spec::new(METHOD).password}), 409),
    ] {
        let answer = api.put("/api/v1/users/ann", &body);
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().len() > 5);
    }
    assert_eq!(user(&api, "ann")["limits"], before);
    let answer = api.put("/api/v1/users/a%0Ab", &json!({}));
    assert_eq!(answer.status, 400, "{answer:?}");
    let answer = api.put("/api/v1/users/x?server=other", &json!({}));
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn server_with_one_key_says_why_it_takes_no_users() {
    let (api, keys) = Api::new();
    let _server = Start::server(Ssr, &Spec::new(METHOD)).with(keys).run();
    let answer = api.put("/api/v1/users/bob", &json!({}));
    assert_eq!(answer.status, 409);
    assert!(answer.text.contains("give it a first user"), "{answer:?}");
}

#[test]
fn session_is_listed_and_can_be_ended() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let (ann, echo) = (anns(&server), TcpTarget::echo());
    let open = || {
        let mut stream = ann.socks().connect(&echo.v4());
        stream.write_all(&[7; 3000]).unwrap();
        stream.read_exact(&mut [0; 3000]).unwrap();
        stream
    };
    let mut streams = [open(), open()];
    eventually("both are counted", || {
        let sessions = api.json("/api/v1/sessions");
        let sessions = sessions.as_array().unwrap();
        sessions
            .iter()
            .filter(|one| one["bytes_down"] == 3000)
            .count()
            == 2
    });
    let sessions = api.json("/api/v1/sessions");
    let one = &sessions[0];
    assert_eq!(one["user"], "ann");
    assert_eq!(one["protocol"], "tcp");
    assert_eq!(one["target"], v4(echo.port()).to_string());
    assert!(one["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let path = format!("/api/v1/sessions/{}", one["id"]);
    assert_eq!(api.delete(&path).status, 204);
    eventually("one is left", || {
        api.json("/api/v1/sessions").as_array().unwrap().len() == 1
    });
    let ended = streams.iter_mut().map(|stream| {
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        !matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    });
    let ended = ended.filter(|has_ended| *has_ended);
    assert_eq!(ended.count(), 1);
    for path in [path.as_str(), "/api/v1/sessions/x"] {
        assert_eq!(api.delete(path).status, 404);
    }
}

#[test]
fn operator_chooses_the_server_that_is_used() {
    let spec = Spec::new(METHOD);
    let servers = [(); 2].map(|()| Start::server(Ssr, &spec).run());
    let (api, keys) = Api::new();
    let entries: Vec<Value> = servers
        .iter()
        .zip(["one", "two"])
        .map(|(server, name)| {
            json!({"server": "127.0.0.1", "server_port": server.address.port(), "method": METHOD,
                "password": spec.password, "remarks": name})
        })
        .collect();
    let local = Start::local(Ssr, &spec, servers[0].address)
        .with(keys)
        .with(json!({"servers": entries}))
        .run();
    let echo = TcpTarget::echo();
    let active = || {
        let servers = api.json("/api/v1/servers");
        let active = servers
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["active"] == true);
        active.unwrap()["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(active(), "one");
    let chosen = api.put("/api/v1/servers/two/active", &json!({}));
    assert_eq!(chosen.status, 200, "{chosen:?}");
    assert_eq!(chosen.json()[1]["chosen"], true);
    assert_eq!(active(), "two");
    let mut open = local.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    let servers_now = api.json("/api/v1/servers");
    assert_eq!(servers_now[1]["connections"], 1, "{servers_now}");
    assert_eq!(
        api.put("/api/v1/servers/three/active", &json!({})).status,
        404
    );
    assert_eq!(api.delete("/api/v1/servers/one/active").status, 404);
    assert_eq!(api.delete("/api/v1/servers/two/active").status, 200);
    assert_eq!(active(), "one");
    // A server that is chosen and gone is still replaced.
    assert_eq!(
        api.put("/api/v1/servers/two/active", &json!({})).status,
        200
    );
    let [_one, two] = servers;
    drop(two);
    assert!(works(&local, &echo));
}

#[test]
fn config_is_read_again_on_demand() {
    let (api, keys) = Api::new();
    let _server = server(keys);
    let answer = api.send("POST", "/api/v1/reload", "", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["added"], json!([]));
}

#[test]
fn thousand_users_come_and_go_while_one_downloads() {
    let (api, keys) = Api::new();
    let server = server(keys);
    assert_eq!(
        api.put(
            "/api/v1/users/ann",
            &json!({"rate_limit": null, "quota_bytes": null})
        )
        .status,
        200
    );
    let (ann, echo) = (anns(&server), TcpTarget::echo());
    let mut open = ann.socks().connect(&echo.v4());
    let count = if cfg!(debug_assertions) { 300 } else { 1000 };
    thread::scope(|scope| {
        let exchange = scope.spawn(|| {
            for _ in 0..200 {
                open.write_all(&[7; 20_000]).unwrap();
                open.read_exact(&mut [0; 20_000]).unwrap();
            }
        });
        let begun = Instant::now();
        for number in 0..count {
            let path = format!("/api/v1/users/user{number}");
            assert_eq!(api.put(&path, &json!({})).status, 200);
        }
        for number in 0..count {
            let path = format!("/api/v1/users/user{number}");
            assert_eq!(api.delete(&path).status, 204);
        }
        assert!(begun.elapsed() < DEADLINE * 3, "{:?}", begun.elapsed());
        exchange.join().unwrap();
    });
    assert_eq!(api.json("/api/v1/users").as_array().unwrap().len(), 1);
}

/// Every path of the description with something in place of its parameters, and every method.
fn calls(description: &Value) -> Vec<(String, String)> {
    let paths = description["paths"].as_object().unwrap();
    let calls = paths.iter().flat_map(|(path, item)| {
        let path = path.replace("{name}", "ann").replace("{id}", "999999999");
        let path = path.replace("{username}", "ann");
        let methods = ["get", "put", "post", "patch", "delete"];
        let methods = methods.iter().filter(|method| item.get(**method).is_some());
        methods
            .map(move |method| (method.to_uppercase(), path.clone()))
            .collect::<Vec<_>>()
    });
    calls.collect()
}

#[test]
fn every_path_of_the_description_answers() {
    let (api, keys) = Api::new();
    let _server = server(keys);
    let description = api.json("/api/v1/openapi.json");
    let calls = calls(&description);
    assert!(calls.len() >= 14, "{calls:?}");
    for (method, path) in calls {
        let answer = api.send(&method, &path, "", "{\"level\":\"info\"}");
        assert!(
            ![405, 500].contains(&answer.status),
            "{method} {path}: {answer:?}"
        );
        assert!(
            !answer.text.contains("nothing at this path"),
            "{method} {path}"
        );
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn answers_are_as_the_description_says() {
    let script = r##"
import json, sys, urllib.request, urllib.error, jsonschema
base, token = sys.argv[1:3]
def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Authorization": "Bearer " + token}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
status, text = call("GET", "/api/v1/openapi.json")
api = json.loads(text)
def null_too(node):
    if isinstance(node, dict):
        node = {key: null_too(value) for key, value in node.items()}
        if node.pop("nullable", False):
            return {"anyOf": [node, {"type": "null"}]}
    elif isinstance(node, list):
        node = [null_too(value) for value in node]
    return node
components = null_too(api["components"])
checked = 0
for method, path, body in [
    ("GET", "/api/v1/status", None), ("GET", "/api/v1/users", None), ("GET", "/api/v1/sessions", None),
    ("GET", "/api/v1/servers", None), ("GET", "/api/v1/failures", None), ("GET", "/api/v1/openapi.json", None),
    ("PUT", "/api/v1/users/eve", {"max_ips": 1, "expires": None}), ("GET", "/api/v1/users/eve/link", None),
    ("DELETE", "/api/v1/users/eve", None), ("DELETE", "/api/v1/users/eve", None), ("DELETE", "/api/v1/sessions/1234567", None),
    ("PUT", "/api/v1/log", {"level": "info"}), ("PUT", "/api/v1/log", {"level": "x"}), ("POST", "/api/v1/reload", None),
    ("PUT", "/api/v1/servers/x/active", None), ("PUT", "/api/v1/users/eve", {"wrong": 1}),
    ("GET", "/server/v1", None), ("GET", "/server/v1/users", None), ("GET", "/server/v1/stats", None),
    ("POST", "/server/v1/users", {"username": "eve", "uPSK": "A" * 43 + "="}), ("GET", "/server/v1/users/eve", None),
    ("PATCH", "/server/v1/users/eve", {"uPSK": "B" * 43 + "="}), ("DELETE", "/server/v1/users/eve", None),
]:
    status, text = call(method, path, body)
    name = "/{username}" if path.startswith("/server") else "/{name}"
    template = path.replace("/eve", name).replace("/1234567", "/{id}").replace("/x/", "/{name}/")
    responses = api["paths"][template][method.lower()]["responses"]
    response = responses.get(str(status), responses["default"])
    content = response.get("content", {}).get("application/json")
    if content is None:
        assert text == b"", (method, path, status, text)
    else:
        jsonschema.validate(json.loads(text), {**null_too(content["schema"]), "components": components})
    checked += 1
print(checked)
"##;
    let (api, keys) = Api::new();
    let server = server(keys);
    let (ann, echo) = (anns(&server), TcpTarget::echo());
    let mut open = ann.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    let output = Command::new(std::env::var("SSR_PEER_PYTHON").unwrap())
        .args(["-c", script, &format!("http://{}", api.address)])
        .arg(api.token.as_ref().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "23");
}
