//! `admin`: the API for operators.

use std::net::Ipv4Addr;

use super::context::{Context, EndpointRole, host_address};
use super::keys::expand;
use super::model::{Admin, Tls};
use super::tls;
use crate::config::secret::Secret;
use crate::config::written::file::{self, Top};
use crate::wire::address::Address;

/// The port, where `address` has none.
const PORT: u16 = 9080;
/// The shortest token that is accepted on an address that others can reach.
const SHORTEST_TOKEN: usize = 16;

/// Translates `admin`.
pub(super) fn admin(top: &Top, cx: &mut Context<'_>) -> Option<Admin> {
    let written = top.admin.as_ref()?;
    let has_api = written.address.is_some() || written.token.is_some() || written.tls.is_some();
    if written.state.is_some() && !has_api {
        return None;
    }
    if !cfg!(feature = "admin") {
        cx.report.error_hint(
            "admin",
            "this build has no admin API",
            "take the full build of ssr, or leave all but `admin.state` out",
        );
        return None;
    }
    let address = match written.address.as_deref().filter(|text| !text.is_empty()) {
        None => Address::Ip((Ipv4Addr::LOCALHOST, PORT).into()),
        Some(text) => host_address("admin.address", text, Some(PORT), cx)?,
    };
    if address.port() == 0 {
        let message = "port 0 cannot be connected to";
        cx.report
            .error_hint("admin.address", message, "use 1 to 65535");
        return None;
    }
    let token = match &written.token {
        Some(token) if !token.expose().is_empty() => Some(expand("admin.token", token, cx)?),
        _ => None,
    };
    check_token(token.as_ref(), cx);
    let tls = written.tls.as_ref().map(|tls| self::tls(tls, cx));
    if !is_local(&address) {
        refuse_open(token.as_ref(), tls.is_some(), cx);
    }
    Some(Admin {
        address,
        token,
        tls,
    })
}

fn tls(written: &file::Tls, cx: &mut Context<'_>) -> Tls {
    const AT: &str = "admin.tls";
    let path_of = |key: &str| format!("{AT}.{key}");
    let role = EndpointRole::Listen;
    let tls = tls::tls(written, role, AT, &path_of, cx);
    tls::try_files(&tls, role, "localhost", &path_of, cx);
    tls
}

/// A token stands in a header field: it must be visible ASCII.
fn check_token(token: Option<&Secret>, cx: &mut Context<'_>) {
    let is_visible = |token: &Secret| token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if !token.is_none_or(is_visible) {
        let message = "the token has characters that cannot be sent in a header field";
        let hint = "use letters and digits: `openssl rand -hex 32` prints some";
        cx.report.error_hint("admin.token", message, hint);
    }
}

/// Whether only this machine can connect to `address`.
fn is_local(address: &Address) -> bool {
    match address {
        Address::Ip(address) => address.ip().to_canonical().is_loopback(),
        Address::Domain(name, _) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// On an address that others can reach, callers must be known, and nobody may read along.
fn refuse_open(token: Option<&Secret>, has_tls: bool, cx: &mut Context<'_>) {
    let is_long = |token: &Secret| token.expose().len() >= SHORTEST_TOKEN;
    if !token.is_some_and(is_long) {
        let message = format!(
            "others can reach `admin.address`: a token of at least {SHORTEST_TOKEN} characters is needed"
        );
        let hint = "`openssl rand -hex 32` prints one; or listen on 127.0.0.1";
        cx.report.error_hint("admin.token", message, hint);
    }
    if !has_tls {
        let message = "missing: others can reach `admin.address`, and could read the token";
        let hint = "set `cert` and `key`; or listen on 127.0.0.1, and connect by `ssh -L 9080:127.0.0.1:9080`";
        cx.report.error_hint("admin.tls", message, hint);
    }
}
