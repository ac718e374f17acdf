//! The admin API, on a thread of its own.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::oneshot;

use super::error::Error;
use super::log;
use super::services::listen_address;
use crate::config::{self, Config, Secret, ServerUrl, Tls};
use crate::control::admin::{Actions, MakeLink, Server};
use crate::control::facts::Facts;
use crate::control::orders::Orders;
use crate::dns::Resolver;
use crate::net::listener::{self, Acceptor, Group, Listener};
use crate::net::passed::{Passed, Wanted};
use crate::net::{SocketOptions, tls};

/// The admin API, bound and not yet serving.
pub(super) struct Admin {
    listener: Listener,
    tls: Option<tls::Server>,
}

impl Admin {
    /// Binds what `admin` of the config says; `None`: there is no such key.
    /// An earlier process may have passed the socket.
    pub(super) async fn bind(
        config: &Config,
        resolver: &Resolver,
        passed: &Passed,
    ) -> Result<Option<Self>, Error> {
        let Some(admin) = &config.admin else {
            return Ok(None);
        };
        let address = listen_address(&admin.address, resolver).await?;
        let tls = admin.tls.as_ref().map(layer).transpose()?;
        let (wanted, options) = (Wanted::Address(address), SocketOptions::default());
        let system = || Error::system("cannot use a socket that was passed for the admin API");
        let mut listener = match passed.is_inherited() {
            true => passed.take_streams(wanted, 1, &options).map_err(system())?,
            false => Vec::new(),
        }
        .into_iter()
        .next();
        if listener.is_none() {
            let bound = listener::tcp(address, 1, Group::default(), &options)?;
            listener = bound.into_iter().next().map(Listener::from);
            if let Some(listener) = &listener {
                passed.note_used(wanted, listener).map_err(system())?;
            }
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!(url = %format_args!("{scheme}://{address}/"), "admin: listening");
        Ok(listener.map(|listener| Self { listener, tls }))
    }

    /// Serves until the process ends. The workers never wait for it.
    pub(super) fn start(
        self,
        config: &Config,
        facts: Facts,
        orders: Orders,
    ) -> io::Result<Serving> {
        let token = config.admin.as_ref();
        let token = token.and_then(|admin| admin.token.as_ref());
        let token = token.map(|token| token.expose());
        let actions = Actions {
            set_level: log::set_level,
            link: links(config),
            orders,
        };
        let server = Server::new(token, self.tls, facts, actions);
        let reactor = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = self.listener;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("admin".to_owned());
        let thread = thread.spawn(move || {
            reactor.block_on(async move {
                let acceptor = match Acceptor::new(listener) {
                    Ok(acceptor) => acceptor,
                    Err(error) => {
                        tracing::error!(%error, "admin: the listener cannot be used");
                        return;
                    }
                };
                tokio::select! {
                    () = server.serve(acceptor) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Serving { end, thread })
    }
}

/// The thread of the admin API.
pub(super) struct Serving {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Serving {
    /// Ends it.
    pub(super) fn end(self) {
        drop(self.end);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the admin API panicked");
        }
    }
}

/// What makes the `ss://` URLs of users, with the ports and plugins of the config.
fn links(config: &Config) -> MakeLink {
    let servers = config.servers.iter();
    let ports: Vec<_> = servers
        .map(|server| (server.name.clone(), server.address.port()))
        .collect();
    let file = config.file.clone();
    Box::new(move |of| {
        let (_, port) = ports.iter().find(|(name, _)| *name == of.server)?;
        // Another URL of the same server says how it is reached.
        let env = |variable: &str| std::env::var(variable).ok();
        let shared = file
            .as_ref()
            .and_then(|file| config::share(file, Some(of.host), &env).ok());
        let mut urls = shared.unwrap_or_default().urls.into_iter();
        let beside = urls.find(|url| url.address.port() == *port)?;
        let url = ServerUrl {
            method: of.method.name().to_owned(),
            password: Secret::from(of.password.to_owned()),
            name: Some(of.name.to_owned()),
            ..beside
        };
        Some(url.encode())
    })
}

fn layer(tls: &Tls) -> Result<tls::Server, Error> {
    let (cert, key) = tls.identity.clone().unwrap_or_else(|| {
        // The config requires both; this is never used.
        (tls::Pem::Text(Vec::new()), tls::Pem::Text(Vec::new()))
    });
    let at = tls.at.clone();
    tls::Server::new(cert, key).map_err(|source| Error::Tls { at, source })
}
