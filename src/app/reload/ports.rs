//! Ports that a manager adds and removes.

use std::sync::Arc;

use super::{Reloader, texts};
use crate::app::sandbox;
use crate::config::{Config, ManagedPort, Secret, Server};
use crate::control::orders::{NewPort, PortState};
use crate::limits::MAX_MANAGER_PORTS;
use crate::relay::users::Table;

impl Reloader {
    /// Serves a port that a manager has added. One that is served already is served in this way from now on.
    ///
    /// # Errors
    /// Why it is not. Nothing has changed then.
    pub(in crate::app) async fn add_port(&mut self, new: NewPort) -> Result<(), String> {
        let new = described(new);
        let port = new.port;
        let is_known = self.ports.iter().any(|known| known.port == port);
        if !is_known && self.ports.len() >= MAX_MANAGER_PORTS {
            return Err(format!(
                "port {port}: a manager can add {MAX_MANAGER_PORTS} ports"
            ));
        }
        let mut config = self.config.clone();
        let is_replaced = !servers_of(&config, port).is_empty();
        place(&mut config, &new).map_err(|errors| errors.join("; "))?;
        let mut both = servers_of(&self.config, port);
        both.extend(servers_of(&config, port));
        if is_replaced && both.iter().any(|server| server.plugin.is_some()) {
            return Err(format!(
                "port {port} is served already, and its plugin has the port: remove it first"
            ));
        }
        if let Some(refused) = sandbox::refused(&config) {
            return Err(format!("port {port}: {refused}"));
        }
        let changes = self.apply(config).await;
        let changes = changes.map_err(|errors| format!("port {port}: {}", errors.join("; ")))?;
        self.ports.retain(|known| known.port != port);
        self.ports.push(new);
        tracing::info!("manager: {changes}");
        Ok(())
    }

    /// Serves a port no more, and ends its sessions.
    ///
    /// # Errors
    /// Why it is served still.
    pub(in crate::app) async fn remove_port(&mut self, port: u16) -> Result<(), String> {
        let servers = servers_of(&self.config, port);
        if servers.is_empty() {
            return Err(format!("port {port} is not served"));
        }
        let tables: Vec<Arc<Table>> = servers
            .into_iter()
            .filter_map(|server| self.shares.kept.table(server))
            .collect();
        let mut config = self.config.clone();
        config
            .servers
            .retain(|server| server.address.port() != port);
        let changes = self.apply(config).await;
        let changes = changes.map_err(|errors| format!("port {port}: {}", errors.join("; ")))?;
        for table in tables {
            self.shares.counters.users.remove(&table);
        }
        self.ports.retain(|known| known.port != port);
        tracing::info!("manager: {changes}");
        Ok(())
    }

    /// The ports that are served, and what they have relayed.
    pub(in crate::app) fn ports(&self) -> Vec<PortState> {
        let mut ports: Vec<PortState> = Vec::new();
        for server in &self.config.servers {
            let table = self.shares.kept.table(server);
            let users = table.map(|table| table.users()).unwrap_or_default();
            let totals = users.iter().map(|user| user.totals());
            let bytes = totals.map(|totals| totals.up + totals.down).sum();
            let port = server.address.port();
            // A port of several addresses is one, and they stand side by side.
            match ports.last_mut().filter(|last| last.port == port) {
                Some(last) => last.bytes += bytes,
                None => ports.push(PortState {
                    port,
                    method: server.method.to_string(),
                    mode: server.mode.name().to_owned(),
                    bytes,
                }),
            }
        }
        ports
    }

    /// Adds to a config that was read again what a manager has added.
    ///
    /// # Errors
    /// What does not go together with it.
    pub(super) fn keep_ports(&self, config: &mut Config) -> Result<(), Vec<String>> {
        self.ports.iter().try_for_each(|port| place(config, port))
    }
}

fn described(new: NewPort) -> ManagedPort {
    let secret = |text: &str| Secret::from(text.to_owned());
    let users = new.users.iter();
    ManagedPort {
        port: new.port,
        password: secret(&new.password),
        users: users
            .map(|(name, password)| (name.clone(), secret(password)))
            .collect(),
        method: new.method,
        mode: new.mode,
        plugin: new.plugin,
        plugin_opts: new.plugin_opts,
        plugin_mode: new.plugin_mode,
    }
}

fn servers_of(config: &Config, port: u16) -> Vec<&Server> {
    let servers = config.servers.iter();
    servers
        .filter(|server| server.address.port() == port)
        .collect()
}

/// Has `config` serve a port as a manager describes it.
fn place(config: &mut Config, new: &ManagedPort) -> Result<(), Vec<String>> {
    let port = new.port;
    let Some(manager) = &config.manager else {
        return Err(vec![format!(
            "port {port}: a manager has added it, and there is none"
        )]);
    };
    let servers = manager.servers(new).map_err(|found| {
        let errors = texts(found).into_iter();
        errors
            .map(|error| format!("port {port} of the manager: {error}"))
            .collect::<Vec<_>>()
    })?;
    config
        .servers
        .retain(|server| server.address.port() != port);
    config.servers.extend(servers);
    Ok(())
}
