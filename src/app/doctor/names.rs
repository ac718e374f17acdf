//! The name of a server, and whether the name servers tell the truth.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::context::{Context, all};
use super::query::{self, Family, Said};
use super::report::{Code, Problem, Verdict};
use crate::dns::{self, Addresses};
use crate::net::Stream;
use crate::net::dial::SpeaksFirst;
use crate::outbound::dialer::is_private;
use crate::wire::Address;

/// How long another name server may take.
const ASKED: Duration = Duration::from_secs(3);

fn servers(cx: &Context<'_>) -> &'static str {
    match cx.config.dns {
        dns::Source::System => "the name servers of this machine (/etc/resolv.conf)",
        _ => "the name servers of `dns` in the config",
    }
}

/// Asks for a name that does not exist.
pub(super) async fn invalid_name(cx: &Context<'_>) -> Verdict {
    // Not below `invalid`, for which resolvers have an answer of their own.
    let [name, top] = rand::random::<[u32; 2]>();
    let name = format!("{name:08x}.n{top:08x}.");
    match cx.resolver.lookup(&name).await {
        Ok(addresses) => Verdict::Fault(Problem::new(
            Code::LyingDns,
            format!(
                "the answer to a name that does not exist was {}: names that you resolve here may be wrong",
                list(&addresses)
            ),
            servers(cx),
            "use other name servers (`dns` in the config, for example \"cloudflare_tls\"), or let the server resolve names (socks5h)",
        )),
        Err(dns::Error::Timeout | dns::Error::Unreachable(_)) => Verdict::Warning(Problem::new(
            Code::NameUnresolved,
            "they do not answer",
            servers(cx),
            "correct /etc/resolv.conf, or set `dns` in the config; names of servers cannot be resolved without",
        )),
        Err(_) => {
            Verdict::Ok("a name that does not exist is not found, as it should be".to_owned())
        }
    }
}

/// Whether any name has to be resolved here.
pub(super) fn needs_names(cx: &Context<'_>) -> bool {
    let servers = cx.config.servers.iter();
    cx.config.role == crate::config::Role::Server
        || servers
            .map(|server| &server.address)
            .any(|address| matches!(address, Address::Domain(..)))
}

pub(super) fn list(addresses: &[IpAddr]) -> String {
    let text: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    text.join(", ")
}

/// Resolves the name of a server.
pub(super) async fn resolve(cx: &Context<'_>, address: &Address) -> (Verdict, Option<Addresses>) {
    let name = match address {
        Address::Ip(address) => {
            let skipped = Verdict::Skipped("the server is given by its address".to_owned());
            return (skipped, Some([address.ip()].into()));
        }
        Address::Domain(name, _) => name,
    };
    match cx.resolver.lookup(name).await {
        Ok(addresses) => (
            Verdict::Ok(format!("{name} is {}", list(&addresses))),
            Some(addresses),
        ),
        Err(error) => {
            let truth = asked_elsewhere(cx, name).await;
            let elsewhere = match &truth {
                Some(Said::Addresses(found)) if !found.is_empty() => format!(
                    "; the name server {} says {}, so yours are at fault",
                    cx.settings.name_server,
                    list(found)
                ),
                Some(Said::NoName) => format!(
                    "; the name server {} does not know it either",
                    cx.settings.name_server
                ),
                _ => String::new(),
            };
            let cure = match truth {
                Some(Said::Addresses(found)) if !found.is_empty() => {
                    "use other name servers (`dns` in the config), or write the address in place of the name"
                }
                _ => "correct `server` in the config, or the records of the name",
            };
            let fault = Verdict::Fault(Problem::new(
                Code::NameUnresolved,
                format!("the name {name} cannot be resolved: {error}{elsewhere}"),
                servers(cx),
                cure,
            ));
            (fault, None)
        }
    }
}

/// After a server could not be used at `found`: whether its name has been resolved rightly. `None`: nothing is wrong with
/// it, or that cannot be known.
pub(super) async fn second_opinion(
    cx: &Context<'_>,
    address: &Address,
    found: &Addresses,
) -> Option<Verdict> {
    let Address::Domain(name, _) = address else {
        return None;
    };
    let Some(Said::Addresses(truth)) = asked_elsewhere(cx, name).await else {
        return None;
    };
    if truth.is_empty() || truth.iter().any(|ip| found.contains(ip)) {
        return None;
    }
    let private =
        match found.iter().all(|ip| is_private(*ip)) && !truth.iter().all(|ip| is_private(*ip)) {
            true => " (a private address)",
            false => "",
        };
    Some(Verdict::Fault(Problem::new(
        Code::LyingDns,
        format!(
            "{name} was resolved to {}{private}, and the name server {} says {}",
            list(found),
            cx.settings.name_server,
            list(&truth)
        ),
        servers(cx),
        "use other name servers (`dns` in the config, for example \"cloudflare_tls\"), or write the address in place of the name",
    )))
}

/// Asks the other name server without a server in between, for both families.
async fn asked_elsewhere(cx: &Context<'_>, name: &str) -> Option<Said> {
    let families = [Family::V4, Family::V6];
    let jobs = families.map(|family| Box::pin(asked(cx, name, family)) as _);
    let mut said = all(Vec::from(jobs)).await.into_iter().flatten();
    let first = said.next()?;
    Some(match (first, said.next()) {
        (Said::Addresses(mut one), Some(Said::Addresses(other))) => {
            one.extend(other);
            Said::Addresses(one)
        }
        (_, Some(other @ Said::Addresses(_))) => other,
        (first, _) => first,
    })
}

async fn asked(cx: &Context<'_>, name: &str, family: Family) -> Option<Said> {
    let id = rand::random();
    let query = query::over_stream(&query::query(name, family, id)?);
    let asked = async {
        let dialer = cx.parts.direct();
        let server = &cx.settings.name_server;
        let stream = dialer.dial(server, true, SpeaksFirst::Us).await.ok()?;
        stream.write_all(&query).await.ok()?;
        query::answer(&read(&stream).await?, id)
    };
    timeout(ASKED, asked).await.ok()?
}

/// Reads one message.
async fn read(stream: &Stream) -> Option<Vec<u8>> {
    let (mut bytes, mut room) = (Vec::new(), [0; 2048]);
    loop {
        if let Some(message) = query::from_stream(&bytes) {
            return Some(message.to_vec());
        }
        match stream.read(&mut room).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(room.get(..count)?),
            _ => return None,
        }
    }
}
