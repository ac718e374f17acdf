//! `manager_address` and `manager_port`: where a manager says which ports `ssr server` serves.

use std::path::Path;
use std::sync::Arc;

use super::context::{Context, filled, host_address};
use super::managed::{Manager, ManagerAddress, Template};
use crate::config::role::Role;
use crate::config::written::file::Top;
use crate::config::written::scalar::Number;
use crate::wire::address::Address;

/// Whether `ssr server` has a manager, and may begin without servers.
pub(super) fn is_set(top: &Top, role: Role) -> bool {
    role == Role::Server && filled(top.manager_address.as_deref()).is_some()
}

/// Translates `manager_address` and `manager_port`. Only `ssr server` has a manager.
pub(super) fn manager(top: &Top, cx: &mut Context<'_>) -> Option<Manager> {
    if !is_set(top, cx.role) {
        return None;
    }
    let text = top.manager_address.as_deref()?;
    let address = match text.contains('/') {
        true => ManagerAddress::Path(Path::new(text).to_owned()),
        false => ManagerAddress::Udp(udp(text, top, cx)?),
    };
    Some(Manager {
        address,
        template: Arc::new(Template {
            top: top.clone(),
            file: cx.file.to_owned(),
            files: cx.files,
        }),
    })
}

fn udp(text: &str, top: &Top, cx: &mut Context<'_>) -> Option<Address> {
    const KEY: &str = "manager_address";
    let port = top.manager_port.map(|Number(port)| port);
    let address = host_address(KEY, text, port, cx)?;
    if address.port() == 0 {
        let hint = "set `manager_port`, or write HOST:PORT, or a path with a `/` for a unix socket";
        cx.report.error_hint(KEY, "the port is missing", hint);
        return None;
    }
    let is_local = match &address {
        Address::Ip(address) => address.ip().to_canonical().is_loopback(),
        Address::Domain(name, _) => name.eq_ignore_ascii_case("localhost"),
    };
    if !is_local {
        let message = "others can reach this address, and nobody proves who sends commands: anybody can add and remove ports";
        let hint = "use 127.0.0.1, or the path of a unix socket";
        cx.report.warn_hint(KEY, message, hint);
    }
    Some(address)
}
