//! The examples of the documents, run as they stand there.
//!
//! Both ends have a namespace with the addresses and free ports that the documents speak of, and a link between them.

use crate::common::{
    self,
    admin::TOKEN,
    eventually,
    matrix::{self, Targets},
    nginx::nginx,
    peers,
    process::Process,
    reverse::{dial, exchange},
    socks::Socks,
};
use crate::docs::{README, commands, configs, genkey, texts};
use crate::emulated::{Link, Namespace, Shape};
use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

const OPERATE: &str = include_str!("../docs/operate.md");
const QUIC: &str = include_str!("../docs/quic.md");
const TRANSPORTS: &str = include_str!("../docs/transports.md");
const FORWARD: &str = include_str!("../docs/forward.md");
const REVERSE: &str = include_str!("../docs/reverse.md");
const TRANSPARENT: &str = include_str!("../docs/transparent.md");
/// Where the documents' server is.
const SERVER: [u8; 4] = [203, 0, 113, 7];

struct Scene {
    directory: tempfile::TempDir,
    // The last to go: it holds the namespaces.
    link: Link,
}

impl Scene {
    fn new() -> Self {
        let link = Link::new(Shape {
            delay: Duration::from_millis(5),
            loss: 0.0,
            rate: 100e6,
            queue: Duration::from_millis(100),
            seed: 1,
        })
        .expect("root, /dev/net/tun and `ip`");
        let scene = Self {
            directory: tempfile::tempdir().unwrap(),
            link,
        };
        scene.shell(&scene.link.b, "ip addr add 203.0.113.7/32 dev lo");
        scene.shell(&scene.link.a, "ip route add 203.0.113.7 dev link0");
        scene
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What a shell at `place` says.
    fn shell(&self, place: &Namespace, line: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(self.path());
        place.place(&mut command).unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        assert!(
            status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&stderr)
        );
        String::from_utf8(stdout).unwrap()
    }

    fn start(&self, place: &Namespace, arguments: &[&str]) -> Process {
        let mut command = peers::ssr(arguments);
        command.current_dir(self.path());
        place.place(&mut command).unwrap();
        Process::spawn("ssr", &mut command).unwrap()
    }

    fn role(&self, place: &Namespace, role: &str, config: &str) -> Process {
        let name = format!("{role}.json");
        fs::write(self.path().join(&name), config).unwrap();
        self.start(place, &[role, "-c", &name])
    }
}

/// Serves every connection to a port at `place`.
fn serve(place: &Namespace, port: u16, serve: impl Fn(TcpStream) + Send + Copy + 'static) {
    let listener = place
        .run(|| TcpListener::bind(("127.0.0.1", port)))
        .unwrap()
        .unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
}

/// Sends a stream and datagrams through the local at `place`.
fn passes(place: &Namespace, targets: &Targets) {
    let exchange = || {
        let socks = Socks::new(([127, 0, 0, 1], 1080).into());
        eventually("local listens", || TcpStream::connect(socks.proxy).is_ok());
        matrix::echoes(&socks, &targets.echo.v4(), 100_000);
        matrix::echoes_datagram(&socks, targets, 1000);
    };
    place.run(exchange).unwrap();
}

fn echo(stream: TcpStream) {
    let _ = io::copy(&mut &stream, &mut &stream);
}

/// Answers one request with a page that has `N` in it.
fn page<const N: u16>(mut stream: TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let body = format!("page {N}");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + &body).as_bytes());
}

fn get(address: SocketAddr, host: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
#[ignore = "needs root: an emulated link"]
fn a_pair_of_the_readme_works_over_link() {
    let scene = Scene::new();
    let (near, far) = (&scene.link.a, &scene.link.b);
    fs::write(
        scene.path().join("config.json"),
        &configs(README, &genkey())[0],
    )
    .unwrap();
    let run = |place: &Namespace, begin: &str| {
        let line = commands(README, begin).remove(0);
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        scene.start(place, &words)
    };
    let mut server = run(far, "ssr server");
    server.running().unwrap();
    let targets = far.run(Targets::start).unwrap();
    let _local = run(near, "ssr local");
    passes(near, &targets);
}

#[test]
#[ignore = "needs root: an emulated link"]
fn reverse_tunnel_of_the_docs_works_over_link() {
    let scene = Scene::new();
    let (near, far) = (&scene.link.a, &scene.link.b);
    let configs = configs(REVERSE, &genkey());
    serve(near, 22, echo);
    serve(near, 80, page::<80>);
    serve(near, 3000, page::<3000>);
    let dns = near
        .run(|| UdpSocket::bind("127.0.0.1:53"))
        .unwrap()
        .unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((len, from)) = dns.recv_from(&mut bytes) {
            let _ = dns.send_to(&bytes[..len], from);
        }
    });
    let _server = scene.role(far, "server", &configs[0]);
    let _local = scene.role(near, "local", &configs[1]);
    // A visitor has an address of its own; here it is the server's.
    far.run(|| {
        let at = |port| SocketAddr::from((SERVER, port));
        eventually("ssh is published", || {
            TcpStream::connect(at(6022))
                .is_ok_and(|mut stream| exchange(&mut stream, b"there").is_ok())
        });
        let page = |host: &str| get(at(8080), host).unwrap_or_default();
        eventually("www is published", || {
            page("www.example.com").contains("page 80")
        });
        eventually("wiki is published", || {
            page("wiki.example.com").contains("page 3000")
        });
        assert!(page("other.example.com").starts_with("HTTP/1.1 404 "));
        let visitor = UdpSocket::bind("0.0.0.0:0").unwrap();
        visitor.set_read_timeout(Some(common::SILENCE)).unwrap();
        eventually("dns is published", || {
            visitor.send_to(b"query", at(6053)).unwrap();
            let mut answer = [0; 100];
            visitor
                .recv(&mut answer)
                .is_ok_and(|len| &answer[..len] == b"query")
        });
        exchange(&mut dial(at(6022)), &[7; 100_000]).unwrap();
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: an emulated link"]
fn tls_of_the_docs_works_over_link() {
    let scene = Scene::new();
    let (near, far) = (&scene.link.a, &scene.link.b);
    let said: Vec<String> = commands(TRANSPORTS, "openssl")
        .iter()
        .map(|line| scene.shell(far, line))
        .collect();
    let pin = said.last().unwrap().trim();
    let config = configs(TRANSPORTS, &genkey())[0].replace("the pin", pin);
    let at_server = config.replace("\"server\": \"203.0.113.7\"", "\"server\": \"::\"");
    let _server = scene.role(far, "server", &at_server);
    let targets = far.run(Targets::start).unwrap();
    let listens = || TcpStream::connect(SocketAddr::from((SERVER, 443))).is_ok();
    far.run(|| eventually("server listens", listens)).unwrap();
    let _local = scene.role(near, "local", &config);
    passes(near, &targets);
}

#[test]
#[ignore = "needs root: an emulated link"]
fn quic_of_the_docs_works_over_link() {
    let scene = Scene::new();
    let (near, far) = (&scene.link.a, &scene.link.b);
    let said: Vec<String> = commands(QUIC, "openssl")
        .iter()
        .map(|line| scene.shell(far, line))
        .collect();
    let pin = said.last().unwrap().trim();
    let [pair, beside, both, ..] = &configs(QUIC, &genkey())[..] else {
        panic!("three configs");
    };
    let client = pair.replace("the pin", pin);
    let beside = beside.replace("the pin", pin);
    let targets = far.run(Targets::start).unwrap();
    let at_all = |config: &str| config.replace("\"server\": \"203.0.113.7\"", "\"server\": \"::\"");
    for at_server in [&at_all(&client), both] {
        let _server = scene.role(far, "server", at_server);
        let _local = scene.role(near, "local", &client);
        passes(near, &targets);
    }
    let _server = scene.role(far, "server", &at_all(&beside));
    for is_blocked in [false, true] {
        if is_blocked {
            scene.shell(near, "nft 'table inet block { chain out { type filter hook output priority 0; oif link0 meta l4proto udp drop; }; }'");
        }
        let _local = scene.role(near, "local", &beside);
        passes(near, &targets);
    }
}

#[test]
#[ignore = "needs root: an emulated link"]
fn forwards_of_the_docs_work_over_link() {
    let scene = Scene::new();
    let place = &scene.link.b;
    serve(place, 8080, echo);
    // Each runs; the two with WebSocket between them are tried as one.
    let run = |line: &String| {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let mut process = scene.start(place, &words);
        process.running().unwrap();
        process
    };
    let lines = commands(FORWARD, "ssr forward");
    let running: Vec<Process> = lines.iter().take(4).map(run).collect();
    assert_eq!(running.len(), 4);
    place
        .run(|| exchange(&mut dial(([127, 0, 0, 1], 8082).into()), &[7; 100_000]))
        .unwrap()
        .unwrap();
}

/// Two things of the documents need the world and are filled in: the name's address, and an authority for its certificate.
#[test]
#[ignore = "needs root and nginx: an emulated link"]
fn nginx_of_the_docs_passes_both_over_link() {
    let scene = Scene::new();
    let (near, far) = (&scene.link.a, &scene.link.b);
    let at = scene.path().display();
    scene.shell(
        far,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=web \
         -addext subjectAltName=DNS:www.example.com -keyout privkey.pem -out fullchain.pem",
    );
    let site = texts(TRANSPORTS, "nginx")[0]
        .replace("/etc/letsencrypt/live/www.example.com", &at.to_string());
    let (site, end) = site.rsplit_once('}').unwrap();
    let http = format!("{site}{}}}{end}", texts(FORWARD, "nginx")[0]);
    let mut command = nginx(scene.path(), &http);
    far.place(&mut command).unwrap();
    let _nginx = Process::spawn("nginx", &mut command).expect("scripts/test installs nginx");

    let configs = configs(TRANSPORTS, &genkey());
    let mut server = scene.role(far, "server", &configs[1]);
    server.running().unwrap();
    let laptop = configs[2]
        .replace(
            "\"server\": \"www.example.com\"",
            "\"server\": \"203.0.113.7\"",
        )
        .replace(
            "\"tls\": true",
            "\"host\": \"www.example.com\", \"tls\": {\"ca\": \"fullchain.pem\"}",
        );
    let targets = far.run(Targets::start).unwrap();
    let listens = |port: u16| move || TcpStream::connect(SocketAddr::from((SERVER, port))).is_ok();
    far.run(|| eventually("nginx listens", listens(443)))
        .unwrap();
    let _local = scene.role(near, "local", &laptop);
    passes(near, &targets);

    serve(far, 8080, echo);
    let forwarder = |place: &Namespace, begin: &str, cdn: &str| {
        let lines = commands(FORWARD, begin);
        let line = lines.iter().find(|line| line.contains("/tunnel"));
        let line = line.unwrap().replace("wss://cdn.example/tunnel", cdn);
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let mut process = scene.start(place, &words);
        process.running().unwrap();
        process
    };
    let _far = forwarder(far, "ssr forward ws://127.0.0.1:8081/tunnel", "");
    let cdn = "wss://203.0.113.7/tunnel?host=www.example.com&ca=fullchain.pem";
    let _near = forwarder(near, "ssr forward tcp://127.0.0.1:8082 wss:", cdn);
    near.run(|| exchange(&mut dial(([127, 0, 0, 1], 8082).into()), &[7; 100_000]))
        .unwrap()
        .unwrap();
}

#[test]
#[ignore = "needs root: an emulated link"]
fn transparent_proxy_of_the_docs_works_over_link() {
    let scene = Scene::new();
    let (near, far) = (&scene.link.a, &scene.link.b);
    let config = configs(TRANSPARENT, &genkey()).remove(0);
    fs::write(scene.path().join("config.json"), &config).unwrap();
    let mut server = scene.start(far, &["server", "-c", "config.json"]);
    let mut local = scene.start(near, &["local", "-c", "config.json"]);
    server.running().unwrap();
    local.running().unwrap();
    // A page that only the far machine has, at an address that only its own programs reach.
    scene.shell(
        far,
        "ip addr add 198.51.100.7/32 dev lo; iptables -A INPUT -i link0 -d 198.51.100.7 -j DROP",
    );
    scene.shell(near, "ip route add default dev link0");
    let serve = || {
        let listener = TcpListener::bind("198.51.100.7:80").unwrap();
        thread::spawn(move || listener.incoming().flatten().for_each(page::<80>));
    };
    far.run(serve).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_ssr")).parent().unwrap();
    let path = format!("PATH={}:$PATH", binary.display());
    for command in commands(TRANSPARENT, "ssr redir-rules") {
        scene.shell(near, &format!("{path}; {command}"));
    }
    let got = near.run(|| get(([198, 51, 100, 7], 80).into(), "a.example"));
    assert!(got.unwrap().unwrap().contains("page 80"));
}

#[test]
fn rules_of_the_docs_are_as_they_are_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs::write(&path, &configs(TRANSPARENT, &genkey())[0]).unwrap();
    let printed = peers::ssr(&["redir-rules", "-c", path.to_str().unwrap()]).output();
    let printed = String::from_utf8(printed.unwrap().stdout).unwrap();
    assert_eq!(texts(TRANSPARENT, "nft"), [printed]);
}

#[test]
#[ignore = "needs root: an emulated link"]
fn admin_api_of_the_docs_answers_over_link() {
    let scene = Scene::new();
    let place = &scene.link.b;
    let mut configs = configs(OPERATE, &genkey()).into_iter();
    let config = configs.find(|config| config.contains("ADMIN_TOKEN"));
    let config = config.unwrap();
    fs::write(scene.path().join("config.json"), config).unwrap();
    let mut command = peers::ssr(&["server", "-c", "config.json"]);
    command.current_dir(scene.path()).env("ADMIN_TOKEN", TOKEN);
    place.place(&mut command).unwrap();
    let mut server = Process::spawn("ssr", &mut command).unwrap();
    server.running().unwrap();
    let lines = commands(OPERATE, "curl ");
    assert_eq!(lines.len(), 3);
    let answers = lines
        .iter()
        .map(|line| scene.shell(place, &line.replace("$ADMIN_TOKEN", TOKEN)));
    let answers: Vec<String> = answers.collect();
    assert!(answers[0].contains("\"role\":\"server\""), "{answers:?}");
    assert_eq!(answers[1], "{\"level\":\"debug\"}");
    assert!(answers[2].contains("shadowsocks_keys 1"), "{answers:?}");
}
