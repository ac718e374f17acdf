//! haproxy in TCP mode.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::kind::Kind;
use crate::process::file_limit;
use crate::programs::{Programs, Role};
use crate::result::Result;

/// A haproxy that forwards each port to another.
pub(crate) fn command(
    programs: &Programs,
    directory: &Path,
    name: &str,
    option: &str,
    from: &[SocketAddr],
    to: &[SocketAddr],
) -> Result<Command> {
    // Two files a connection, as everywhere, and some for itself: it does not start where it could not have them all.
    // Pipes for splicing are a quarter as many.
    let connections = file_limit().min(65_536) / 3 - 100;
    let mut text = format!(
        "global\n  maxconn {connections}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n{option}",
    );
    for (index, (from, to)) in from.iter().zip(to).enumerate() {
        text += &format!("listen port{index}\n  bind {from}\n  server next {to}\n");
    }
    let path = directory.join(format!("haproxy-{name}.cfg"));
    fs::write(&path, text)?;
    let mut command = Command::new(programs.program(Kind::Haproxy, Role::Local));
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}
