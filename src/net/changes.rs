//! Notices that the network has changed, or that the machine has slept: connections made before may be dead without
//! anybody having been told.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;

use super::linux;

/// Links whose state is remembered; of further ones every message counts as a change.
const MAX_LINKS: usize = 256;
/// Bytes of messages that are read at once; the kernel sends at most this many.
const ROOM: usize = 32 * 1024;

/// A suspension that is longer than this, in milliseconds, counts: what was connected before may be dead.
const SLEPT: u64 = 1000;

// Types of messages (linux/rtnetlink.h).
const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETED_ROUTE: u16 = 25;
/// The flags of a link that say whether it works: `IFF_UP`, `IFF_RUNNING`, `IFF_LOWER_UP`.
const WORKS: u32 = 0x1 | 0x40 | 0x1_0000;

/// The changes of the system's links, addresses and routes.
pub struct Changes {
    socket: AsyncFd<OwnedFd>,
    links: Links,
}

impl Changes {
    /// Begins to listen, on the reactor of this thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            socket: linux::route_events()?,
            links: Links::default(),
        })
    }

    /// Waits until something has changed. Cancel safe.
    ///
    /// # Errors
    /// When the system reports no more changes.
    pub async fn next(&mut self) -> io::Result<()> {
        let mut room = vec![0; ROOM];
        loop {
            let mut ready = self.socket.readable().await?;
            let read = ready.try_io(|socket| {
                recv(socket.get_ref(), &mut room[..], RecvFlags::DONTWAIT).map_err(io::Error::from)
            });
            match read {
                Ok(Ok((count, _))) => {
                    if self.links.note(room.get(..count).unwrap_or_default()) {
                        return Ok(());
                    }
                }
                // More has happened than the socket could hold.
                Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// The flags of each link, by its number.
#[derive(Default)]
struct Links(Vec<(u32, u32)>);

impl Links {
    /// Whether one of `messages` tells of a change.
    fn note(&mut self, mut messages: &[u8]) -> bool {
        let mut changed = false;
        while let Some((kind, body, rest)) = split(messages) {
            messages = rest;
            changed |= match kind {
                NEW_LINK => self.note_link(body),
                DELETED_LINK | NEW_ADDRESS | DELETED_ADDRESS | NEW_ROUTE | DELETED_ROUTE => true,
                _ => false,
            };
        }
        changed
    }

    /// Whether the link works otherwise than before: wireless links send the same state again and again.
    fn note_link(&mut self, body: &[u8]) -> bool {
        // struct ifinfomsg: family and type, number, flags.
        let (Some(number), Some(flags)) = (number_at(body, 4), number_at(body, 8)) else {
            return false;
        };
        let flags = flags & WORKS;
        match self.0.iter_mut().find(|(known, _)| *known == number) {
            Some((_, before)) => std::mem::replace(before, flags) != flags,
            None => {
                if self.0.len() < MAX_LINKS {
                    self.0.push((number, flags));
                }
                true
            }
        }
    }
}

/// The type and the body of the first message (struct nlmsghdr), and what follows it.
fn split(messages: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    const HEADER: usize = 16;
    let len = usize::try_from(number_at(messages, 0)?).ok()?;
    let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk::<2>()?);
    let body = messages.get(HEADER..len)?;
    let rest = messages.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, rest))
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

/// How long the system has been suspended since it started. It grows when the machine has slept.
#[must_use]
pub fn suspended() -> Duration {
    linux::suspended()
}

/// Notices that the machine has slept, by the time that it was suspended.
#[derive(Debug)]
pub struct Sleep {
    /// The suspended time at the last look, in milliseconds.
    known: AtomicU64,
}

impl Sleep {
    /// Knows that the system has been suspended for this long.
    #[must_use]
    pub fn new(suspended: Duration) -> Self {
        Self {
            known: AtomicU64::new(millis(suspended)),
        }
    }

    /// Whether the machine has slept since the last look, now that it has been suspended for this long. Of several that
    /// look at the same time, one is told.
    pub fn has_slept(&self, suspended: Duration) -> bool {
        let suspended = millis(suspended);
        let known = self.known.load(Relaxed);
        suspended > known.saturating_add(SLEPT) && self.known.swap(suspended, Relaxed) < suspended
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(16 + body.len()).unwrap_or_default();
        let mut message = len.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(16, 0);
        message.extend(body);
        message
    }

    fn link(number: u32, flags: u32) -> Vec<u8> {
        let body = [0, number, flags, 0].map(u32::to_ne_bytes).concat();
        message(NEW_LINK, &body)
    }

    #[test]
    fn a_repeated_state_of_a_link_is_no_change() {
        let mut links = Links::default();
        assert!(links.note(&link(3, 0x1_0043)));
        assert!(!links.note(&link(3, 0x1_0043)));
        assert!(!links.note(&link(3, 0x1_1043)), "another flag");
        assert!(links.note(&link(3, 0x3)), "no carrier");
        assert!(links.note(&[link(3, 0x3), message(NEW_ADDRESS, &[])].concat()));
    }

    #[test]
    fn what_is_no_message_is_no_change() {
        let mut links = Links::default();
        for bytes in [&[][..], &[0; 15], &[0; 64], &[0xff; 64]] {
            assert!(!links.note(bytes), "{bytes:?}");
        }
        assert!(!links.note(&message(NEW_LINK, &[1, 2, 3])));
        assert!(!links.note(&message(999, &[])));
    }

    #[test]
    fn the_links_that_are_remembered_are_bounded() {
        let mut links = Links::default();
        for number in 0..10_000 {
            links.note(&link(number, 1));
        }
        assert_eq!(links.0.len(), MAX_LINKS);
    }

    #[test]
    fn sleep_is_noticed_once_and_the_clocks_may_drift() {
        let at = Duration::from_millis;
        let sleep = Sleep::new(at(5000));
        // Both clocks are read one after the other, and corrected.
        for suspended in [5000, 4999, 5001, 5900, 6000] {
            assert!(!sleep.has_slept(at(suspended)), "{suspended}");
        }
        assert!(sleep.has_slept(at(30_000)));
        assert!(!sleep.has_slept(at(30_000)));
        assert!(!sleep.has_slept(at(30_900)));
        assert!(sleep.has_slept(at(32_000)), "short ones too");
    }

    #[tokio::test]
    async fn the_kernel_can_be_listened_to() {
        assert!(Changes::listen().is_ok());
    }
}
