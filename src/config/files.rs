//! The files that a config names.

use std::path::{Path, PathBuf};

use super::{Config, ManagerAddress, Place, Sink, SiteSource, Tls, TunDevice};
use crate::net::tls::Pem;

/// The files and directories that a process with this config uses, each as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Those that it reads.
    pub read: Vec<PathBuf>,
    /// Those that it makes, changes or removes.
    pub write: Vec<PathBuf>,
}

impl Config {
    /// The files and directories that it names, and itself.
    #[must_use]
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        files.read.extend(self.file.clone());
        files.of_rules(self);
        files.of_tls(self);
        files.of_listeners(self);
        files.write.extend(self.state.clone());
        for writer in &self.log.writers {
            if let Sink::File { directory, .. } = &writer.sink {
                files.write.push(directory.clone());
            }
        }
        if let Some(manager) = &self.manager
            && let ManagerAddress::Path(path) = &manager.address
        {
            files.write.push(path.clone());
        }
        files
    }

    /// Whether it may start programs, as plugins.
    #[must_use]
    pub fn has_plugins(&self) -> bool {
        let online = self.online.iter();
        let mut may_come = online.filter(|online| !online.allowed_plugins.is_empty());
        self.servers.iter().any(|server| server.plugin.is_some()) || may_come.next().is_some()
    }
}

impl Files {
    fn of_rules(&mut self, config: &Config) {
        for rules in config.live_rules() {
            let source = rules.source();
            let files = source.files().into_iter();
            self.read.extend(files.map(Path::to_path_buf));
        }
    }

    fn of_tls(&mut self, config: &Config) {
        let transports = config
            .servers
            .iter()
            .filter_map(|one| one.transport.as_ref());
        for transport in transports {
            self.tls(transport.tls.as_ref());
            if let Some(site) = &transport.site {
                self.site(&site.source);
            }
        }
        for hop in config.servers.iter().flat_map(|server| &server.proxies) {
            self.pem(hop.trust.ca.as_ref());
        }
        let of_forwards = config
            .forwards
            .iter()
            .flat_map(|one| [&one.listen, &one.target]);
        let of_sites = config.sites.iter().map(|site| &site.listen);
        for endpoint in of_forwards.chain(of_sites) {
            self.tls(endpoint.ws.as_ref().and_then(|ws| ws.tls.as_ref()));
        }
        for site in &config.sites {
            self.site(&site.site.source);
        }
        self.tls(config.admin.as_ref().and_then(|admin| admin.tls.as_ref()));
    }

    fn of_listeners(&mut self, config: &Config) {
        for local in &config.locals {
            self.read.extend(local.auth_file.clone());
            self.read.extend(local.http_auth_file.clone());
            if let Place::Path(path, _) = &local.address {
                self.write.push(path.clone());
            }
            if let Some(names) = &local.fake_dns {
                self.write.push(names.file.clone());
            }
            if let Some(tun) = &local.tun
                && let TunDevice::FromPath(path) = &tun.device
            {
                self.write.push(path.clone());
            }
        }
    }

    fn tls(&mut self, tls: Option<&Tls>) {
        let Some(tls) = tls else { return };
        self.pem(tls.trust.ca.as_ref());
        if let Some((chain, key)) = &tls.identity {
            self.pem(Some(chain));
            self.pem(Some(key));
        }
    }

    fn pem(&mut self, pem: Option<&Pem>) {
        if let Some(Pem::File(path)) = pem {
            self.read.push(path.clone());
        }
    }

    fn site(&mut self, source: &SiteSource) {
        if let SiteSource::Root(root) = source {
            self.read.push(root.clone());
        }
    }
}
