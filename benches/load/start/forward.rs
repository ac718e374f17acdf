//! Port forwarders: one process between client and target, with neither SOCKS nor encryption.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::process::Process;
use crate::programs::Programs;
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::Route;
use crate::running::{Running, Setup, free_port, ready};

use super::haproxy;

/// Starts a forwarder with a port for each target and waits until it accepts connections.
pub(crate) fn start(programs: &Programs, setup: &Setup<'_>) -> Result<Running> {
    let mut ports = Vec::new();
    for target in setup.targets {
        ports.push((
            *target,
            SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
        ));
    }
    let listens: Vec<SocketAddr> = ports.iter().map(|(_, listen)| *listen).collect();
    let forwarders = match setup.proxy {
        Proxy::Direct => {
            return Ok(Running {
                processes: None,
                forwarders: Vec::new(),
                route: Route::Direct,
            });
        }
        Proxy::Ssr => {
            let mut command = Command::new(programs.ssr());
            command.arg("forward");
            for (target, listen) in &ports {
                command.args([format!("tcp://{listen}"), format!("tcp://{target}")]);
            }
            vec![one(command, setup.directory, "ssr", &listens)?]
        }
        Proxy::Haproxy | Proxy::Splicing => {
            let option = match setup.proxy {
                Proxy::Splicing => "  option splice-auto\n",
                _ => "",
            };
            let (directory, targets) = (setup.directory, setup.targets);
            let command =
                haproxy::command(programs, directory, "forward", option, &listens, targets)?;
            vec![one(command, directory, "haproxy", &listens)?]
        }
        Proxy::Socat => {
            let mut all = Vec::new();
            for (index, (target, listen)) in ports.iter().enumerate() {
                // The default buffer of 8 KiB would decide the result.
                let mut command = Command::new("socat");
                command.args(["-b", "65536"]).args([
                    format!(
                        "TCP-LISTEN:{},bind=127.0.0.1,fork,reuseaddr,backlog=1024",
                        listen.port()
                    ),
                    format!("TCP:{target}"),
                ]);
                let name = format!("socat{index}");
                all.push(one(command, setup.directory, &name, &[*listen])?);
            }
            all
        }
        _ => return Err("this implementation does not forward ports".into()),
    };
    Ok(Running {
        processes: None,
        forwarders,
        route: Route::Forward(ports),
    })
}

fn one(command: Command, directory: &Path, name: &str, ports: &[SocketAddr]) -> Result<Process> {
    let log = directory.join(name).with_extension("log");
    let (process, _) = ready(command, [None; 2], &log, ports)?;
    Ok(process)
}
