//! What several workloads do with streams.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use crate::result::Result;
use crate::route::Route;
use crate::targets::{self, REQUEST, Targets};

/// Streams that move as many bytes as they can until they are dropped.
pub(crate) struct Flows {
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
    pub(crate) moved: Arc<AtomicU64>,
}

impl Flows {
    pub(crate) fn start(route: &Route, targets: &Targets, up: bool, count: usize) -> Result<Self> {
        let target = if up { targets.sink } else { targets.source };
        let block: Arc<OwnedFd> = Arc::new(targets::block()?);
        let mut flows = Self {
            streams: Vec::new(),
            threads: Vec::new(),
            moved: Arc::default(),
        };
        for _ in 0..count {
            let stream = route.connect(&target.into())?;
            flows.streams.push(stream.try_clone()?);
            let (moved, block) = (Arc::clone(&flows.moved), Arc::clone(&block));
            flows.threads.push(thread::spawn(move || {
                if up {
                    while let Ok(sent @ 1..) = targets::send_block(&stream, &block, 256 << 10) {
                        moved.fetch_add(sent as u64, Relaxed);
                    }
                } else {
                    // `check` finds a stream that ended early.
                    let _ = targets::drain(&stream, |length| {
                        moved.fetch_add(length, Relaxed);
                    });
                }
            }));
        }
        Ok(flows)
    }

    /// Fails if a stream has ended by itself.
    pub(crate) fn check(&self) -> Result<()> {
        match self.threads.iter().any(JoinHandle::is_finished) {
            true => Err("a bulk stream ended early".into()),
            false => Ok(()),
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        for stream in &self.streams {
            // It may have ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Requests `length` bytes and reads them.
pub(crate) fn request(stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut bytes = [b'q'; REQUEST];
    if let Some(head) = bytes.first_chunk_mut() {
        *head = length.to_be_bytes();
    }
    stream.write_all(&bytes)?;
    let mut buffer = [0; 16 << 10];
    let mut left = length;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err("an answer ended early".into()),
            count => left = left.saturating_sub(count as u64),
        }
    }
    Ok(())
}
