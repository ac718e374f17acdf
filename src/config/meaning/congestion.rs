//! `congestion`: the congestion control of TCP.

use super::context::{Context, key_at};
use crate::config::role::Role;
use crate::config::written::file::Top;
use crate::net::congestion::{self, LONGEST_NAME, Refused};

/// Checks every algorithm in the file, which the system must have and allow.
pub(super) fn check(top: &Top, cx: &mut Context<'_>) {
    const KEY: &str = "congestion";
    // What the process is once it has its ports. Root may choose any algorithm.
    let user = top.user.as_deref();
    let will_be_another = user.is_some_and(|user| !["", "root", "0"].contains(&user));
    if let Some(name) = &top.congestion {
        one(KEY, name, will_be_another, cx);
    }
    if cx.role == Role::Forward {
        return;
    }
    let servers = top.servers.as_deref().unwrap_or_default();
    for (index, server) in servers.iter().enumerate() {
        if let (Some(name), None | Some(false)) = (&server.congestion, server.disabled) {
            let path = key_at(&format!("servers[{index}]"), KEY);
            one(&path, name, will_be_another, cx);
        }
    }
}

fn one(path: &str, name: &str, will_be_another: bool, cx: &mut Context<'_>) {
    let is_name = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name {
        let message = format!("must have 1 to {LONGEST_NAME} characters of ASCII, without spaces");
        let hint = "use the name of an algorithm, such as `bbr` or `cubic`";
        return cx.report.error_hint(path, message, hint);
    }
    // They are those of this machine, as files are.
    if !cx.files {
        return;
    }
    let allowed = congestion::allowed();
    let is_allowed = || allowed.split(' ').any(|one| one == name);
    let refused = match congestion::try_out(name) {
        Ok(()) if will_be_another && !is_allowed() => Refused::Forbidden,
        Ok(()) => return,
        Err(refused) => refused,
    };
    let lists = format!(
        "allowed are `{allowed}`, loaded `{}`",
        congestion::available()
    );
    let (what, hint) = match refused {
        Refused::Missing => (
            "not a congestion control that the system has".to_owned(),
            format!("use one that is allowed, or load this one as root: `modprobe tcp_{name}`"),
        ),
        Refused::Forbidden => (
            "a congestion control that the system does not allow".to_owned(),
            format!(
                "use one that is allowed, or allow this one as root: `sysctl -w net.ipv4.tcp_allowed_congestion_control=\"{allowed} {name}\"`"
            ),
        ),
        Refused::Other(error) => (
            format!("the system cannot use this congestion control: {error}"),
            "remove the key to use the system's".to_owned(),
        ),
    };
    cx.report
        .error_hint(path, format!("`{name}`: {what}; {lists}"), hint);
}
