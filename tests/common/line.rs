//! Processes that take over from each other.

use super::{changing::Changing, peers};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::fs;

/// A role that is replaced again and again.
pub struct Line {
    pub first: Changing,
    /// The processes, the newest last.
    pub pids: Vec<u32>,
}

impl Line {
    /// Starts the first process.
    pub fn start(role: &'static str, keys: Value) -> Self {
        let first = Changing::start(role, keys);
        let pids = vec![first.process.id()];
        Self { first, pids }
    }

    /// The newest process.
    pub fn pid(&self) -> u32 {
        *self.pids.last().unwrap()
    }

    /// What `ssr upgrade` prints, and whether it succeeds.
    pub fn ask(&self) -> (bool, String) {
        let pid = self.pid().to_string();
        let output = peers::ssr(&["upgrade", "--pid", &pid]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// Has a new process take over.
    pub fn upgrade(&mut self) {
        let (done, text) = self.ask();
        assert!(done, "{text}{}", self.first.process.log());
        let pid = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_ne!(pid, self.pid());
        self.pids.push(pid);
    }

    /// Whether the process at this place of the line has ended.
    pub fn has_ended(&mut self, place: usize) -> bool {
        if place == 0 {
            return self.first.process.exited().is_some();
        }
        let pid = Pid::from_raw(self.pids[place].cast_signed()).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pids[place]));
        test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for pid in &self.pids {
            let pid = Pid::from_raw(pid.cast_signed()).unwrap();
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}
