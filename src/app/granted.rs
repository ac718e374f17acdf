//! What the system grants the process, files and memory, and the sockets and buffers that it is enough for.
//!
//! The kernel ends a process whose control group is out of memory. What a flow takes is known, so fewer are accepted instead.

use std::path::{Path, PathBuf};

use super::fd_limit::Capacity;
use super::udp_share::UdpShare;
use crate::config::Config;
use crate::limits::{OWN_MEMORY, SOCKET_MEMORY};

/// Of the memory that is granted, buffers have one part in so many.
const BUFFER_SHARE: u64 = 8;

/// What a process may have, `None` where it is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// Open files.
    pub(super) files: Option<u64>,
    /// Bytes of memory.
    pub(super) memory: Option<u64>,
}

impl Granted {
    /// With the memory of the control group of this process.
    pub(super) fn with_files(files: Option<u64>) -> Self {
        let memory = of_groups(
            &read("/proc/self/cgroup").unwrap_or_default(),
            &read("/proc/self/mountinfo").unwrap_or_default(),
            |path| read(path),
        );
        Self { files, memory }
    }

    /// Bytes of buffers: `wanted`, or less.
    pub(super) fn buffers(&self, wanted: usize) -> usize {
        let most = self.memory.map_or(u64::MAX, |memory| memory / BUFFER_SHARE);
        wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// What datagrams and connections of `config` may have.
    pub(super) fn places(&self, config: &Config) -> (UdpShare, Capacity) {
        let sockets = self.sockets(config.limits.buffers());
        let share = UdpShare::of(config, sockets);
        (share, Capacity::of(config, share.left(sockets)))
    }

    /// The sockets that the process can have, beside `buffers` bytes of buffers.
    fn sockets(&self, buffers: usize) -> Option<u64> {
        let buffers = u64::try_from(self.buffers(buffers)).unwrap_or(u64::MAX);
        let of_memory = self
            .memory
            .map(|memory| memory.saturating_sub(OWN_MEMORY + buffers) / SOCKET_MEMORY);
        match (self.files, of_memory) {
            (Some(files), Some(of_memory)) => Some(files.min(of_memory)),
            (one, other) => one.or(other),
        }
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The least limit of the groups in `cgroup` (`/proc/self/cgroup`, cgroups(7)) and of those that they are in, where `mounts`
/// (`/proc/self/mountinfo`, proc(5)) shows them.
fn of_groups(cgroup: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limits = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (kind, file) = if controllers.is_empty() {
            ("cgroup2", "memory.max")
        } else if has(controllers, "memory") {
            ("cgroup", "memory.limit_in_bytes")
        } else {
            return None;
        };
        let (root, point) = mounts.lines().find_map(|line| mounted(line, kind))?;
        // Where the mount begins at a group of its own, as in containers, the rest of the path is below.
        let below = Path::new(path)
            .strip_prefix(root)
            .unwrap_or_else(|_| Path::new(""));
        let group = point.join(below);
        let groups = group.ancestors().take_while(|one| one.starts_with(&point));
        // Version 2 writes `max` for none; version 1 a number that no machine has.
        groups
            .filter_map(|one| read(&one.join(file))?.trim().parse::<u64>().ok())
            .min()
    });
    limits.min().filter(|limit| *limit < NO_LIMIT)
}

/// Above this, version 1 means that there is no limit: it shows the greatest number of whole pages in an `i64`.
const NO_LIMIT: u64 = 1 << 62;

/// The root and the mount point of a line of `/proc/self/mountinfo` for control groups of this kind.
fn mounted<'a>(line: &'a str, kind: &str) -> Option<(&'a Path, PathBuf)> {
    let (fields, of_type) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut of_type = of_type.split(' ');
    let is_meant = of_type.next()? == kind
        && (kind == "cgroup2" || has(of_type.nth(1).unwrap_or_default(), "memory"));
    is_meant.then(|| (Path::new(root), PathBuf::from(point)))
}

fn has(list: &str, one: &str) -> bool {
    list.split(',').any(|name| name == one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    fn files<'a>(all: &'a [(&str, &str)]) -> impl Fn(&Path) -> Option<String> + use<'a> {
        |path| {
            let found = all.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        }
    }

    #[test]
    fn the_least_limit_of_all_groups_around_counts() {
        let read = files(&[
            (
                "/sys/fs/cgroup/system.slice/ssr.service/memory.max",
                "max\n",
            ),
            ("/sys/fs/cgroup/system.slice/memory.max", "67108864\n"),
            ("/sys/fs/cgroup/memory.max", "134217728\n"),
        ]);
        let limit = of_groups("0::/system.slice/ssr.service\n", V2, read);
        assert_eq!(limit, Some(64 << 20));
    }

    #[test]
    fn version_1_is_understood_beside_an_empty_version_2() {
        let cgroup = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n";
        let path = "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes";
        let limit = of_groups(cgroup, V1, files(&[(path, "67108864")]));
        assert_eq!(limit, Some(64 << 20));
        let none = of_groups(cgroup, V1, files(&[(path, "9223372036854771712")]));
        assert_eq!(none, None, "what version 1 shows where there is no limit");
    }

    #[test]
    fn a_container_sees_its_group_as_the_root() {
        let mounts = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw";
        let read = files(&[("/sys/fs/cgroup/memory.max", "67108864")]);
        assert_eq!(of_groups("0::/docker/abc", mounts, &read), Some(64 << 20));
        // With a namespace of its own, the path is relative to what is mounted.
        assert_eq!(of_groups("0::/", V2, &read), Some(64 << 20));
    }

    #[test]
    fn strange_files_are_no_limit() {
        for cgroup in ["", "x", "0:", "0::", "0::/a", ":::::", "4:memory:/../.."] {
            for mounts in ["", " - ", "a b c d e - cgroup2", V1] {
                assert_eq!(of_groups(cgroup, mounts, |_| Some("much".into())), None);
            }
        }
    }

    #[test]
    fn sockets_follow_the_scarcer_of_files_and_memory() {
        let granted = |files, memory| Granted { files, memory }.sockets(256 << 20);
        assert_eq!(granted(None, None), None);
        assert_eq!(granted(Some(1024), None), Some(1024));
        assert_eq!(granted(Some(1024), Some(64 << 20)), Some(1024));
        let (own, buffers) = (OWN_MEMORY, (64 << 20) / BUFFER_SHARE);
        let enough = ((64 << 20) - own - buffers) / SOCKET_MEMORY;
        assert_eq!(granted(Some(1 << 20), Some(64 << 20)), Some(enough));
        assert_eq!(granted(None, Some(1 << 20)), Some(0), "less than it needs");
    }

    #[test]
    fn buffers_have_no_more_than_their_part() {
        let of = |memory| {
            Granted {
                files: None,
                memory,
            }
            .buffers(256 << 20)
        };
        assert_eq!(of(None), 256 << 20);
        assert_eq!(of(Some(64 << 20)), 8 << 20);
        assert_eq!(of(Some(4 << 30)), 256 << 20);
    }
}
