//! The runner: every work, round by round, one implementation after the other.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::kind::Kind;
use crate::plan::{Work, works};
use crate::process::{machine_and_own_cpu, raise_file_limit};
use crate::programs::Programs;
use crate::report::Report;
use crate::result::Result;

/// What was asked for.
pub(crate) struct Options {
    quick: bool,
    list: bool,
    rounds: Option<u64>,
    json: Option<PathBuf>,
    /// Who takes part; empty: everyone.
    only: Vec<Kind>,
    /// Beginnings of the names of works; none: all.
    works: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            quick: false,
            list: false,
            rounds: None,
            json: None,
            only: Vec::new(),
            works: Vec::new(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--list" => options.list = true,
                "--rounds" => {
                    let rounds = arguments.next().ok_or("--rounds needs a number")?;
                    options.rounds = Some(rounds.parse()?);
                }
                "--json" => {
                    let path = arguments.next().ok_or("--json needs a file")?;
                    options.json = Some(path.into());
                }
                "--only" => {
                    let names = arguments.next().ok_or("--only needs names")?;
                    for name in names.split(',') {
                        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
                        options
                            .only
                            .push(kind.ok_or_else(|| format!("who is {name}?"))?);
                    }
                }
                flag if flag.starts_with('-') => return Err(format!("what is {flag}?").into()),
                work => options.works.push(work.to_owned()),
            }
        }
        Ok(options)
    }

    fn wants(&self, work: &Work) -> bool {
        match self.works.is_empty() {
            true => !(self.quick && work.slow),
            false => self.works.iter().any(|name| work.name.starts_with(name)),
        }
    }
}

/// `load run`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let works: Vec<Work> = works()
        .into_iter()
        .filter(|work| options.wants(work))
        .collect();
    if options.list {
        for work in &works {
            println!("{}", work.name);
        }
        return Ok(());
    }
    if works.is_empty() {
        return Err("no such work; --list names them".into());
    }
    let begun = Instant::now();
    let (machine, own) = machine_and_own_cpu()?;
    let directory = std::env::temp_dir().join(format!("ssr-bench-{}", std::process::id()));
    for kind in Kind::ALL {
        fs::create_dir_all(directory.join(kind.name()))?;
    }
    let programs = Programs::find();
    raise_file_limit();
    let cx = Context {
        programs: &programs,
        directory: &directory,
        quick: options.quick,
    };
    let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 7 });
    let mut report = Report::default();
    for work in &works {
        measure(work, &cx, options, rounds, &mut report);
    }
    fs::remove_dir_all(&directory)?;
    let (machine_after, own_after) = machine_and_own_cpu()?;
    let others = (machine_after - machine).saturating_sub(own_after - own);
    let elapsed = begun.elapsed();
    let cores = thread::available_parallelism()?.get();
    let busy = others.as_secs_f64() * 100.0 / (elapsed.as_secs_f64() * cores as f64);

    println!("{}", report.table());
    for failure in &report.failures {
        println!("failed: {failure}");
    }
    println!(
        "{rounds} rounds in {:.0} s on {cores} cores; everything else on this machine used {busy:.0} % of them.",
        elapsed.as_secs_f64(),
    );
    if busy > 5.0 {
        println!("That is too much for figures to be trusted.");
    }
    if let Some(path) = &options.json {
        let mut about = about(&programs);
        about.insert("rounds".to_owned(), json!(rounds));
        about.insert("cores".to_owned(), json!(cores));
        about.insert("seconds".to_owned(), json!(elapsed.as_secs_f64()));
        about.insert("others_cpu_percent".to_owned(), json!(busy));
        about.insert("quick".to_owned(), json!(options.quick));
        fs::write(
            path,
            serde_json::to_string_pretty(&report.json(about))? + "\n",
        )?;
    }
    Ok(())
}

fn measure(work: &Work, cx: &Context<'_>, options: &Options, rounds: u64, report: &mut Report) {
    let begun = Instant::now();
    let only = &options.only;
    let mut kinds = work.kinds.to_vec();
    kinds.retain(|kind| only.is_empty() || only.contains(kind));
    let rounds = if work.is_exact() { 1 } else { rounds };
    for round in 0..rounds {
        let run = |kind: &Kind| (*kind, work.run(cx, *kind, round));
        let outcomes: Vec<_> = if work.at_once() {
            thread::scope(|scope| {
                let all: Vec<_> = kinds
                    .iter()
                    .map(|kind| scope.spawn(move || run(kind)))
                    .collect();
                all.into_iter().filter_map(|one| one.join().ok()).collect()
            })
        } else {
            kinds.iter().map(run).collect()
        };
        for (kind, outcome) in outcomes {
            match outcome {
                Ok(figures) => {
                    for (figure, value) in figures {
                        report.add(&work.name, kind, figure, value);
                    }
                }
                Err(error) => {
                    let (work, name) = (&work.name, kind.name());
                    let failure = format!("{work} of {name}, round {round}: {error}");
                    eprintln!("{failure}");
                    report.failures.push(failure);
                }
            }
        }
        // Nobody always comes first.
        if kinds.len() > 1 {
            kinds.rotate_left(1);
        }
    }
    eprintln!("{} ({:.1} s)", work.name, begun.elapsed().as_secs_f64());
}

/// Where and with what this was measured.
fn about(programs: &Programs) -> Map<String, Value> {
    let mut about = Map::new();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    about.insert("kernel".to_owned(), json!(kernel.trim()));
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':']);
    about.insert("cpu".to_owned(), json!(model));
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    about.insert(
        "congestion".to_owned(),
        json!(congestion.unwrap_or_default().trim()),
    );
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    if let Ok(output) = commit {
        let commit = String::from_utf8_lossy(&output.stdout);
        about.insert("commit".to_owned(), json!(commit.trim()));
    }
    for kind in [
        Kind::Ssr,
        Kind::Rust,
        Kind::Libev,
        Kind::Haproxy,
        Kind::Rathole,
        Kind::Socat,
    ] {
        about.insert(kind.name().to_owned(), json!(programs.version(kind)));
    }
    about
}
