//! A Redis of Debian, with nothing outside its directory.

use super::{eventually, process::Process};
use rustix::process::Signal;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// Redis at a unix socket.
pub struct Redis {
    process: Option<Process>,
    dir: TempDir,
    arguments: Vec<String>,
}

impl Redis {
    /// One that keeps nothing.
    pub fn new() -> Self {
        Self::with(&["--appendonly", "no"])
    }

    /// One that has not begun.
    pub fn away(arguments: &[&str]) -> Self {
        Self {
            process: None,
            dir: tempfile::tempdir().unwrap(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        }
    }

    /// One with further arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let mut redis = Self::away(arguments);
        redis.start();
        redis
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Begins, again.
    pub fn start(&mut self) {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.arguments);
        let process = Process::spawn("redis", &mut command).expect("scripts/test installs Redis");
        self.process = Some(process);
        eventually("Redis answers", || {
            self.ask(&["PING"]).contains("PONG") || self.ask(&["PING"]).contains("NOAUTH")
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait(super::DEADLINE);
        }
    }

    /// Stops it as a debugger does, or lets it go on.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// What it answers to a command.
    pub fn ask(&self, command: &[&str]) -> String {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(self.socket()).args(command);
        let output = client.stdin(Stdio::null()).output();
        let output = output.expect("scripts/test installs Redis");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The key that ends with this.
    pub fn key(&self, end: &str) -> String {
        let keys = self.ask(&["--raw", "KEYS", &format!("ssr:1:*:{end}")]);
        keys.lines().next().unwrap_or_default().to_owned()
    }
}
