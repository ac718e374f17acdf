//! The streams and associations that a user has now.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::task::Waker;

use super::limits::{Limits, Refusal};

/// How many there are, from where, and who is to be woken when the user may not go on.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    tcp: u32,
    udp: u32,
    /// How many come from each address; as many entries as sessions at most.
    by_ip: HashMap<IpAddr, u32>,
    /// The flows that run; empty places are used again.
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Sessions {
    pub(super) fn counts(&self) -> (u32, u32, u32) {
        let ips = u32::try_from(self.by_ip.len()).unwrap_or(u32::MAX);
        (self.tcp, self.udp, ips)
    }

    /// Counts a session from `ip`. Returns the address that it is counted under.
    pub(super) fn begin(
        &mut self,
        ip: IpAddr,
        is_udp: bool,
        limits: &Limits,
    ) -> Result<IpAddr, Refusal> {
        let now = self.tcp.saturating_add(self.udp);
        if limits.max_connections.is_some_and(|most| now >= most) {
            return Err(Refusal::Connections);
        }
        let ip = device(ip);
        let ips = self.by_ip.len();
        let is_new = !self.by_ip.contains_key(&ip);
        let has_room = |most| usize::try_from(most).is_ok_and(|most| ips < most);
        if is_new && limits.max_ips.is_some_and(|most| !has_room(most)) {
            return Err(Refusal::Addresses);
        }
        *self.by_ip.entry(ip).or_default() += 1;
        *self.kind(is_udp) += 1;
        Ok(ip)
    }

    pub(super) fn end(&mut self, ip: IpAddr, is_udp: bool) {
        let kind = self.kind(is_udp);
        *kind = kind.saturating_sub(1);
        if let Some(count) = self.by_ip.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.by_ip.remove(&ip);
            }
        }
        if self.by_ip.is_empty() {
            self.by_ip = HashMap::new();
        }
    }

    fn kind(&mut self, is_udp: bool) -> &mut u32 {
        if is_udp { &mut self.udp } else { &mut self.tcp }
    }

    /// Wakes all flows: they will ask why.
    pub(super) fn wake_all(&mut self) {
        self.wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }

    pub(super) fn watch(&mut self, waker: &Waker) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        });
        self.rewatch(place, waker);
        place
    }

    fn rewatch(&mut self, place: usize, waker: &Waker) {
        if let Some(known) = self.wakers.get_mut(place) {
            match known {
                Some(known) => known.clone_from(waker),
                None => *known = Some(waker.clone()),
            }
        }
    }

    pub(super) fn unwatch(&mut self, place: usize) {
        if let Some(known) = self.wakers.get_mut(place) {
            *known = None;
            self.free.push(place);
        }
        if self.free.len() == self.wakers.len() {
            (self.wakers, self.free) = (Vec::new(), Vec::new());
        }
    }
}

/// The address that counts as one device's.
fn device(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}
