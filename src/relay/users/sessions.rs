//! The sessions that a user has now.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;

use super::limits::{Limits, Refusal};
use super::live::{Live, LiveSession, Protocol};

/// How many there are, from where, and who is to be woken when one may not go on.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    tcp: u32,
    udp: u32,
    /// How many come from each address; as many entries as sessions at most.
    by_ip: HashMap<IpAddr, u32>,
    /// Those that run; empty places are used again.
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    live: Arc<Live>,
    waker: Option<Waker>,
}

impl Sessions {
    pub(super) fn counts(&self) -> (u32, u32, u32) {
        let ips = u32::try_from(self.by_ip.len()).unwrap_or(u32::MAX);
        (self.tcp, self.udp, ips)
    }

    /// The addresses of the clients, as they are counted.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.by_ip.keys().copied().collect()
    }

    /// Counts a session of the client at `peer`. Returns its place.
    pub(super) fn begin(
        &mut self,
        peer: SocketAddr,
        target: Arc<str>,
        protocol: Protocol,
        limits: &Limits,
    ) -> Result<(usize, Arc<Live>), Refusal> {
        let ip = device(peer.ip());
        if protocol.counts() {
            self.count(ip, protocol, limits)?;
        }
        let live = Arc::new(Live::new(peer, ip, target, protocol));
        let entry = Entry {
            live: Arc::clone(&live),
            waker: None,
        };
        let place = self.free.pop().unwrap_or(self.entries.len());
        match self.entries.get_mut(place) {
            Some(room) => *room = Some(entry),
            None => self.entries.push(Some(entry)),
        }
        Ok((place, live))
    }

    fn count(&mut self, ip: IpAddr, protocol: Protocol, limits: &Limits) -> Result<(), Refusal> {
        let now = self.tcp.saturating_add(self.udp);
        if limits.max_connections.is_some_and(|most| now >= most) {
            return Err(Refusal::Connections);
        }
        let ips = self.by_ip.len();
        let is_new = !self.by_ip.contains_key(&ip);
        if is_new && limits.max_ips.is_some_and(|most| !is_below(ips, most)) {
            return Err(Refusal::Addresses);
        }
        *self.by_ip.entry(ip).or_default() += 1;
        *self.kind(protocol) += 1;
        Ok(())
    }

    /// Forgets a session.
    pub(super) fn end(&mut self, place: usize) {
        let Some(Entry { live, .. }) = self.entries.get_mut(place).and_then(Option::take) else {
            return;
        };
        self.free.push(place);
        if self.free.len() == self.entries.len() {
            (self.entries, self.free) = (Vec::new(), Vec::new());
        }
        if !live.protocol.counts() {
            return;
        }
        let kind = self.kind(live.protocol);
        *kind = kind.saturating_sub(1);
        if let Some(count) = self.by_ip.get_mut(&live.device) {
            *count -= 1;
            if *count == 0 {
                self.by_ip.remove(&live.device);
            }
        }
        if self.by_ip.is_empty() {
            self.by_ip = HashMap::new();
        }
    }

    fn kind(&mut self, protocol: Protocol) -> &mut u32 {
        match protocol {
            Protocol::Udp => &mut self.udp,
            _ => &mut self.tcp,
        }
    }

    /// Keeps the waker of a session's task.
    pub(super) fn watch(&mut self, place: usize, waker: &Waker) {
        if let Some(Some(entry)) = self.entries.get_mut(place) {
            entry.waker = Some(waker.clone());
        }
    }

    /// Wakes all of them: they will ask why.
    pub(super) fn wake_all(&self) {
        let wakers = self.running().filter_map(|entry| entry.waker.as_ref());
        wakers.for_each(Waker::wake_by_ref);
    }

    fn running(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// Ends all of them.
    pub(super) fn end_all(&self, why: Refusal) {
        self.running().for_each(|entry| entry.live.end(why));
        self.wake_all();
    }

    /// Ends the one with this id, if it is here.
    pub(super) fn close(&self, id: u64) -> bool {
        let mut running = self.running();
        let Some(entry) = running.find(|entry| entry.live.id == id) else {
            return false;
        };
        entry.live.end(Refusal::Closed);
        if let Some(waker) = &entry.waker {
            waker.wake_by_ref();
        }
        true
    }

    /// Ends those that began last, as many as there are too many.
    pub(super) fn enforce(&self, limits: &Limits) {
        if limits.max_connections.is_none() && limits.max_ips.is_none() {
            return;
        }
        let running = self.running();
        let mut counted: Vec<_> = running
            .filter(|entry| entry.live.protocol.counts())
            .collect();
        counted.sort_unstable_by_key(|entry| entry.live.id);
        let (mut kept, mut devices) = (0_usize, HashSet::new());
        for entry in counted {
            let device = entry.live.device;
            let why = if limits
                .max_connections
                .is_some_and(|most| !is_below(kept, most))
            {
                Refusal::Connections
            } else if !devices.contains(&device)
                && limits
                    .max_ips
                    .is_some_and(|most| !is_below(devices.len(), most))
            {
                Refusal::Addresses
            } else {
                kept += 1;
                devices.insert(device);
                continue;
            };
            entry.live.end(why);
            if let Some(waker) = &entry.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Adds those that run to `list`, which gets no longer than `most`. Returns how many run.
    pub(super) fn describe(&self, list: &mut Vec<LiveSession>, most: usize) -> usize {
        let room = most.saturating_sub(list.len());
        list.extend(self.running().take(room).map(|entry| entry.live.describe()));
        self.entries.len() - self.free.len()
    }
}

fn is_below(count: usize, most: u32) -> bool {
    usize::try_from(most).is_ok_and(|most| count < most)
}

/// The address that counts as one device's.
pub(super) fn device(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}
