//! Forwards, in every spelling.

use super::*;

fn only(text: &str) -> Forward {
    let mut forwards = read(text, Role::Forward).forwards;
    assert_eq!(forwards.len(), 1);
    forwards.remove(0)
}

#[test]
fn a_url_and_the_keys_beside_it_say_the_same() {
    let pin = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let in_url = format!(
        "wss://a.example/p?host=b.example:444&header=X-Key:%20y&ca=/ca.pem&pin_sha256={pin}&insecure=1"
    );
    let url = only(&format!(
        r#"{{"forwards": [{{"listen": "tcp://[::1]:1", "target": "{in_url}"}}]}}"#
    ));
    let keys = only(&format!(
        r#"{{"forwards": [{{"listen": {{"url": "tcp://[::1]:1"}}, "target": {{
            "url": "wss://a.example/p", "host": "b.example:444", "headers": {{"X-Key": "y"}},
            "tls": {{"ca": "/ca.pem", "pin_sha256": "{pin}", "insecure": true}}
        }}}}]}}"#
    ));
    let (url, keys) = (url.target.ws.unwrap(), keys.target.ws.unwrap());
    assert_eq!(url.request, keys.request);
    let shown = |ws: &EndpointWs| format!("{:?}", ws.tls.as_ref().unwrap().trust);
    assert_eq!(shown(&url), shown(&keys));
    assert_eq!(url.request.path, "/p");
    let trust = &url.tls.as_ref().unwrap().trust;
    assert_eq!(url.server_name(), "b.example");
    assert_eq!((trust.pins.len(), trust.insecure), (1, true));
}

#[test]
fn a_target_is_asked_with_its_own_host() {
    for (url, host, name) in [
        ("wss://a.example/", "a.example", "a.example"),
        ("wss://a.example:8443/", "a.example:8443", "a.example"),
        ("wss://[2001:db8::1]/", "[2001:db8::1]", "2001:db8::1"),
        ("ws://192.0.2.1", "192.0.2.1", ""),
    ] {
        let text = format!(r#"{{"forwards": [{{"listen": "tcp://[::1]:1", "target": "{url}"}}]}}"#);
        let ws = only(&text).target.ws.unwrap();
        assert_eq!(ws.request.host.as_deref(), Some(host));
        if ws.tls.is_some() {
            assert_eq!(ws.server_name(), name);
        }
    }
}

#[test]
fn an_option_in_the_wrong_place_is_an_error_there() {
    for (endpoints, message) in [
        (
            r#""listen": {"url": "tcp://[::1]:1", "host": "a"}, "target": "tcp://a:1""#,
            "forwards[0].listen.host: a `tcp` URL has no option `host`",
        ),
        (
            r#""listen": "tcp://[::1]:1", "target": {"url": "ws://a", "tls": {"insecure": true}}"#,
            "forwards[0].target.tls.insecure: a `ws` URL has no option `insecure`",
        ),
        (
            r#""listen": "tcp://[::1]:1", "target": {"url": "wss://a", "tls": {"cert": "x"}}"#,
            "forwards[0].target.tls.cert: `cert` has no effect for a target",
        ),
        (
            r#""listen": "tcp://[::1]:1", "target": {"url": "ws://a?host=b", "host": "c"}"#,
            "`host` is given twice",
        ),
        (
            r#""listen": "tcp://[::1]:1""#,
            "forwards[0].target: missing",
        ),
        (r#""listen": 1, "target": "tcp://a:1""#, "expected a URL"),
        (
            r#""listen": {"ur": "tcp://[::1]:1"}, "target": "tcp://a:1""#,
            "forwards[0].listen",
        ),
        (
            r#""listen": "tcp://[::1]:1", "target": "tcp://a:1"}, {"listen": "tcp://[::1]:1", "target": "tcp://b:1""#,
            "forwards[1].listen: TCP [::1]:1 is already used by `forwards[0].listen`",
        ),
    ] {
        let said = failure(
            &format!(r#"{{"forwards": [{{{endpoints}}}]}}"#),
            Role::Forward,
        );
        assert!(said.contains(message), "no {message:?} in\n{said}");
    }
}

#[test]
fn debug_and_summary_show_no_header() {
    let text = r#"{"forwards": [{"listen": "tcp://[::1]:1", "target": "ws://a/?header=X-Key:%20hunter2"}]}"#;
    let config = read(text, Role::Forward);
    let all = format!("{config:?}{}", config.summary());
    assert!(!all.contains("hunter2"), "{all}");
}
