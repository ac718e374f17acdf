//! Orders to a running process: to read its config again, or to leave everything to a new process.

use std::fmt;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Why nothing is done any more.
const ENDING: &str = "the process is ending";

/// Orders that wait to be carried out.
const WAITING: usize = 16;

/// What a reload has changed. Each entry is one listener, server or forward, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// What runs now and did not before.
    pub added: Vec<String>,
    /// What runs with other settings.
    pub changed: Vec<String>,
    /// What accepts nothing new any more.
    pub removed: Vec<String>,
    /// Keys that have changed, and need a restart.
    pub needs_restart: Vec<String>,
    /// What the config was warned of.
    pub warnings: Vec<String>,
}

impl Changes {
    /// Whether everything is as it was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
        ];
        let mut separator = "";
        for (what, list) in parts.into_iter().filter(|(_, list)| !list.is_empty()) {
            write!(f, "{separator}{what}: {}", list.join(", "))?;
            separator = "; ";
        }
        match separator {
            "" => f.write_str("nothing to change"),
            _ => Ok(()),
        }
    }
}

/// What comes of a reload: what has changed, or everything that is wrong with the config, and then nothing has changed.
pub type Reloaded = Result<Changes, Vec<String>>;

/// An order, and where its result goes.
#[derive(Debug)]
pub enum Order {
    /// Read the whole config again.
    Reload(oneshot::Sender<Reloaded>),
    /// Serve a port that a manager names.
    Add(Box<NewPort>, oneshot::Sender<Result<(), String>>),
    /// Serve this port no more.
    Remove(u16, oneshot::Sender<Result<(), String>>),
    /// Say which ports are served.
    Ports(oneshot::Sender<Vec<PortState>>),
    /// Have a new process take over; the result is its id, or why it has not.
    Upgrade(oneshot::Sender<Result<u32, String>>),
}

/// A port as a manager describes it. What it leaves open is as in the config.
#[derive(Clone)]
pub struct NewPort {
    /// The port.
    pub port: u16,
    /// The password or key.
    pub password: Zeroizing<String>,
    /// The method.
    pub method: Option<String>,
    /// `tcp_only`, `udp_only` or `tcp_and_udp`.
    pub mode: Option<String>,
    /// The plugin.
    pub plugin: Option<String>,
    /// Its options.
    pub plugin_opts: Option<String>,
    /// Which of TCP and UDP it carries.
    pub plugin_mode: Option<String>,
    /// Names and keys of users behind identity headers.
    pub users: Vec<(String, Zeroizing<String>)>,
}

/// Without passwords.
impl fmt::Debug for NewPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NewPort").field(&self.port).finish()
    }
}

/// A port that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortState {
    /// The port.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The mode.
    pub mode: String,
    /// Payload bytes that it has relayed, in both directions.
    pub bytes: u64,
}

/// Where orders are given.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// A channel for orders.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Reads the whole config again, and has it used by difference.
    ///
    /// # Errors
    /// Everything that is wrong with it, with file, line and key. Nothing has changed then.
    pub async fn reload(&self) -> Reloaded {
        let ended = || vec!["the process is ending".to_owned()];
        let (done, result) = oneshot::channel();
        let sent = self.0.send(Order::Reload(done)).await;
        sent.map_err(|_| ended())?;
        result.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Has a port served.
    ///
    /// # Errors
    /// Why it is not. Nothing has changed then.
    pub async fn add_port(&self, port: NewPort) -> Result<(), String> {
        let (done, result) = oneshot::channel();
        self.give(Order::Add(Box::new(port), done)).await?;
        result.await.unwrap_or_else(|_| Err(ENDING.to_owned()))
    }

    /// Has a port served no more, and its sessions ended.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn remove_port(&self, port: u16) -> Result<(), String> {
        let (done, result) = oneshot::channel();
        self.give(Order::Remove(port, done)).await?;
        result.await.unwrap_or_else(|_| Err(ENDING.to_owned()))
    }

    /// The ports that are served.
    ///
    /// # Errors
    /// The process is ending.
    pub async fn ports(&self) -> Result<Vec<PortState>, String> {
        let (done, result) = oneshot::channel();
        self.give(Order::Ports(done)).await?;
        result.await.map_err(|_| ENDING.to_owned())
    }

    async fn give(&self, order: Order) -> Result<(), String> {
        let sent = self.0.send(order).await;
        sent.map_err(|_| ENDING.to_owned())
    }

    /// Has a new process take over. Returns its id.
    ///
    /// # Errors
    /// Why it does not. Then this one goes on as before.
    pub async fn upgrade(&self) -> Result<u32, String> {
        let ended = || "the process is ending".to_owned();
        let (done, result) = oneshot::channel();
        let sent = self.0.send(Order::Upgrade(done)).await;
        sent.map_err(|_| ended())?;
        result.await.unwrap_or_else(|_| Err(ended()))
    }
}
