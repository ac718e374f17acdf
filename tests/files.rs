//! Files that a process may have open: few, and too few.

use crate::common::{
    SILENCE, eventually, is_open, matrix,
    peers::{Half, Pair, Program, Role, Spec, Start},
    process::Process,
    targets::TcpTarget,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::net::TcpStream;

const METHOD: &str = "2022-blake3-aes-256-gcm";
/// Far more than there are files for.
const STRANGERS: usize = 200;
/// Handshakes for which 64 files are enough.
const HANDSHAKES: usize = 6;

/// A pair whose half in `role` may open `limit` files, and that half.
fn with_files<'a>(role: Role, limit: &'a [&'a str]) -> Pair {
    let spec = Spec::new(METHOD);
    let limited = |start: Start<'a>, of| {
        if of == role {
            start.wrapped(limit)
        } else {
            start
        }
    };
    let server = limited(Start::server(Program::Ssr, &spec), Role::Server);
    Pair::with(server, |at| {
        limited(Start::local(Program::Ssr, &spec, at), Role::Local)
    })
}

fn strangers(at: &Half) -> Vec<TcpStream> {
    let strangers = (0..STRANGERS).map(|_| TcpStream::connect(at.address).unwrap());
    strangers.collect()
}

#[test]
fn strangers_who_say_nothing_do_not_take_the_last_files() {
    let echo = TcpTarget::echo();
    for role in [Role::Server, Role::Local] {
        let mut pair = with_files(role, &["prlimit", "--nofile=64:64"]);
        let mut hold = strangers(pair.half(role));
        eventually(
            "all strangers but those that may stay have made room",
            || {
                hold.retain_mut(is_open);
                hold.len() <= HANDSHAKES
            },
        );
        for _ in 0..20 {
            matrix::echoes(&pair.socks(), &echo.v4(), 100);
        }
        let log = pair.half(role).process.log();
        assert!(!log.contains("cannot accept"), "{role:?}: {log}");
    }
}

#[test]
fn running_out_of_files_slows_accepting_and_passes() {
    let echo = TcpTarget::echo();
    for role in [Role::Server, Role::Local] {
        let mut pair = with_files(role, &[]);
        matrix::echoes(&pair.socks(), &echo.v4(), 100);
        let process = &mut pair.half(role).process;
        let before = set_files(process, process.open_files() + 4);
        let hold = strangers(pair.half(role));
        let process = &mut pair.half(role).process;
        eventually("there is a shortage", || {
            process.log().contains("cannot accept")
        });
        std::thread::sleep(SILENCE); // it lasts
        assert!(
            process.exited().is_none(),
            "{role:?} ended for want of files"
        );
        let cpu = cpu_ticks(process);
        std::thread::sleep(SILENCE);
        let spent = cpu_ticks(process) - cpu;
        assert!(
            spent < 20,
            "{role:?} spins during the shortage: {spent} ticks in {SILENCE:?}"
        );
        set_files(process, before);
        drop(hold);
        eventually("connections are served again", || {
            let echoes = || matrix::echoes(&pair.socks(), &echo.v4(), 100);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(echoes)).is_ok()
        });
        let log = pair.half(role).process.log();
        assert!(log.lines().count() < 100, "the shortage floods the log");
    }
}

/// Sets the soft limit and returns what it was.
fn set_files(process: &Process, files: usize) -> usize {
    let pid = Pid::from_raw(process.id().try_into().unwrap());
    let limit = Rlimit {
        current: Some(files.try_into().unwrap()),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(pid, Resource::Nofile, limit).unwrap();
    before.current.unwrap().try_into().unwrap()
}

/// User and system time of a process, in ticks of 10 ms.
fn cpu_ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn the_soft_limit_of_files_is_raised() {
    let server = Start::server(Program::Ssr, &Spec::new(METHOD))
        .wrapped(&["prlimit", "--nofile=256:1000"])
        .run();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process.id())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert!(line.split_whitespace().nth(3) == Some("1000"), "{line}");
}
