//! Running in the background, for `-d` and for `-f` of shadowsocks-libev.
//!
//! The program starts itself once more, detached from the terminal, and waits until that process serves. So an error at
//! start is still printed, and the exit code tells whether it runs. No process is forked.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use clap::{Args, ValueHint};
use ssr::config::{Config, Sink};

use super::output::{SOFTWARE, UNAVAILABLE, print_error};
use super::request::{Daemon, Request};

/// Set for the process in the background.
const MARK: &str = "SSR_IN_BACKGROUND";
/// The socket of the system log.
const SYSTEM_LOG: &str = "/dev/log";

/// The flags that make a service of the process.
#[derive(Args)]
pub(super) struct DaemonArgs {
    /// Run in the background once it serves; systemd does not need this
    #[arg(short, long)]
    daemonize: bool,
    /// The same, and write the process id to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    daemonize_pid: Option<PathBuf>,
    /// Become this user once the ports are bound
    #[arg(short = 'a', long, value_name = "USER", value_hint = ValueHint::Username)]
    user: Option<String>,
}

impl DaemonArgs {
    pub(super) fn apply(self, request: &mut Request) {
        if let Some(user) = self.user {
            request.flags.set("user", user, "--user");
        }
        if self.daemonize || self.daemonize_pid.is_some() {
            request.daemon = Some(Daemon {
                pid_file: self.daemonize_pid,
            });
        }
    }
}

/// Whether this is the process in the background.
pub(crate) fn is_background() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the process in the background, waits until it serves, and returns the exit code of this one.
pub(crate) fn launch(daemon: &Daemon) -> ExitCode {
    start(daemon).unwrap_or_else(|message| {
        print_error(&format!("error: {message}"));
        UNAVAILABLE.into()
    })
}

fn start(daemon: &Daemon) -> Result<ExitCode, String> {
    let mut pid_file = match &daemon.pid_file {
        Some(path) => {
            let file = File::create(path)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Some((path, file))
        }
        None => None,
    };
    let mut child = spawn().map_err(|error| format!("cannot start in background: {error}"))?;
    let served = match &mut child.stdout {
        Some(stdout) => matches!(stdout.read(&mut [0]), Ok(1)),
        None => false,
    };
    if !served {
        let status = child.wait().map_err(|error| error.to_string())?;
        // It has printed its error.
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(code.unwrap_or(SOFTWARE).into());
    }
    if let Some((path, file)) = &mut pid_file
        && let Err(error) = writeln!(file, "{}", child.id())
    {
        let _ = child.kill();
        return Err(format!("cannot write {}: {error}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn spawn() -> io::Result<Child> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}

/// Leaves the terminal's session. In the process in the background, before it logs.
///
/// # Errors
/// Those of the system.
pub(crate) fn leave_session(config: &mut Config) -> io::Result<()> {
    rustix::process::setsid()?;
    let to_console = |sink: &Sink| matches!(sink, Sink::Console);
    if Path::new(SYSTEM_LOG).exists() {
        for writer in &mut config.log.writers {
            if to_console(&writer.sink) {
                writer.sink = Sink::Syslog {
                    identity: None,
                    facility: 3,
                };
            }
        }
    } else if config
        .log
        .writers
        .iter()
        .any(|writer| to_console(&writer.sink))
    {
        print_error(&format!(
            "warning: no {SYSTEM_LOG}: in the background the log is lost; use `log.writers` with a file"
        ));
    }
    Ok(())
}

/// Writes our id over that of the process that this one takes over from (`ssr upgrade`). An empty file is for the process that
/// waits for this one to write.
///
/// # Errors
/// Those of the system.
pub(crate) fn note_pid(path: &Path) -> io::Result<()> {
    let own = std::process::id().to_string();
    let named = std::fs::read_to_string(path)?;
    match named.trim() {
        "" => Ok(()),
        named if named == own => Ok(()),
        _ => std::fs::write(path, format!("{own}\n")),
    }
}

/// Tells the process that waits that this one serves, and lets go of the terminal.
///
/// # Errors
/// Those of the system.
pub(crate) fn detach() -> io::Result<()> {
    io::stdout().write_all(b"\n")?;
    io::stdout().flush()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
