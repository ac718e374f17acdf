//! `/metrics`, and the files for Prometheus and Grafana that use it.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    admin::{METHOD, anns, server},
    common::{
        admin::Api,
        eventually,
        peers::{Pair, Program::Ssr, Spec, Start, password},
        targets::TcpTarget,
        udp::UdpTarget,
    },
};

/// The value of a sample; `None`: there is none.
fn sample(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(' ')?.parse().ok()
}

fn scrape(api: &Api) -> String {
    let answer = api.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("text/plain; version=0.0.4"),
        "{answer:?}"
    );
    answer.text
}

#[test]
fn figures_of_the_server_are_those_of_its_users() {
    let (api, keys) = Api::new();
    let server = server(keys);
    let (ann, echo, datagrams) = (anns(&server), TcpTarget::echo(), UdpTarget::echo());
    let mut open = ann.socks().connect(&echo.v4());
    open.write_all(&[7; 10_000]).unwrap();
    open.read_exact(&mut [0; 10_000]).unwrap();
    let association = ann.socks().associate();
    let _back = association.exchange(&datagrams.target(), &[7; 500]);
    eventually("all is counted", || {
        let name = "shadowsocks_data_bytes{dir=\"p<t\",access_key=\"ann\"}";
        sample(&scrape(&api), name) == Some(10_500.0)
    });
    let text = scrape(&api);
    for (name, value) in [
        ("shadowsocks_keys", 1.0),
        ("shadowsocks_ports", 1.0),
        ("shadowsocks_udp_nat_entries_added", 1.0),
        ("shadowsocks_udp_nat_entries_removed", 0.0),
        ("ssr_connections", 1.0),
        ("ssr_udp_associations", 1.0),
        ("ssr_user_connections{user=\"ann\"}", 1.0),
        ("ssr_user_addresses{user=\"ann\"}", 1.0),
        ("ssr_user_quota_bytes{user=\"ann\"}", 5_000_000.0),
        ("ssr_user_period_bytes{user=\"ann\"}", 21_000.0),
        ("ssr_user_refused{user=\"ann\"}", 0.0),
        ("ssr_role{role=\"server\"}", 1.0),
    ] {
        assert_eq!(sample(&text, name), Some(value), "{name}: {text}");
    }
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
        "ssr_buffer_limit_bytes",
    ] {
        assert!(sample(&text, name).unwrap() > 0.0, "{name}: {text}");
    }
    drop(open);
    eventually("the stream that has ended is counted", || {
        let name = "ssr_payload_bytes_total{direction=\"up\"}";
        sample(&scrape(&api), name).unwrap() >= 10_000.0
    });
    let stranger = Start::local(Ssr, &Spec::new(METHOD), server.address).run();
    let mut refused = stranger.socks().connect(&echo.v4());
    let _gone = refused.write_all(b"hello");
    eventually("the cause is counted", || {
        scrape(&api).contains("ssr_failures_total{cause=\"")
    });
}

#[test]
fn figures_of_the_client_are_those_of_its_servers() {
    let (api, keys) = Api::new();
    let local = |address| Start::local(Ssr, &Spec::new(METHOD), address).with(keys);
    let mut pair = Pair::with(Start::server(Ssr, &Spec::new(METHOD)), local);
    let echo = TcpTarget::echo();
    let mut open = pair.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    let address = pair.server.address;
    let of = |name: &str| format!("{name}{{server=\"{address}\",address=\"{address}\"}}");
    let text = scrape(&api);
    assert_eq!(sample(&text, &of("ssr_server_up")), Some(1.0), "{text}");
    assert_eq!(sample(&text, &of("ssr_server_active")), Some(1.0));
    assert!(sample(&text, &of("ssr_server_latency_seconds")).unwrap() > 0.0);
    pair.server.process =
        crate::common::process::Process::spawn("nothing", Command::new("sleep").arg("60")).unwrap();
    eventually("the server that is gone has failed", || {
        let mut stream = pair.socks().connect(&echo.v4());
        let _gone = stream.write_all(b"hello");
        let _gone = stream.read(&mut [0; 5]);
        sample(&scrape(&api), &of("ssr_server_up")) == Some(0.0)
    });
    assert!(sample(&scrape(&api), &of("ssr_server_failures_total")).unwrap() >= 1.0);
}

/// An exposition with everything that the role has: users with quotas, failures, servers.
fn expositions() -> [String; 2] {
    let (of_server, keys) = Api::new();
    let server = server(keys);
    let echo = TcpTarget::echo();
    let wrong = Start::local(Ssr, &Spec::new(METHOD), server.address).run();
    let mut refused = wrong.socks().connect(&echo.v4());
    let _gone = refused.write_all(b"hello");
    eventually("a failure is counted", || {
        scrape(&of_server).contains("ssr_failures_total{cause=\"")
    });
    let (of_local, keys) = Api::new();
    let spec = Spec {
        method: METHOD.to_owned(),
        password: format!("{}:{}", Spec::new(METHOD).password, password(METHOD, 2)),
    };
    let local = Start::local(Ssr, &spec, server.address).with(keys).run();
    let mut open = local.socks().connect(&echo.v4());
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    [scrape(&of_server), scrape(&of_local)]
}

/// The names of metrics in an expression of PromQL.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| {
        ["ssr_", "shadowsocks_", "process_"]
            .iter()
            .any(|start| word.starts_with(start))
    })
}

/// Every expression of a document.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => {
                        found.push(text.clone());
                    }
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn dashboard_and_alerts_use_only_metrics_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let dashboard = fs::read_to_string(root.join("grafana/ssr.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let alerts = fs::read_to_string(root.join("prometheus/ssr.rules.yml")).unwrap();
    let lines = alerts.lines().map(str::trim);
    let alerts = lines.filter_map(|line| line.strip_prefix("expr: "));
    found.extend(alerts.map(str::to_owned));
    let texts = expositions();
    let known: BTreeSet<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut used = 0;
    for expression in &found {
        for name in names(expression) {
            assert!(known.contains(name), "{name} of {expression}: {known:?}");
            used += 1;
        }
    }
    assert!(used > 20, "the expressions were not found: {found:?}");
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn parsers_of_prometheus_read_the_figures_and_the_alerts() {
    let script = "import sys\n\
        from prometheus_client.parser import text_string_to_metric_families as parse\n\
        families = list(parse(sys.stdin.read()))\n\
        names = [family.name for family in families]\n\
        assert len(names) == len(set(names)), names\n\
        assert all(family.documentation and family.type != 'unknown' for family in families), families\n\
        samples = [(s.name, tuple(sorted(s.labels.items()))) for f in families for s in f.samples]\n\
        assert len(samples) == len(set(samples)), samples\n\
        print(len(samples))\n";
    for text in expositions() {
        let mut parser = Command::new(std::env::var("SSR_PEER_PYTHON").unwrap())
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        parser
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = parser.wait_with_output().unwrap();
        assert!(output.status.success(), "{text}");
        let count: usize = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .unwrap();
        assert!(count > 30, "{text}");
    }
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus/ssr.rules.yml");
    let checked = Command::new("promtool")
        .arg("check")
        .arg("rules")
        .arg(rules)
        .output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn names_of_users_cannot_forge_lines() {
    let (api, keys) = Api::new();
    let name = "a\"} 1\nssr_forged 2\\";
    let user = json!({"name": name, "password": password(METHOD, 2)});
    let _server = Start::server(Ssr, &Spec::new(METHOD))
        .with(keys)
        .with(json!({"users": [user]}))
        .run();
    let text = scrape(&api);
    assert!(
        !text.lines().any(|line| line.starts_with("ssr_forged")),
        "{text}"
    );
    assert!(
        text.contains("user=\"a\\\"} 1\\nssr_forged 2\\\\\""),
        "{text}"
    );
}
