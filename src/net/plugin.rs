//! Plugins: programs between TCP or UDP and Shadowsocks (SIP003, SIP003u).
//!
//! ```text
//! ssr local ── loopback ──> plugin ══ its own protocol ══> plugin ── loopback ──> ssr server
//! ```
//!
//! A plugin learns from its environment where to listen and where to connect. It is started again when it ends, and
//! ends with this process, however that ends.

mod child;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use child::Running;

/// How long a plugin may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// The pause between two looks at whether it listens.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long it must still run after that. If another program has its port, the plugin ends within this time.
const SETTLE: Duration = Duration::from_millis(100);
/// Ports that are tried when others take them before the plugin does.
const PORT_ATTEMPTS: usize = 3;
/// The pauses before a plugin is started again: the first, and the longest. Each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// After a run of this length, the pauses begin anew.
const STABLE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone)]
pub struct Settings {
    /// The name of the program on `PATH`, or its path.
    pub program: Arc<str>,
    /// `SS_PLUGIN_OPTIONS`: `key=value;…`, in which `\` escapes `\`, `;` and `=`.
    pub options: Option<String>,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The host of the server, as in the config.
    pub host: String,
    /// The port of the server.
    pub port: u16,
    /// Which half of the plugin it is.
    pub half: Half,
    /// Whether it carries streams: then it is ready when it accepts one.
    pub streams: bool,
}

/// A half of a plugin.
#[derive(Clone, Copy, Debug)]
pub enum Half {
    /// It listens on a free port of the loopback interface, and connects to the server.
    Client,
    /// It listens as the server at `public`, and connects to us at `inner`.
    Server {
        /// Where its clients connect to.
        public: SocketAddr,
        /// Where we listen.
        inner: SocketAddr,
    },
}

/// Where a client's half listens. The port may change when the plugin is started again.
#[derive(Debug)]
pub struct Entrance(AtomicU16);

impl Entrance {
    /// The address now.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.load(Relaxed)).into()
    }
}

/// Why a plugin does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be started.
    #[error("cannot start the plugin `{program}`: {source} (PATH is {path})")]
    Spawn {
        /// The program.
        program: Arc<str>,
        /// Where it was looked for.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program ended before it was ready.
    #[error(
        "the plugin `{program}` ended before it listened, {status}{}",
        quoted(last_line)
    )]
    Ended {
        /// The program.
        program: Arc<str>,
        /// How it ended.
        status: ExitStatus,
        /// The last line that it wrote.
        last_line: String,
    },
    /// The program runs, and does not listen.
    #[error("the plugin `{program}` does not listen on {address} within {seconds} s")]
    Silent {
        /// The program.
        program: Arc<str>,
        /// Where it should.
        address: SocketAddr,
        /// The limit, in seconds.
        seconds: u64,
    },
    /// The system has no free port, or loses its child.
    #[error("the plugin `{program}` cannot be run: {source}")]
    System {
        /// The program.
        program: Arc<str>,
        /// What the system said.
        source: io::Error,
    },
}

fn quoted(line: &str) -> String {
    match line {
        "" => String::new(),
        line => format!("; it said: {line}"),
    }
}

/// A plugin that runs.
pub struct Plugin {
    settings: Settings,
    running: Running,
    entrance: Arc<Entrance>,
}

impl Plugin {
    /// Starts a plugin, and waits until it is ready. It ends with the thread that starts it, which therefore must live
    /// as long as the process.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let entrance = Arc::new(Entrance(AtomicU16::new(0)));
        let running = settings.launch(&entrance).await?;
        Ok(Self {
            settings,
            running,
            entrance,
        })
    }

    /// Where a client's half listens.
    #[must_use]
    pub const fn entrance(&self) -> &Arc<Entrance> {
        &self.entrance
    }

    /// Keeps it running until `stop` is set, then ends it.
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        tokio::select! {
            () = stopped => {}
            () = self.keep_running() => {}
        }
        self.running.end().await;
    }

    /// Starts it again whenever it ends; does not return.
    async fn keep_running(&mut self) {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            let ended = self.running.ended().await;
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let plugin = &self.settings.program;
            tracing::warn!(%plugin, %how, "the plugin ended; it is started again");
            if began.elapsed() >= STABLE {
                pause = PAUSES.0;
            }
            self.running = loop {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                match self.settings.launch(&self.entrance).await {
                    Ok(running) => break running,
                    Err(error) => tracing::warn!(
                        %error,
                        "the plugin cannot be started again; connections through it fail meanwhile"
                    ),
                }
            };
            let plugin = &self.settings.program;
            tracing::info!(%plugin, "the plugin runs again");
        }
    }
}

impl Settings {
    /// Starts the program and waits until it is ready; notes where it listens in `entrance`. A client's half gets the
    /// port that it had, if it is free.
    async fn launch(&self, entrance: &Entrance) -> Result<Running, Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (local, ready) = match self.half {
                Half::Server { public, inner } => (inner, reachable(public)),
                Half::Client => {
                    let address = self.free_address(entrance.0.load(Relaxed))?;
                    (address, address)
                }
            };
            let error = match self.launch_at(local, ready).await {
                Ok(running) => {
                    entrance.0.store(local.port(), Relaxed);
                    return Ok(running);
                }
                Err(error) => error,
            };
            // If the port is still free, something else was wrong, which another port does not cure.
            let is_taken = matches!(self.half, Half::Client) && !is_free(local);
            if attempts == PORT_ATTEMPTS || !is_taken || !matches!(error, Error::Ended { .. }) {
                return Err(error);
            }
        }
    }

    /// Starts the program with `local` as our side, and waits until it listens at `ready`.
    async fn launch_at(&self, local: SocketAddr, ready: SocketAddr) -> Result<Running, Error> {
        let mut command = Command::new(&*self.program);
        command
            .args(&self.arguments)
            .env("SS_REMOTE_HOST", &self.host)
            .env("SS_REMOTE_PORT", self.port.to_string())
            .env("SS_LOCAL_HOST", local.ip().to_string())
            .env("SS_LOCAL_PORT", local.port().to_string());
        match &self.options {
            Some(options) => command.env("SS_PLUGIN_OPTIONS", options),
            None => command.env_remove("SS_PLUGIN_OPTIONS"),
        };
        let mut running =
            Running::spawn(&self.program, &mut command).map_err(|source| Error::Spawn {
                program: Arc::clone(&self.program),
                path: std::env::var("PATH").unwrap_or_default(),
                source,
            })?;
        let deadline = Instant::now() + START_LIMIT;
        while self.streams && !accepts(ready, deadline).await {
            if Instant::now() >= deadline {
                return Err(Error::Silent {
                    program: Arc::clone(&self.program),
                    address: ready,
                    seconds: START_LIMIT.as_secs(),
                });
            }
            self.must_run(&mut running, LOOK_PAUSE).await?;
        }
        self.must_run(&mut running, SETTLE).await?;
        Ok(running)
    }

    /// Waits for `time`, in which the program must not end.
    async fn must_run(&self, running: &mut Running, time: Duration) -> Result<(), Error> {
        let program = || Arc::clone(&self.program);
        match timeout(time, running.ended()).await {
            Err(_) => Ok(()),
            Ok(Ok(status)) => Err(Error::Ended {
                program: program(),
                status,
                last_line: running.last_line().await,
            }),
            Ok(Err(source)) => Err(Error::System {
                program: program(),
                source,
            }),
        }
    }

    /// A free address of the loopback interface: with the port `wanted`, if it is free.
    fn free_address(&self, wanted: u16) -> Result<SocketAddr, Error> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if wanted != 0 && is_free(at(wanted)) {
            return Ok(at(wanted));
        }
        free_address().map_err(|source| Error::System {
            program: Arc::clone(&self.program),
            source,
        })
    }
}

/// An address of the loopback interface whose port is free for TCP and UDP at this moment.
///
/// # Errors
/// What the system says when it has none.
pub fn free_address() -> io::Result<SocketAddr> {
    loop {
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        if std::net::UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

fn is_free(address: SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok()
}

/// Whether somebody accepts a connection to `address`.
async fn accepts(address: SocketAddr, deadline: Instant) -> bool {
    matches!(
        timeout_at(deadline, TcpStream::connect(address)).await,
        Ok(Ok(_))
    )
}

/// The address by which this machine reaches a listener at `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The plugins of the process. Dropping it kills them.
#[derive(Default)]
pub struct Plugins {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Plugins {
    /// Starts `plugin` again whenever it ends. To be called on the runtime of the thread that started it.
    pub fn keep(&mut self, plugin: Plugin) {
        self.tasks.spawn(plugin.run(self.stop.subscribe()));
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Ends all plugins.
    pub async fn end(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use socket2::{Domain, Socket, Type};

    fn script(text: &str) -> Settings {
        Settings {
            program: "sh".into(),
            options: Some(r"a=\;b".into()),
            arguments: vec!["-c".into(), text.into()],
            host: "example.com".into(),
            port: 443,
            half: Half::Client,
            streams: true,
        }
    }

    async fn error(settings: Settings) -> Error {
        match Plugin::start(settings).await {
            Ok(_) => panic!("it runs"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn environment_is_that_of_sip003() {
        let error = error(script(
            r#"echo "$SS_REMOTE_HOST $SS_REMOTE_PORT $SS_LOCAL_HOST $SS_PLUGIN_OPTIONS"; exit 7"#,
        ))
        .await;
        assert_eq!(
            error.to_string(),
            r"the plugin `sh` ended before it listened, exit status: 7; it said: example.com 443 127.0.0.1 a=\;b"
        );
    }

    #[tokio::test]
    async fn missing_program_is_named_with_path() {
        let settings = Settings {
            program: "no-such-plugin".into(),
            ..script("")
        };
        let text = error(settings).await.to_string();
        assert!(text.contains("`no-such-plugin`"), "{text}");
        let path = std::env::var("PATH").unwrap();
        assert!(text.contains(&path), "{text}");
    }

    #[tokio::test]
    async fn port_that_another_takes_first_is_replaced() {
        // The first port is taken when the program looks, which then ends as one that cannot bind does.
        let seen = std::env::temp_dir().join(format!("ssr-plugin-{}", std::process::id()));
        let text = format!(
            "if [ -e {at} ]; then exec python3 -c 'import os,socket,time
s=socket.create_server((\"127.0.0.1\",int(os.environ[\"SS_LOCAL_PORT\"])))
time.sleep(100)'; fi; echo $SS_LOCAL_PORT > {at}.new; mv {at}.new {at}
while ! [ -e {at}.taken ]; do sleep 0.01; done; exit 1",
            at = seen.display()
        );
        let _ = std::fs::remove_file(&seen);
        let thief = async {
            loop {
                sleep(Duration::from_millis(5)).await;
                let port = std::fs::read_to_string(&seen).unwrap_or_default();
                if let Ok(port) = port.trim().parse::<u16>() {
                    let thief = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    thief.bind(&address.into()).unwrap();
                    std::fs::write(seen.with_extension("taken"), "").unwrap();
                    return (thief, address);
                }
            }
        };
        let (started, (_thief, stolen)) = tokio::join!(Plugin::start(script(&text)), thief);
        std::fs::remove_file(&seen).unwrap();
        std::fs::remove_file(seen.with_extension("taken")).unwrap();
        let plugin = started.unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(plugin.entrance().address(), stolen);
    }
}
