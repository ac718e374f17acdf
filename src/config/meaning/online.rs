//! `online_config`: lists of servers on the web (SIP008).

use std::time::Duration;

use super::between::OnlineConfig;
use super::context::Context;
use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::written::file::Top;
use crate::net::fetch::has_scheme;

/// The default of shadowsocks-rust.
const INTERVAL: Duration = Duration::from_secs(3600);

/// The subscription of `ssr local`, if there is one.
pub(super) fn online(top: &Top, cx: &mut Context<'_>) -> Option<OnlineConfig> {
    let written = top.online_config.as_ref()?;
    let interval = cx.seconds("online_config.update_interval", written.update_interval);
    let path = "online_config.config_url";
    let url = match written.config_url.as_ref().map(Secret::expose) {
        None | Some("") => {
            let is_blank = written.update_interval.is_none() && written.allowed_plugins.is_none();
            if !is_blank {
                cx.report.error(path, "missing: the URL of the list");
            }
            return None;
        }
        Some(url) => url,
    };
    if has_scheme(url, "http://") {
        cx.report.warn_hint(
            path,
            "not https: anybody on the way can read the passwords and change the servers",
            "use https://",
        );
    } else if !has_scheme(url, "https://") {
        cx.report
            .error_hint(path, "not a URL that can be downloaded", "use https://");
    }
    if cx.role != Role::Local {
        return None;
    }
    let proxies = top.outbound_proxy.as_ref();
    let proxies = proxies.map(|proxies| proxies.items.clone());
    Some(OnlineConfig {
        url: Secret::from(url.to_owned()),
        interval: interval.unwrap_or(INTERVAL),
        allowed_plugins: written.allowed_plugins.clone().unwrap_or_default(),
        outbound_proxy: proxies
            .unwrap_or_default()
            .into_iter()
            .map(Secret::from)
            .collect(),
    })
}
