//! haproxy in TCP mode.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::process::file_limit;
use crate::programs::{Programs, Role};
use crate::proxy::Proxy;
use crate::result::Result;

/// The command of a haproxy that forwards each port of `from` to the one of `to`.
pub(crate) fn command(
    programs: &Programs,
    directory: &Path,
    name: &str,
    option: &str,
    from: &[SocketAddr],
    to: &[SocketAddr],
) -> Result<Command> {
    // haproxy does not start unless it may open all files that `maxconn` can need: two for a connection, a quarter as many
    // for splicing, and some of its own.
    let connections = file_limit().min(65_536) / 3 - 100;
    let mut text = format!(
        "global\n  maxconn {connections}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n{option}",
    );
    for (index, (from, to)) in from.iter().zip(to).enumerate() {
        text += &format!("listen port{index}\n  bind {from}\n  server next {to}\n");
    }
    let path = directory.join(format!("haproxy-{name}.cfg"));
    fs::write(&path, text)?;
    let mut command = Command::new(programs.program(Proxy::Haproxy, Role::Local));
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}
