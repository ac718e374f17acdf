//! The steps of `ssr server`: certificates, and what it reaches.

use std::time::Duration;

use tokio::time::Instant;

use super::context::{Context, millis};
use super::query;
use super::report::{Code, Problem, Verdict};
use super::web::ask_directly;
use crate::config::Server;
use crate::net::tls::{Validity, validity};
use crate::net::unix_now;

/// A certificate that expires sooner is worth a word: in seconds, two weeks.
const SOON: u64 = 14 * 86_400;
/// How long the target may take.
const ANSWERED: Duration = Duration::from_secs(5);

/// Reads the certificate of a server, and looks at its dates. `None`: it has none.
pub(super) fn certificate(cx: &Context<'_>, server: &Server) -> Option<Verdict> {
    let tls = server.transport.as_ref()?.tls.as_ref()?;
    let (cert, _) = tls.identity.as_ref()?;
    let place = format!("{}: {}", tls.at, cert.place());
    let fault =
        |code, what: String, cure: &str| Verdict::Fault(Problem::new(code, what, &place, cure));
    if let Err(error) = cx.parts.certificate(server) {
        return Some(fault(
            Code::CertificateUnusable,
            error.to_string(),
            "correct `cert` and `key`: the chain of certificates, the server's own first, and its private key",
        ));
    }
    let at = |time| validity(cert, time);
    Some(match (at(unix_now()), at(unix_now() + SOON)) {
        (Err(error), _) => fault(
            Code::CertificateUnusable,
            error.to_string(),
            "make the certificate again",
        ),
        (Ok(Validity::Expired), _) => fault(
            Code::CertificateExpired,
            "the certificate has expired".to_owned(),
            "renew it; a running ssr reads the new file by itself. If it is valid, set the clock",
        ),
        (Ok(Validity::NotYet), _) => fault(
            Code::CertificateNotYetValid,
            "the certificate is not valid yet".to_owned(),
            "set the clock of this machine",
        ),
        (Ok(Validity::Valid), Ok(Validity::Expired)) => Verdict::Warning(Problem::new(
            Code::CertificateExpired,
            "the certificate expires within two weeks",
            &place,
            "renew it; a running ssr reads the new file by itself",
        )),
        (Ok(Validity::Valid), _) => Verdict::Ok(format!("{} is valid", cert.place())),
    })
}

/// Whether the server reaches the internet.
pub(super) async fn targets(cx: &Context<'_>) -> Verdict {
    let begun = Instant::now();
    let target = &cx.settings.down.target;
    let head = ask_directly(cx, ANSWERED).await.unwrap_or_default();
    match query::status(head.as_bytes()) {
        Some(status) => Verdict::Ok(format!(
            "{target} answered with status {status} in {}",
            millis(begun.elapsed())
        )),
        None => Verdict::Fault(Problem::new(
            Code::TargetUnreachable,
            format!(
                "{target} does not answer: clients will reach nothing, if this is so for all targets"
            ),
            "from this machine to the internet",
            "check `ip route`, the name servers and the firewall, or choose another target with `--url http://HOST/PATH`",
        )),
    }
}
