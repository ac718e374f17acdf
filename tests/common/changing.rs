//! A process whose config file the test changes while it runs.

use super::{
    eventually, peers,
    process::{Process, make_private},
};
use rustix::process::Signal;
use serde_json::Value;
use std::{fs, path::PathBuf};
use tempfile::TempDir;

/// Said after each reload that was done.
pub const READ: &str = "config read again; ";
/// Said for each error of a config that cannot be used.
pub const REFUSED: &str = "the changed config cannot be used; nothing has changed";

/// The process, and what its config says.
pub struct Changing {
    pub process: Process,
    pub keys: Value,
    directory: TempDir,
}

impl Changing {
    /// Runs a role with this config.
    pub fn start(role: &'static str, keys: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, serde_json::to_vec_pretty(&keys).unwrap()).unwrap();
        make_private(&path);
        let mut command = peers::ssr(&[role, "-c", path.to_str().unwrap()]);
        let mut process = Process::spawn(&format!("ssr {role}"), &mut command).unwrap();
        process.running().unwrap();
        Self {
            process,
            keys,
            directory,
        }
    }

    /// The config file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("config.json")
    }

    /// Writes the config with one key changed.
    pub fn write(&mut self, key: &str, value: Value) {
        self.keys[key] = value;
        // As an editor does: a complete file in place of the old one.
        let new = self.directory.path().join("new");
        fs::write(&new, serde_json::to_vec_pretty(&self.keys).unwrap()).unwrap();
        make_private(&new);
        fs::rename(new, self.path()).unwrap();
    }

    /// Changes one key and waits until this is in use.
    pub fn change(&mut self, key: &str, value: Value) {
        let (before, refused) = (self.said(READ), self.said(REFUSED));
        self.write(key, value);
        self.process.signal(Signal::HUP);
        eventually("the config is read again", || {
            assert_eq!(self.said(REFUSED), refused, "{}", self.process.log());
            self.said(READ) > before
        });
    }

    /// Changes one key to what cannot be used, and returns why.
    pub fn spoil(&mut self, key: &str, value: Value) -> String {
        let (read, refused) = (self.said(READ), self.said(REFUSED));
        let good = self.keys.clone();
        self.write(key, value);
        self.keys = good;
        self.process.signal(Signal::HUP);
        eventually("the bad config is refused", || self.said(REFUSED) > refused);
        assert_eq!(self.said(READ), read);
        let log = self.process.log();
        let line = log.lines().rfind(|line| line.contains(REFUSED));
        line.unwrap().to_owned()
    }

    /// How often the log says this.
    pub fn said(&self, words: &str) -> usize {
        self.process.log().matches(words).count()
    }
}
