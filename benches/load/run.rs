//! The runner: every workload, round by round, one implementation after the other.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::plan::{Workload, workloads};
use crate::process::{machine_and_own_cpu, raise_file_limit};
use crate::programs::Programs;
use crate::proxy::Proxy;
use crate::report::Report;
use crate::result::Result;

/// The command line.
pub(crate) struct Options {
    quick: bool,
    list: bool,
    rounds: Option<u64>,
    json: Option<PathBuf>,
    /// Implementations that take part; empty: all.
    only: Vec<Proxy>,
    /// Beginnings of the names of workloads; empty: all.
    workloads: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            quick: false,
            list: false,
            rounds: None,
            json: None,
            only: Vec::new(),
            workloads: Vec::new(),
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
                        let proxy = Proxy::ALL.into_iter().find(|proxy| proxy.name() == name);
                        options
                            .only
                            .push(proxy.ok_or_else(|| format!("unknown implementation `{name}`"))?);
                    }
                }
                flag if flag.starts_with('-') => {
                    return Err(format!("unknown option `{flag}`").into());
                }
                name => options.workloads.push(name.to_owned()),
            }
        }
        Ok(options)
    }

    fn wants(&self, workload: &Workload) -> bool {
        match self.workloads.is_empty() {
            true => !(self.quick && workload.slow),
            false => self
                .workloads
                .iter()
                .any(|name| workload.name.starts_with(name)),
        }
    }
}

/// `load run`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workloads: Vec<Workload> = workloads()
        .into_iter()
        .filter(|workload| options.wants(workload))
        .collect();
    if options.list {
        for workload in &workloads {
            println!("{}", workload.name);
        }
        return Ok(());
    }
    if workloads.is_empty() {
        return Err("no workload has such a name; --list prints all names".into());
    }
    let begun = Instant::now();
    let (machine, own) = machine_and_own_cpu()?;
    let directory = std::env::temp_dir().join(format!("ssr-bench-{}", std::process::id()));
    for proxy in Proxy::ALL {
        fs::create_dir_all(directory.join(proxy.name()))?;
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
    for workload in &workloads {
        measure(workload, &cx, options, rounds, &mut report);
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
        println!("That is too much: do not trust these figures.");
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

fn measure(
    workload: &Workload,
    cx: &Context<'_>,
    options: &Options,
    rounds: u64,
    report: &mut Report,
) {
    let begun = Instant::now();
    let only = &options.only;
    let mut proxies = workload.proxies.to_vec();
    proxies.retain(|proxy| only.is_empty() || only.contains(proxy));
    let rounds = if workload.is_exact() { 1 } else { rounds };
    for round in 0..rounds {
        let run = |proxy: &Proxy| (*proxy, workload.run(cx, *proxy, round));
        let outcomes: Vec<_> = if workload.at_once() {
            thread::scope(|scope| {
                let all: Vec<_> = proxies
                    .iter()
                    .map(|proxy| scope.spawn(move || run(proxy)))
                    .collect();
                all.into_iter().filter_map(|one| one.join().ok()).collect()
            })
        } else {
            proxies.iter().map(run).collect()
        };
        for (proxy, outcome) in outcomes {
            match outcome {
                Ok(figures) => {
                    for (figure, value) in figures {
                        report.add(&workload.name, proxy, figure, value);
                    }
                }
                Err(error) => {
                    let (workload, name) = (&workload.name, proxy.name());
                    let failure = format!("{workload} of {name}, round {round}: {error}");
                    eprintln!("{failure}");
                    report.failures.push(failure);
                }
            }
        }
        // Each round begins with another implementation.
        if proxies.len() > 1 {
            proxies.rotate_left(1);
        }
    }
    eprintln!("{} ({:.1} s)", workload.name, begun.elapsed().as_secs_f64());
}

/// The machine and the programs that were measured.
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
    for proxy in [
        Proxy::Ssr,
        Proxy::Rust,
        Proxy::Libev,
        Proxy::Haproxy,
        Proxy::Rathole,
        Proxy::Socat,
        Proxy::SingBox,
        Proxy::Dnsmasq,
    ] {
        about.insert(proxy.name().to_owned(), json!(programs.version(proxy)));
    }
    about
}
