//! The load generator of `scripts/bench`: targets, clients, a slow link, and the runner that puts proxies between them.
//! What is measured and how to read it: `benches/README.md`.
#![allow(
    unsafe_code,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a tool for developers that prints figures; a few system calls have no safe interface"
)]

mod client;
mod context;
mod goals;
#[expect(dead_code, reason = "only the tests turn links into black holes")]
mod link;
mod measure;
mod mmsg;
mod name_server;
mod plan;
mod process;
mod programs;
mod proxy;
mod report;
mod result;
mod route;
mod row;
mod run;
mod running;
mod scenario;
mod start;
mod targets;
mod workloads;

use crate::result::Result;
use crate::workloads::allocations;

const USAGE: &str = "load run [--quick] [--rounds N] [--only NAME,NAME] [--json FILE] [--list] [WORKLOAD…]: see benches/README.md";

fn main() -> Result<()> {
    // `cargo bench` adds an argument of its own; `cargo bench` and `cargo test` without a name start every bench.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments.split_first() {
        Some((command, rest)) if command == "run" => run::run(&run::Options::parse(rest)?),
        Some((command, rest)) if command == "target" => targets::main(rest),
        Some((command, rest)) if command == "counted" => allocations::main(rest),
        Some(_) => Err(USAGE.into()),
        None => {
            println!("{USAGE}");
            Ok(())
        }
    }
}
