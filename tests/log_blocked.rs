//! A log that nobody reads: connections go on, signals are obeyed, and what is missing is counted.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::common::forward::{connect, echoes};
use crate::common::peers::{Program, Spec, Start, ssr};
use crate::common::process::{free_port, v4};
use crate::common::socks::{CONNECT, Target, request_bytes};
use crate::common::targets::TcpTarget;
use crate::common::{DEADLINE, eventually};

/// How long the process may take to end when nothing reads its log: its last lines are waited for.
const END: Duration = Duration::from_secs(8);

/// Said once the log is written again.
const MISSING: &str = "lines are missing here";

/// `ssr forward` to an echo, with two lines of the log for each connection.
fn forward(at: SocketAddr, target: &TcpTarget) -> Vec<String> {
    let target = format!("tcp://127.0.0.1:{}", target.port());
    ["forward", "-v", &format!("tcp://{at}"), &target]
        .map(str::to_owned)
        .into()
}

fn listening(at: SocketAddr) {
    eventually("it listens", || std::net::TcpStream::connect(at).is_ok());
}

fn exchange(at: SocketAddr, count: usize) {
    for _ in 0..count {
        echoes(connect(at), b"here");
    }
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

fn ends(child: &mut Child, limit: Duration) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < limit, "runs on after {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that is killed at the end of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn a_pipe_that_nobody_reads_stops_neither_connections_nor_signals() {
    let (target, at) = (TcpTarget::echo(), v4(free_port()));
    let arguments = forward(at, &target);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let mut command = ssr(&arguments);
    command.stdin(Stdio::null());
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut process = Killed(command.spawn().unwrap());
    drop(command);
    listening(at);
    exchange(at, 500);
    kill(process.0.id());
    ends(&mut process.0, END);
    drop(reader);
}

#[test]
fn a_terminal_that_is_stopped_with_ctrl_s_stops_neither_connections_nor_signals() {
    let (target, at) = (TcpTarget::echo(), v4(free_port()));
    let directory = tempfile::tempdir().unwrap();
    let arguments = forward(at, &target).join(" ");
    let line = format!("exec {} {arguments}", env!("CARGO_BIN_EXE_ssr"));
    let mut command = Command::new("script");
    command
        .args(["-qefc", &line, "typescript"])
        .current_dir(directory.path())
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut script = Killed(command.spawn().unwrap());
    listening(at);
    let children = format!("/proc/{0}/task/{0}/children", script.0.id());
    let ssr = std::fs::read_to_string(children).unwrap();
    let ssr: u32 = ssr.trim().parse().unwrap();
    let mut keys = script.0.stdin.take().unwrap();
    keys.write_all(b"\x13").unwrap();
    let shown = || std::fs::metadata(directory.path().join("typescript")).map_or(0, |at| at.len());
    // Until the terminal stops.
    eventually("nothing is shown any more", || {
        let before = shown();
        exchange(at, 20);
        std::thread::sleep(Duration::from_millis(20));
        shown() == before
    });
    exchange(at, 500);
    kill(ssr);
    let start = Instant::now();
    let state = format!("/proc/{ssr}/stat");
    let runs = || std::fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z "));
    while runs() {
        assert!(start.elapsed() < END, "ssr runs on");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(keys);
    ends(&mut script.0, DEADLINE);
}

#[test]
fn a_reader_that_comes_back_is_told_how_many_lines_are_missing() {
    let at = v4(free_port());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = ssr(&[
        "local",
        "-v",
        "-s",
        "127.0.0.1:1",
        "-m",
        "aes-256-gcm",
        "-k",
        "x",
    ]);
    command.args(["-b", &at.to_string()]);
    command.stdin(Stdio::null()).stderr(writer);
    let mut process = Killed(command.spawn().unwrap());
    drop(command);
    listening(at);
    // More than may wait: the line of each request has its target.
    let target = Target::name(&"a".repeat(250), 80);
    for _ in 0..6000 {
        let mut stream = connect(at);
        stream.write_all(&[5, 1, 0]).unwrap();
        stream.write_all(&request_bytes(CONNECT, &target)).unwrap();
        // No server: the end comes as a refusal, a close or a reset.
        let end = stream.read_to_end(&mut Vec::new());
        let is_stuck = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!is_stuck, "a request got no answer");
    }
    let (told, is_told) = mpsc::channel();
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        let mut lines = BufReader::new(reader);
        while lines.read_line(&mut log).unwrap() > 0 {
            if log.ends_with('\n') && log.lines().next_back().unwrap().contains(MISSING) {
                // It may have ended, and wait for nobody.
                let _ = told.send(());
            }
        }
        log
    });
    // As long as the queue is full, the last lines would be among the missing ones.
    is_told
        .recv_timeout(DEADLINE)
        .expect("missing lines are told");
    kill(process.0.id());
    ends(&mut process.0, DEADLINE);
    let log = log.join().unwrap();
    let missing = log
        .lines()
        .find(|line| line.contains(MISSING))
        .unwrap_or_else(|| {
            panic!(
                "{} bytes: {}",
                log.len(),
                &log[log.len().saturating_sub(2000)..]
            )
        });
    assert!(
        missing.contains("WARN") && missing.contains("writer=\"standard error\""),
        "{missing}"
    );
    let lines = missing.split_once("lines=").unwrap().1;
    let lines: usize = lines.split(' ').next().unwrap().parse().unwrap();
    assert!(lines > 0, "{missing}");
    assert!(log.len() < 3 << 20, "{} bytes waited", log.len());
    assert!(log.contains("dns counters"), "the last line is there");
}

#[test]
fn every_line_is_written_at_the_end() {
    let logs = tempfile::tempdir().unwrap();
    let target = TcpTarget::echo();
    let spec = Spec::new("aes-128-gcm");
    let writers = json!([
        {"console": {"level": 2}},
        {"file": {"directory": logs.path(), "level": 2}},
    ]);
    let server = Start::server(Program::Ssr, &spec).with(json!({"log": {"writers": writers}}));
    let mut server = server.run();
    let local = Start::local(Program::Ssr, &spec, server.address).run();
    for _ in 0..50 {
        let mut stream = local.socks().connect(&target.v4());
        stream.write_all(b"here").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
    }
    server.process.signal(Signal::TERM);
    drop(local);
    let (status, console) = server.process.wait(DEADLINE);
    assert!(status.success());
    let file = std::fs::read_dir(logs.path()).unwrap().next().unwrap();
    let file = std::fs::read_to_string(file.unwrap().path()).unwrap();
    for log in [&console, &file] {
        let closed = log.matches("status=\"ok\"").count();
        assert!(closed >= 50, "{closed} of 50 connections:\n{log}");
        assert!(
            log.trim_end()
                .lines()
                .last()
                .unwrap()
                .contains("dns counters"),
            "{log}"
        );
    }
    assert_eq!(console.lines().count(), file.lines().count());
}
