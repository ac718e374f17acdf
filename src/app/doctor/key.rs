//! The method and the key: a request to a target through the server.
//!
//! A server answers strangers with silence. So where a request is not answered, the same is tried with a random key, with
//! other times, other methods and other transports: what the server does then tells what is wrong.

use std::pin::pin;
use std::time::Duration;

use super::clock;
use super::context::{Context, Job, first, millis};
use super::exchange::{Heard, Reply, Request, Shift, ask};
use super::layers;
use super::query::{self, Family, Said};
use super::report::{Code, Problem, Verdict};
use super::web::ask_web;
use crate::app::services::single::Running;
use crate::config::{Keys, Server};
use crate::crypto::{self, Key, Method};
use crate::outbound::endpoint::Endpoint;

/// How long an answer may take.
const ANSWERED: Duration = Duration::from_secs(4);
/// How long it may take in the attempts that follow.
const TRIED: Duration = Duration::from_millis(2500);
/// A stranger is closed later than a client whose target fails by at least this.
const SOONER: Duration = Duration::from_millis(700);

/// What is known of a server once its key was tried.
pub(super) struct Known {
    pub(super) verdict: Verdict,
    /// What the name server says of the host of the download, through the server.
    pub(super) said: Option<Said>,
    /// Whether the target of the download answers.
    pub(super) reaches_web: bool,
}

/// A server, its plugin, and how it is reached.
pub(super) struct Subject<'a> {
    pub(super) server: &'a Server,
    pub(super) plugin: &'a Running,
    pub(super) endpoint: &'a Endpoint,
}

impl Subject<'_> {
    fn place(&self) -> String {
        format!("server {}", self.server.address)
    }

    fn fault(&self, code: Code, what: impl Into<String>, cure: impl Into<String>) -> Verdict {
        Verdict::Fault(Problem::new(code, what, self.place(), cure))
    }
}

/// Asks the name server for the host of the download.
async fn ask_names(
    cx: &Context<'_>,
    endpoint: &Endpoint,
    limit: Duration,
) -> (Reply, Option<Said>) {
    let id = rand::random();
    let host = query::asked_name(&cx.settings.down);
    let query = query::query(&host, Family::V4, id).unwrap_or_default();
    let bytes = query::over_stream(&query);
    let request = Request {
        target: &cx.settings.name_server,
        bytes: &bytes,
        begins: &[],
        is_enough: query::is_message,
    };
    let reply = ask(endpoint, &request, Shift::default(), limit).await;
    let said = match &reply.heard {
        Heard::Answer(bytes) => {
            query::from_stream(bytes).and_then(|bytes| query::answer(bytes, id))
        }
        _ => None,
    };
    (reply, said)
}

/// Tries the method and the key.
pub(super) async fn try_key(cx: &Context<'_>, subject: &Subject<'_>) -> Known {
    let endpoint = subject.endpoint;
    let web = ask_web(cx, endpoint, Shift::default(), ANSWERED);
    let (web, (names, said)) = tokio::join!(web, ask_names(cx, endpoint, ANSWERED));
    let reaches_web = matches!(web.heard, Heard::Answer(_));
    let answered = reaches_web || matches!(names.heard, Heard::Answer(_));
    let verdict = match (answered, reaches_web) {
        (true, true) => Verdict::Ok(format!(
            "{} is right; {} answered in {}",
            endpoint.credentials.method(),
            cx.settings.down.target,
            millis(web.after)
        )),
        (true, false) => Verdict::Warning(Problem::new(
            Code::TargetUnreachable,
            format!(
                "method and key are right, and the server does not reach {} ({})",
                cx.settings.down.target,
                describe(&web.heard)
            ),
            subject.place(),
            "choose a target that the server reaches with `--url http://HOST/PATH`",
        )),
        (false, _) => match judged(cx, subject, &web, &names).await {
            Some(verdict) => verdict,
            None => search(cx, subject).await,
        },
    };
    Known {
        verdict,
        said,
        reaches_web,
    }
}

fn describe(heard: &Heard) -> String {
    match heard {
        Heard::Answer(_) => "it answered".to_owned(),
        Heard::Closed => "the connection was closed without an answer".to_owned(),
        Heard::Silence => "no answer came".to_owned(),
        Heard::Foreign(_) => "the answer cannot be read".to_owned(),
        Heard::Skewed(_) => "the clocks differ".to_owned(),
        Heard::Unconnected(error) => error.to_string(),
    }
}

/// What the reactions themselves say; `None`: nothing.
async fn judged(
    cx: &Context<'_>,
    subject: &Subject<'_>,
    web: &Reply,
    names: &Reply,
) -> Option<Verdict> {
    for reply in [web, names] {
        match &reply.heard {
            Heard::Skewed(seconds) => return Some(clock::fault(*seconds, &subject.place())),
            Heard::Foreign(bytes) => return Some(foreign(cx, subject, bytes).await),
            Heard::Unconnected(error) => {
                let cure = "run `ssr doctor` again; if it stays so, the server refuses a part of the connections: read its log";
                return Some(subject.fault(Code::Transport, error.to_string(), cure));
            }
            _ => {}
        }
    }
    None
}

/// The server answers in another protocol.
async fn foreign(cx: &Context<'_>, subject: &Subject<'_>, bytes: &[u8]) -> Verdict {
    if let Some(verdict) = layers::mismatch(cx, subject.server, subject.plugin).await {
        return verdict;
    }
    let speaks = match bytes {
        [0x15 | 0x16, 3, ..] => "TLS",
        [b'H', b'T', b'T', b'P', ..] => "HTTP",
        [b'S', b'S', b'H', ..] => "SSH",
        _ => "",
    };
    match speaks {
        "" => subject.fault(
            Code::WrongKey,
            "what the server answers cannot be decrypted with this method and key",
            "copy `method` and `password` from the config of the server",
        ),
        speaks => subject.fault(
            Code::TransportMismatch,
            format!("the port speaks {speaks}, and not the protocol of the config"),
            "correct `server_port`, or set the same `transport` on both sides",
        ),
    }
}

/// Nothing came, or the connection was closed: tries what may be wrong.
async fn search(cx: &Context<'_>, subject: &Subject<'_>) -> Verdict {
    let own = subject.endpoint.credentials.method();
    let method: Job<'_, Option<Verdict>> = Box::pin(async {
        let method = other_method(cx, subject).await?;
        Some(subject.fault(
            Code::WrongMethod,
            format!(
                "the config says {own}, and the server uses {method}: with it, the key is right"
            ),
            format!("set `method` to \"{method}\""),
        ))
    });
    let clock: Job<'_, Option<Verdict>> = Box::pin(async {
        let seconds = clock::search(cx, subject.server, subject.plugin).await?;
        Some(clock::fault(seconds, &subject.place()))
    });
    let transport = Box::pin(layers::mismatch(cx, subject.server, subject.plugin));
    let mut other = pin!(first(vec![method, clock, transport]));
    let mut stranger = pin!(reacts_as_to_a_stranger(cx, subject));
    let mut same = None;
    let found = loop {
        tokio::select! {
            found = &mut other => break found,
            reacts = &mut stranger, if same.is_none() => same = Some(reacts),
        }
    };
    if let Some(verdict) = found {
        return verdict;
    }
    let same = match same {
        Some(same) => same,
        None => stranger.await,
    };
    if !same {
        return subject.fault(
            Code::TargetUnreachable,
            format!(
                "the server accepts method and key, and reaches neither {} nor {}",
                cx.settings.down.target, cx.settings.name_server
            ),
            "check the connection of the server to the internet, or choose targets that it reaches with `--url` and `--name-server`",
        );
    }
    let clocks = match own.family() {
        crypto::Family::Aead2022 => " A difference of the clocks of up to a day was ruled out.",
        _ => "",
    };
    let users = match subject.server.keys.identity.is_empty() {
        true => "",
        false => ", or the user is not in `users` of the server",
    };
    subject.fault(
        Code::WrongKey,
        format!(
            "the server reacts as to a stranger: the key (`password`) is wrong{users}. Other methods with this password do not work either.{clocks}"
        ),
        "copy `method` and `password` from the config of the server; its log with -v says what it finds wrong",
    )
}

/// Whether the server reacts to a random key as to ours. If our key is right and its targets fail, it closes sooner.
async fn reacts_as_to_a_stranger(cx: &Context<'_>, subject: &Subject<'_>) -> bool {
    let method = subject.server.method;
    let random: [u8; 32] = rand::random();
    let key = random.get(..method.key_len()).and_then(Key::from_slice);
    let Some(key) = key else { return true };
    let stranger = Server {
        keys: Keys {
            identity: Vec::new(),
            key,
        },
        ..subject.server.clone()
    };
    let Ok(stranger) = cx.endpoint(&stranger, subject.plugin) else {
        return true;
    };
    let ours = ask_web(cx, subject.endpoint, Shift::default(), TRIED);
    let (ours, other) = tokio::join!(ours, ask_web(cx, &stranger, Shift::default(), TRIED));
    match (&ours.heard, &other.heard) {
        (Heard::Closed, Heard::Silence) => ours.after + SOONER > other.after,
        (Heard::Closed, Heard::Closed) => ours.after + SOONER > other.after,
        _ => true,
    }
}

/// A method that works in place of the one of the config.
async fn other_method(cx: &Context<'_>, subject: &Subject<'_>) -> Option<Method> {
    let server = subject.server;
    let others = Method::ALL
        .into_iter()
        .filter(|method| *method != server.method && method.family() != crypto::Family::Plain);
    let jobs = others.filter_map(|method| {
        let server = Server {
            method,
            keys: keys_for(server, method)?,
            ..server.clone()
        };
        let job: Job<'_, Option<Method>> = Box::pin(async move {
            let endpoint = cx.endpoint(&server, subject.plugin).ok()?;
            let reply = ask_web(cx, &endpoint, Shift::default(), TRIED).await;
            matches!(reply.heard, Heard::Answer(_) | Heard::Skewed(_)).then_some(method)
        });
        Some(job)
    });
    first(jobs.collect()).await
}

/// The keys that the password of `server` would be with another method.
fn keys_for(server: &Server, method: Method) -> Option<Keys> {
    use crypto::Family::{Aead2017, Aead2022, Plain};
    let written = server.password.as_ref().map(|secret| secret.expose());
    let password = written.map(|text| {
        let name = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'));
        let value = name.and_then(|name| std::env::var(name).ok());
        value.unwrap_or_else(|| text.to_owned())
    });
    let alone = |key| Keys {
        identity: Vec::new(),
        key,
    };
    match (server.method.family(), method.family()) {
        (_, Plain) => None,
        (Aead2022, Aead2022) => {
            let fits = server.keys.key.as_bytes().len() == method.key_len();
            let chain = method.supports_identity() || server.keys.identity.is_empty();
            (fits && chain).then(|| server.keys.clone())
        }
        (_, Aead2017) => Some(alone(Key::from_password(method, password?.as_bytes()))),
        (_, Aead2022) => Key::from_base64(method, &password?).ok().map(alone),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::{Role, parse};

    fn server(method: &str, password: &str) -> Server {
        let text = format!(
            r#"{{"server": "192.0.2.1", "server_port": 1, "method": "{method}", "password": "{password}", "local_port": 1}}"#
        );
        let parsed = parse(&text, Role::Local, &|_| None).unwrap();
        parsed.servers.into_iter().next().unwrap()
    }

    #[test]
    fn a_password_is_tried_with_the_methods_that_it_fits() {
        let fits = |server: &Server| -> Vec<&str> {
            let methods = Method::ALL.into_iter();
            let fits = methods.filter(|method| keys_for(server, *method).is_some());
            fits.map(Method::name).collect()
        };
        let of_2017 = server("aes-256-gcm", "secret");
        assert_eq!(
            fits(&of_2017),
            [
                "aes-128-gcm",
                "aes-192-gcm",
                "aes-256-gcm",
                "chacha20-ietf-poly1305",
                "xchacha20-ietf-poly1305"
            ]
        );
        let shorter = keys_for(&of_2017, Method::Aes128Gcm).unwrap();
        assert_eq!(
            shorter.key.as_bytes(),
            server("aes-128-gcm", "secret").keys.key.as_bytes()
        );
        let of_2022 = server("2022-blake3-aes-128-gcm", "MTIzNDU2Nzg5MDEyMzQ1Ng==");
        let found = fits(&of_2022);
        assert!(found.contains(&"2022-blake3-aes-128-gcm") && found.contains(&"aes-128-gcm"));
        assert!(!found.contains(&"2022-blake3-aes-256-gcm"));
    }
}
