//! The directories that a config needs.

use std::path::{Path, PathBuf};

use crate::app::services;
use crate::config::{Config, Files};
use crate::control::place;

/// What the system's libraries and this program read: name servers, certificates, what the kernel says of itself.
const SYSTEM: [&str; 8] = [
    "/etc", "/usr", "/lib", "/lib64", "/proc", "/sys", "/run", "/dev",
];
/// Devices that are written to.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/net", "/dev/tty"];
/// Where a program's loader and its libraries are.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

/// Directories and files, each of which exists; what is below is meant too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    /// Where programs may be started: `ssr upgrade` starts this one again.
    pub(super) execute: Vec<PathBuf>,
}

impl Places {
    /// Those of a process with this config.
    pub(super) fn of(config: &Config, pid_file: Option<&Path>) -> Self {
        let files = config.files();
        let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        read.extend(files.read.iter().flat_map(|path| around(path)));
        let mut write: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
        let named = files.write.iter().map(PathBuf::as_path).chain(pid_file);
        write.extend(named.flat_map(around));
        write.extend(place::directory().ok());
        if config.online.is_some() {
            write.extend(
                services::subscription_directory()
                    .iter()
                    .flat_map(|path| around(path)),
            );
        }
        let mut execute: Vec<PathBuf> = LIBRARIES.iter().map(PathBuf::from).collect();
        let program = std::env::current_exe().ok();
        execute.extend(
            program
                .iter()
                .filter_map(|path| path.parent().map(Path::to_path_buf)),
        );
        for places in [&mut read, &mut write, &mut execute] {
            places.retain(|place| place.exists());
            places.sort_unstable();
            places.dedup();
        }
        Self {
            read,
            write,
            execute,
        }
    }

    /// The first of `files` that is in none of these directories.
    pub(super) fn missing<'a>(&self, files: &'a Files) -> Option<&'a Path> {
        let read = files.read.iter().find(|path| {
            let places = self.read.iter().chain(&self.write);
            !is_within(path, places)
        });
        let write = || {
            let mut paths = files.write.iter();
            paths.find(|path| !is_within(path, self.write.iter()))
        };
        read.or_else(write).map(PathBuf::as_path)
    }
}

fn is_within<'a>(path: &Path, places: impl Iterator<Item = &'a PathBuf> + Clone) -> bool {
    around(path)
        .iter()
        .all(|needed| places.clone().any(|place| needed.starts_with(place)))
}

/// The directory to allow for `path`: itself, or where it is, since files are replaced by others of their name. The
/// nearest one that exists; and the same of what a link leads to.
fn around(path: &Path) -> Vec<PathBuf> {
    let written = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let resolved = written.canonicalize().ok();
    let mut all: Vec<PathBuf> = [Some(written), resolved]
        .into_iter()
        .flatten()
        .filter_map(|path| {
            let directories = path.ancestors().find(|place| place.is_dir());
            directories.map(Path::to_path_buf)
        })
        .collect();
    all.dedup();
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_stands_for_its_directory_and_for_that_of_what_it_links_to() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("live")).unwrap();
        fs::create_dir_all(home.join("archive")).unwrap();
        fs::write(home.join("archive/one.pem"), "").unwrap();
        symlink("../archive/one.pem", home.join("live/cert.pem")).unwrap();
        assert_eq!(
            around(&home.join("live/cert.pem")),
            [home.join("live"), home.join("archive")]
        );
        assert_eq!(around(&home.join("live")), [home.join("live")]);
        // What is not there yet will be made below the nearest directory.
        assert_eq!(around(&home.join("log/new/file")), [home]);
    }

    #[test]
    fn what_is_in_none_of_them_is_named() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        for name in ["a", "b", "c"] {
            fs::create_dir(home.join(name)).unwrap();
        }
        let places = Places {
            read: vec![home.join("a")],
            write: vec![home.join("b")],
            execute: Vec::new(),
        };
        let missing = |read: &str, write: &str| {
            let files = Files {
                read: vec![home.join(read)],
                write: vec![home.join(write)],
            };
            let missing = places.missing(&files);
            missing.map(|path| path.strip_prefix(&home).unwrap().to_path_buf())
        };
        assert_eq!(missing("a/file", "b/new/file"), None);
        assert_eq!(missing("b/file", "b"), None, "what is written is read too");
        assert_eq!(missing("c/file", "b"), Some("c/file".into()));
        assert_eq!(missing("a", "a/file"), Some("a/file".into()));
    }
}
