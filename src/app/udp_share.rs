//! The files that datagrams and public ports may take, so that connections have theirs.

use std::num::NonZeroUsize;

use crate::config::{Config, Protocol, Role, Scheme};
use crate::limits::MAX_PUBLIC_PORTS;
use crate::relay::link::limits::MAX_FLOWS;
use crate::relay::udp::{capacity_for, with_ending};
use crate::wire::reverse;

/// Where files are few, one in this many is for UDP associations, UDP flows of reverse tunnels and public ports together.
const SHARE: u64 = 4;

/// How many of each there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UdpShare {
    /// UDP associations of one listener.
    pub(super) associations: NonZeroUsize,
    /// UDP flows of one link of `ssr local`.
    pub(super) flows: NonZeroUsize,
    /// Public ports of all links of `ssr server`.
    pub(super) ports: usize,
    /// The files of all of them.
    files: u64,
}

/// What a config has that needs such files.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    listeners: usize,
    /// UDP associations of one listener.
    associations: usize,
    /// Files of one association.
    cost: usize,
    links: usize,
    publishes: bool,
}

impl UdpShare {
    /// What `config` asks for, reduced to what its share of `files` is enough for. `None`: files are not limited.
    pub(super) fn of(config: &Config, files: Option<u64>) -> Self {
        Self::with(Needs::of(config), files)
    }

    /// What is left of `files` for connections.
    pub(super) fn left(&self, files: Option<u64>) -> Option<u64> {
        files.map(|files| files.saturating_sub(self.files))
    }

    fn with(needs: Needs, files: Option<u64>) -> Self {
        let share = files.map_or(u64::MAX, |files| files / SHARE);
        let whole = Self::whole(needs);
        if whole.files <= share {
            return whole;
        }
        let parts = needs.listeners + needs.links + usize::from(needs.publishes);
        let part = usize::try_from(share).unwrap_or(usize::MAX) / parts.max(1);
        let enough = |files| NonZeroUsize::new(capacity_for(files)).unwrap_or(NonZeroUsize::MIN);
        Self {
            associations: whole.associations.min(enough(part / needs.cost.max(1))),
            flows: whole.flows.min(enough(part)),
            ports: whole.ports.min(part.max(1)),
            files: share,
        }
    }

    /// All that is asked for.
    fn whole(needs: Needs) -> Self {
        let ports = if needs.publishes { MAX_PUBLIC_PORTS } else { 0 };
        let sockets = with_ending(needs.associations).saturating_mul(needs.cost);
        let files = sockets
            .saturating_mul(needs.listeners)
            .saturating_add(needs.links.saturating_mul(with_ending(MAX_FLOWS)))
            .saturating_add(ports);
        Self {
            associations: NonZeroUsize::new(needs.associations).unwrap_or(NonZeroUsize::MIN),
            flows: NonZeroUsize::new(MAX_FLOWS).unwrap_or(NonZeroUsize::MIN),
            ports,
            files: u64::try_from(files).unwrap_or(u64::MAX),
        }
    }
}

impl Needs {
    fn of(config: &Config) -> Self {
        let reverse = &config.reverse;
        let publishes_udp = reverse
            .services
            .iter()
            .any(|service| service.protocol == reverse::Protocol::Udp);
        let forwards = config.forwards.iter();
        let forwards = forwards.filter(|forward| forward.listen.scheme == Scheme::Udp);
        let relays = |local: &&crate::config::Local| {
            let has_relay = !matches!(
                local.protocol,
                Protocol::Http | Protocol::Dns | Protocol::FakeDns
            );
            local.mode.udp && has_relay
        };
        let own = match config.role {
            Role::Local => config.locals.iter().filter(relays).count(),
            Role::Server => config
                .servers
                .iter()
                .filter(|server| server.mode.udp)
                .count(),
            Role::Forward => 0,
        };
        let hops = config.servers.iter().map(|server| server.proxies.len());
        Self {
            listeners: own + forwards.count(),
            associations: config.limits.udp_associations,
            // A SOCKS5 proxy relays datagrams as long as it has a stream of ours.
            cost: 1 + hops.max().unwrap_or(0),
            links: if publishes_udp && config.role == Role::Local {
                reverse.links.most()
            } else {
                0
            },
            publishes: config.role == Role::Server && !reverse.allow.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs {
        Needs {
            listeners: 1,
            associations: 4096,
            cost: 1,
            links: 0,
            publishes: false,
        }
    }

    #[test]
    fn associations_have_what_they_ask_for_where_files_are_enough() {
        for files in [None, Some(1 << 20)] {
            let share = UdpShare::with(needs(), files);
            assert_eq!(share.associations.get(), 4096);
            let left = files.map(|files| files - u64::try_from(with_ending(4096)).unwrap_or(0));
            assert_eq!(share.left(files), left);
        }
    }

    #[test]
    fn connections_keep_three_quarters_of_few_files() {
        for files in [16, 64, 256, 1024, 4096] {
            for listeners in [1, 2, 5] {
                let needs = Needs {
                    listeners,
                    links: 1,
                    publishes: true,
                    ..needs()
                };
                let share = UdpShare::with(needs, Some(files));
                assert_eq!(share.left(Some(files)), Some(files - files / SHARE));
                let sockets = listeners * with_ending(share.associations.get())
                    + with_ending(share.flows.get())
                    + share.ports;
                let few = 7 * with_ending(1);
                let bound = usize::try_from(files / SHARE).unwrap_or(0);
                assert!(sockets <= bound.max(few), "{files}: {sockets}");
            }
        }
    }

    #[test]
    fn nothing_is_set_aside_for_what_is_not_there() {
        let none = Needs {
            listeners: 0,
            ..needs()
        };
        assert_eq!(UdpShare::with(none, Some(256)).left(Some(256)), Some(256));
    }
}
