//! The device itself: opened by name or taken over, read and written packet by packet.
//!
//! With offload, a packet may be far longer than the MTU: the kernel leaves it to the device to separate it, and to complete
//! its checksum. What we write may be of the same kind, so mostly nobody ever has to.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use tun_rs::{AsyncDevice, DeviceBuilder, SyncDevice, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use crate::net::linux;
use crate::wire::ip::Checksums;

/// Bytes of the longest packet, and of what stands before it.
pub(in crate::net) const MAX_FRAME: usize = VIRTIO_NET_HDR_LEN + 65_535 + 40;
/// The checksum of the packet is partial (`VIRTIO_NET_HDR_F_NEEDS_CSUM` of virtio 1.2 §5.1.6).
const NEEDS_CHECKSUM: u8 = 1;
/// The packet is several datagrams (`VIRTIO_NET_HDR_GSO_UDP_L4`).
const SEVERAL_DATAGRAMS: u8 = 5;

/// A device that nobody reads yet.
pub struct Opened {
    device: SyncDevice,
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub index: u32,
    has_offload: bool,
}

impl Opened {
    /// Makes a device, or takes one that exists and is not in use. Without a name, the system chooses one.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(name: Option<&str>) -> io::Result<Self> {
        let mut builder = DeviceBuilder::new().offload(true);
        if let Some(name) = name {
            builder = builder.name(name);
        }
        Self::of(builder.build_sync()?, true)
    }

    /// Takes over a device that another program has opened, with `IFF_NO_PI` and without `IFF_VNET_HDR`.
    ///
    /// # Errors
    /// What the system says.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Self::of(linux::tun_device(fd)?, false)
    }

    /// Takes over the device behind a file descriptor that this process was started with.
    ///
    /// # Errors
    /// What the system says.
    pub fn inherited(fd: i32) -> io::Result<Self> {
        Self::adopt(linux::inherited(fd)?)
    }

    fn of(device: SyncDevice, has_offload: bool) -> io::Result<Self> {
        Ok(Self {
            name: device.name()?,
            index: device.if_index()?,
            device,
            has_offload,
        })
    }
}

/// A device on the reactor of this thread.
pub(in crate::net) struct Device {
    io: AsyncDevice,
    /// Whether each packet has a header that says what is left to do.
    has_offload: bool,
    /// Whether it separates datagrams.
    pub(in crate::net) joins_datagrams: bool,
}

/// A packet that was read.
#[derive(Clone, Debug)]
pub(in crate::net) struct Frame {
    /// Where it stands in the buffer, after room for a header.
    pub(in crate::net) packet: Range<usize>,
    pub(in crate::net) checksums: Checksums,
    /// The bytes of each of several datagrams; 0: it is one.
    pub(in crate::net) segment: usize,
}

impl Device {
    pub(in crate::net) fn new(opened: Opened) -> io::Result<Self> {
        let joins_datagrams = opened.has_offload && opened.device.udp_gso();
        Ok(Self {
            io: AsyncDevice::new(opened.device)?,
            has_offload: opened.has_offload,
            joins_datagrams,
        })
    }

    pub(in crate::net) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_readable(cx)
    }

    /// Reads a packet.
    pub(in crate::net) fn read(&self, buffer: &mut [u8]) -> io::Result<Frame> {
        if !self.has_offload {
            let room = buffer.get_mut(VIRTIO_NET_HDR_LEN..).unwrap_or_default();
            let len = self.io.try_recv(room)?;
            return Ok(Frame {
                packet: VIRTIO_NET_HDR_LEN..VIRTIO_NET_HDR_LEN + len,
                checksums: Checksums::Complete,
                segment: 0,
            });
        }
        let len = self.io.try_recv(buffer)?;
        let header = VirtioNetHdr::decode(buffer.get(..len).unwrap_or_default())?;
        Ok(Frame {
            packet: VIRTIO_NET_HDR_LEN..len,
            checksums: match header.flags & NEEDS_CHECKSUM {
                0 => Checksums::Complete,
                _ => Checksums::Partial,
            },
            segment: match header.gso_type {
                SEVERAL_DATAGRAMS => header.gso_size.into(),
                _ => 0,
            },
        })
    }

    /// Writes a packet that was read back, with what its header says.
    pub(in crate::net) fn write_back(&self, buffer: &[u8], frame: &Frame) -> io::Result<()> {
        let start = if self.has_offload {
            0
        } else {
            frame.packet.start
        };
        let bytes = buffer.get(start..frame.packet.end).unwrap_or_default();
        self.io.try_send(bytes).map(drop)
    }

    /// Writes a packet with complete checksums.
    pub(in crate::net) fn write(&self, packet: &[u8]) -> io::Result<()> {
        if !self.has_offload {
            return self.io.try_send(packet).map(drop);
        }
        let none = [0; VIRTIO_NET_HDR_LEN];
        let parts = [IoSlice::new(&none), IoSlice::new(packet)];
        self.io.try_send_vectored(&parts).map(drop)
    }

    /// What kind of checksums [`Device::write_datagrams`] expects.
    pub(in crate::net) const fn checksums(&self) -> Checksums {
        match self.has_offload {
            true => Checksums::Partial,
            false => Checksums::Complete,
        }
    }

    /// Writes one datagram, or several of which each but the last has `segment` bytes of data. `parts` begin with room for a
    /// header of ours, and the headers of IP and UDP, which end with one of `udp` bytes.
    pub(in crate::net) fn write_datagrams(
        &self,
        (head, ip): (&[u8], usize),
        data: &[IoSlice<'_>],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let mut start = [0; VIRTIO_NET_HDR_LEN];
        let mut parts = [IoSlice::new(&[]); MAX_PARTS];
        let mut count = 0;
        if self.has_offload {
            let short = |number: usize| u16::try_from(number).map_err(io::Error::other);
            let header = VirtioNetHdr {
                flags: NEEDS_CHECKSUM,
                gso_type: if segment.is_some() {
                    SEVERAL_DATAGRAMS
                } else {
                    0
                },
                hdr_len: short(head.len())?,
                gso_size: short(segment.unwrap_or_default())?,
                csum_start: short(ip)?,
                csum_offset: short(crate::wire::ip::udp::CHECKSUM)?,
            };
            header.encode(&mut start)?;
        }
        let first = self.has_offload.then(|| IoSlice::new(&start));
        let all = first
            .into_iter()
            .chain([IoSlice::new(head)])
            .chain(data.iter().copied());
        for (slot, part) in parts.iter_mut().zip(all) {
            *slot = part;
            count += 1;
        }
        let parts = parts.get(..count).unwrap_or_default();
        self.io.try_send_vectored(parts).map(drop)
    }
}

/// Datagrams that are written together (`UDP_MAX_SEGMENTS` of Linux).
pub(in crate::net) const MAX_TOGETHER: usize = 64;
const MAX_PARTS: usize = MAX_TOGETHER + 2;
