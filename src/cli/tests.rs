#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::command::{Cli, Command};
use super::names::Invocation;
use super::request::Request;
use super::roles::host_and_port;
use clap::CommandFactory;
use std::ffi::OsString;

/// The flags of a role, by the name of its program.
fn request(line: &str) -> Result<Request, String> {
    let line: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    match Invocation::parse(&line).map_err(|error| error.to_string())? {
        Invocation::Command(Command::Local(args)) => args.request(),
        Invocation::Command(Command::Server(args)) => args.request(),
        Invocation::Local(request) | Invocation::Server(request) => request,
        _ => panic!("no role"),
    }
}

#[test]
fn flags_do_not_clash() {
    Cli::command().debug_assert();
}

#[test]
fn flags_of_shadowsocks_rust_are_taken() {
    for args in [
        "ssr local -b 127.0.0.1:1080 -s [::1]:8388 -m aes-256-gcm -k hello --timeout 30 -U -vvv",
        "ssr local -c x.json --protocol socks -b [::]:1 --udp-bind-addr 0.0.0.0:2 --udp-associate-addr 192.0.2.1:3",
        "ssr local --server-url ss://x --dns google --dns-cache-size 0 --tcp-no-delay --no-delay -6",
        "ssr server -s [::]:8388 -m aes-256-gcm -k x -u -b 192.0.2.1 --fast-open --mptcp --plugin-opts= --nofile 99",
        "ssr server -c x --inbound-send-buffer-size 1 --outbound-recv-buffer-size 2 --outbound-fwmark 3 -n 4",
        "ssr server -c x --single-threaded --log-without-time --bind-addr 192.0.2.1 --udp-max-associations 5",
    ] {
        let known = request(args);
        assert!(
            known.is_ok() || args.contains("ss://x"),
            "{args}: {:?}",
            known.err()
        );
    }
}

#[test]
fn flags_without_use_here_are_refused_with_a_reason() {
    for (args, error) in [
        (
            "ssr server -c x --log-config y",
            "--log-config: log4rs files are not read: use `log.writers` in the config",
        ),
        (
            "ssr local -c x --vpn",
            "--vpn: only the Android app uses it",
        ),
        (
            "sslocal -c x --stat-path y",
            "--stat-path: only the Android app uses it",
        ),
        (
            "ss-local -c x -A",
            "-A: one-time authentication was withdrawn in 2017",
        ),
    ] {
        assert_eq!(request(args).err().unwrap(), error);
    }
}

#[test]
fn a_password_needs_its_server() {
    assert!(request("ssr local -k x").is_err());
    assert!(request("ssr local -s a:1").is_err());
    assert!(request("ssr local -s a:1 -m aes-256-gcm -u -U").is_err());
}

#[test]
fn flags_of_a_listener_need_its_address() {
    // Alone, they would put a listener without login in place of those of the config.
    for flag in [
        "--protocol socks",
        "--udp-bind-addr 127.0.0.1:1081",
        "--udp-associate-addr 192.0.2.1",
    ] {
        let error = request(&format!("ssr local -c x {flag}")).err().unwrap();
        assert!(error.contains("--local-addr <HOST:PORT>"), "{error}");
        assert!(request(&format!("ssr local -c x -b 127.0.0.1:1080 {flag}")).is_ok());
    }
}

#[test]
fn addresses_are_split_at_the_port() {
    assert_eq!(host_and_port("[::1]:80"), ("[::1]", Some("80")));
    assert_eq!(host_and_port("::1"), ("::1", None));
    assert_eq!(host_and_port("a:80"), ("a", Some("80")));
    assert_eq!(host_and_port("a"), ("a", None));
}

#[test]
fn every_flag_of_shadowsocks_rust_is_known() {
    for args in [
        "sslocal -c x --acl y -d --daemonize-pid z -a nobody --plugin-mode tcp_only --plugin p -s a:1 -m m",
        "sslocal -c x -b a:1 --protocol tunnel -f b:2 --tcp-redir tproxy --udp-redir tproxy --local-dns-addr 192.0.2.1:53",
        "sslocal -c x -b a:1 --protocol dns --remote-dns-addr 192.0.2.1:53",
        "sslocal -c x --protocol tun --tun-interface-name t --tun-interface-address 10.0.0.1/8",
        "sslocal -c x --protocol tun --tun-interface-destination 10.0.0.2/8 --tun-device-fd-from-path /p",
        "sslocal -c x -b a:1 --protocol fake-dns --fake-dns-record-expire-duration 9 --fake-dns-database-path /p",
        "sslocal -c x -b a:1 --protocol fake-dns --fake-dns-ipv4-network 10.0.0.0/8 --fake-dns-ipv6-network fc00::/7",
        "sslocal --online-config-url https://x --online-config-update-interval 9 --online-config-allowed-plugin p",
        "ssserver -c x --outbound-proxy socks5://a:1 --outbound-proxy http://b:2",
        "ssmanager -c x --acl y -d --daemonize-pid z -a nobody -s 127.0.0.1 -m m -b 127.0.0.2 --manager-address 127.0.0.1:1 -U",
    ] {
        assert!(request(args).is_ok(), "{args}: {:?}", request(args).err());
    }
}

#[test]
fn no_flag_of_shadowsocks_rust_is_an_unknown_argument() {
    let common = "config acl dns dns-cache-size tcp-no-delay no-delay tcp-fast-open fast-open tcp-keep-alive \
        tcp-multipath mptcp udp-timeout udp-max-associations inbound-send-buffer-size inbound-recv-buffer-size \
        outbound-send-buffer-size outbound-recv-buffer-size outbound-bind-addr bind-addr outbound-bind-interface \
        outbound-fwmark outbound-user-cookie log-without-time log-config nofile daemonize daemonize-pid user \
        single-threaded worker-threads plugin plugin-opts plugin-mode timeout server-addr password encrypt-method \
        outbound-proxy version help";
    let local = "local-addr protocol udp-bind-addr udp-associate-addr server-url forward-addr tcp-redir udp-redir \
        local-dns-addr remote-dns-addr tun-interface-name tun-interface-address tun-interface-destination \
        tun-device-fd-from-path fake-dns-record-expire-duration fake-dns-ipv4-network fake-dns-ipv6-network \
        fake-dns-database-path online-config-url online-config-update-interval online-config-allowed-plugin \
        stat-path stat-addr vpn dns-addr";
    let server = "manager-addr manager-address";
    let url = "encode decode qrcode outline";
    for (name, flags) in [
        ("sslocal", format!("{common} {local}")),
        ("ssserver", format!("{common} {server}")),
        ("ssurl", url.to_owned()),
    ] {
        let short = match name {
            "ssurl" => "-e -d -c -o",
            "sslocal" => "-c -6 -v -n -d -a -m -u -U -s -k -b -f -V -h",
            _ => "-c -6 -v -n -d -a -m -u -U -s -k -b -V -h",
        };
        let long = flags.split_whitespace().map(|flag| format!("--{flag}"));
        for flag in long.chain(short.split(' ').map(str::to_owned)) {
            let line = [OsString::from(name), OsString::from(&flag)];
            let unknown = Invocation::parse(&line)
                .err()
                .is_some_and(|error| error.kind() == clap::error::ErrorKind::UnknownArgument);
            assert!(!unknown, "{name} {flag}");
        }
    }
}

#[test]
fn every_flag_of_shadowsocks_libev_is_known() {
    let all = "-s a -s b -p 1 -l 2 -b 127.0.0.1 -k p --password q --key r -m m -f x -t 9 -c y -i lo -a nobody -n 99 -u -U -6 -v \
        --fast-open --reuse-port --no-delay --mptcp --mtu 1400 --acl z --plugin o --plugin-opts p";
    let all = all.replace("-k p --password q", "--password q");
    for (name, more) in [
        ("ss-local", ""),
        ("ss-server", "-d 8.8.8.8,1.1.1.1"),
        (
            "ss-manager",
            "-d 8.8.8.8 --manager-address /x --executable y --workdir z",
        ),
        ("ss-tunnel", "-L a:53"),
        ("/usr/bin/ss-redir", "-T"),
    ] {
        let request = request(&format!("{name} {all} {more}"));
        assert!(request.is_ok(), "{name}: {:?}", request.err());
        assert!(request.unwrap().daemon.is_some());
    }
}
