//! A site that other web servers give out.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper::upgrade::Upgraded;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioTimer;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::io::{Io, Moved};
use super::message::{Body, BoxError, Guest, Held, empty};
use super::upstreams::{Running, Strategy, Upstream, Upstreams};
use crate::limits::{
    MAX_UPSTREAM_IDLE, MAX_UPSTREAM_TRIES, SITE_BUFFER, SITE_KEEP_ALIVE, UPSTREAM_ANSWER,
    UPSTREAM_CHECK,
};
use crate::net::tasks::Tasks;
use crate::net::{Stream, sampled};
use crate::wire::Address;

/// Connects to a web server.
pub type Dial =
    Arc<dyn Fn(Address) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>> + Send + Sync>;

/// Fields of one connection, which are not passed on (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The web servers behind a site.
pub struct ProxySettings {
    /// Where they are.
    pub upstreams: Vec<Address>,
    /// Which of them gets a request.
    pub strategy: Strategy,
    /// The path that is asked for to see how they are; `None`: they are taken for well until a request fails.
    pub check: Option<String>,
    /// Connects to them.
    pub dial: Dial,
}

/// The web servers behind a site, and the connections to them.
pub(super) struct Proxy {
    upstreams: Arc<Upstreams>,
    client: Client<Connector, Body>,
    check: Option<Uri>,
    /// The connections to the servers.
    tasks: Arc<Tasks>,
}

/// Why a server gave no answer.
enum Failure {
    /// Its connection could not be made, or broke before it answered.
    Broken(ClientError),
    /// It did not answer in time.
    Silent,
}

impl Failure {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Broken(_) => StatusCode::BAD_GATEWAY,
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(error) if error.is_connect() => f.write_str("it cannot be connected to"),
            Self::Broken(_) => f.write_str("its connection broke before it answered"),
            Self::Silent => write!(
                f,
                "it did not answer within {} s",
                UPSTREAM_ANSWER.as_secs()
            ),
        }
    }
}

impl Proxy {
    pub(super) fn new(settings: ProxySettings) -> Self {
        let upstreams = Arc::new(Upstreams::new(settings.upstreams, settings.strategy));
        let tasks = Arc::new(Tasks::default());
        let connector = Connector {
            upstreams: Arc::clone(&upstreams),
            dial: settings.dial,
        };
        let client = Client::builder(Spawner(Arc::clone(&tasks)))
            .pool_idle_timeout(SITE_KEEP_ALIVE)
            .pool_max_idle_per_host(MAX_UPSTREAM_IDLE)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(SITE_BUFFER)
            .set_host(false)
            .build(connector);
        Self {
            upstreams,
            client,
            check: settings.check.and_then(|path| path.parse().ok()),
            tasks,
        }
    }

    /// The answer of one of the servers, and its side of the connection if it has changed to another protocol.
    pub(super) async fn respond(
        &self,
        request: Request<Incoming>,
        guest: Guest,
        is_trusted: bool,
    ) -> (Response<Body>, Option<Upgraded>) {
        let (mut head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let upgrade = (!has_body)
            .then(|| requested_upgrade(&head.headers))
            .flatten();
        let mut body = Some(body.map_err(Into::into).boxed_unsync());
        prepare(&mut head, guest, is_trusted, upgrade.as_ref());
        // A request that has changed something may not be made twice, nor one whose body is gone (RFC 9110 §9.2.2).
        let may_repeat = !has_body && upgrade.is_none() && head.method.is_idempotent();
        let mut status = StatusCode::BAD_GATEWAY;
        for upstream in self
            .upstreams
            .order(guest.ip)
            .into_iter()
            .take(MAX_UPSTREAM_TRIES)
        {
            let body = body.take().unwrap_or_else(empty);
            let Some(attempt) = addressed(&head, body, &upstream) else {
                return (page(StatusCode::BAD_REQUEST), None);
            };
            let running = Running::begin(&upstream);
            match self.ask(attempt).await {
                Ok(response) => {
                    upstream.note_answer();
                    return answer(response, upgrade.is_some(), running).await;
                }
                Err(failure) => {
                    upstream.note_failure();
                    let address = &upstream.address;
                    sampled::warn!(by address, "a web server behind the site gave no answer", %address, error = %failure);
                    status = failure.status();
                    let never_began =
                        matches!(&failure, Failure::Broken(error) if error.is_connect());
                    if !may_repeat && (has_body || !never_began) {
                        break;
                    }
                }
            }
        }
        (page(status), None)
    }

    async fn ask(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let asked = self.client.request(request);
        match timeout(UPSTREAM_ANSWER, asked).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::Broken(error)),
            Err(_) => Err(Failure::Silent),
        }
    }

    /// Checks the servers again and again, and removes connections that have ended.
    pub(super) async fn watch(&self) {
        let Some(check) = &self.check else {
            return self.tasks.reap().await;
        };
        let mut round = interval(UPSTREAM_CHECK);
        loop {
            round.tick().await;
            let mut checks = JoinSet::new();
            for upstream in &self.upstreams.all {
                let (upstream, client) = (Arc::clone(upstream), self.client.clone());
                let request = check_of(check, &upstream);
                checks.spawn(async move {
                    let asked = async { client.request(request?).await.ok() };
                    let answer = timeout(UPSTREAM_CHECK, asked).await.ok().flatten();
                    let is_well = answer.is_some_and(|answer| !answer.status().is_server_error());
                    if upstream.note_check(is_well) {
                        let address = &upstream.address;
                        tracing::info!(%address, is_well, "a web server behind the site has changed");
                    }
                });
            }
            tokio::select! {
                _ = checks.join_all() => {}
                () = self.tasks.reap() => {}
            }
        }
    }
}

fn check_of(path: &Uri, upstream: &Upstream) -> Option<Request<Body>> {
    let uri = uri(&upstream.authority, path)?;
    let host = HeaderValue::from_str(upstream.authority.as_str()).ok()?;
    let request = Request::builder().uri(uri).header(HOST, host);
    request.body(empty()).ok()
}

/// The URI of a request to a server.
fn uri(authority: &Authority, asked: &Uri) -> Option<Uri> {
    let path = asked.path_and_query().cloned();
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority.clone())
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
        .ok()
}

/// The request as it is sent to a server; `None`: it cannot be.
fn addressed(
    head: &http::request::Parts,
    body: Body,
    upstream: &Upstream,
) -> Option<Request<Body>> {
    // A server behind the site is no proxy for others.
    if head.method == Method::CONNECT {
        return None;
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri(&upstream.authority, &head.uri)?;
    request.headers_mut().clone_from(&head.headers);
    if !head.headers.contains_key(HOST) {
        let host = HeaderValue::from_str(upstream.authority.as_str()).ok()?;
        request.headers_mut().insert(HOST, host);
    }
    Some(request)
}

/// The protocol that a client wants to change to.
fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let is_websocket = upgrade.as_bytes().eq_ignore_ascii_case(b"websocket");
    (is_websocket && connection_words(headers).any(|word| word.eq_ignore_ascii_case("upgrade")))
        .then(|| upgrade.clone())
}

fn connection_words(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_words(headers)
        .filter_map(|word| word.parse().ok())
        .collect();
    for name in named.into_iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Leaves out what is for us alone, and says who asks.
fn prepare(
    head: &mut http::request::Parts,
    guest: Guest,
    is_trusted: bool,
    upgrade: Option<&HeaderValue>,
) {
    let headers = &mut head.headers;
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        // The target of the request counts (RFC 9112 §3.2.2).
        headers.insert(HOST, host);
    }
    remove_hop_by_hop(headers);
    for field in [EXPECT, TRAILER, FORWARDED] {
        headers.remove(field);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let ip = guest.ip.to_canonical();
    let mut set = |name: HeaderName, value: Option<HeaderValue>| {
        if is_trusted && headers.contains_key(&name) {
            return;
        }
        headers.remove(&name);
        if let Some(value) = value {
            headers.insert(name, value);
        }
    };
    let proto = if guest.tls { "https" } else { "http" };
    set(FORWARDED_PROTO, Some(HeaderValue::from_static(proto)));
    let host = head.headers.get(HOST).cloned();
    let headers = &mut head.headers;
    if !(is_trusted && headers.contains_key(&FORWARDED_HOST)) {
        headers.remove(&FORWARDED_HOST);
        if let Some(host) = host {
            headers.insert(FORWARDED_HOST, host);
        }
    }
    let chain = forwarded_for(headers, ip, is_trusted);
    headers.remove(&FORWARDED_FOR);
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    head.version = Version::HTTP_11;
}

/// The addresses through which a request has come, the last of which is that of `visitor`.
fn forwarded_for(headers: &HeaderMap, visitor: IpAddr, is_trusted: bool) -> String {
    let before = headers.get_all(&FORWARDED_FOR).iter();
    let before = before.filter_map(|value| value.to_str().ok().filter(|_| is_trusted));
    let all: Vec<String> = before
        .map(str::to_owned)
        .chain([visitor.to_string()])
        .collect();
    all.join(", ")
}

/// The answer of a server as it is passed on.
async fn answer(
    mut response: Response<Incoming>,
    may_switch: bool,
    running: Running,
) -> (Response<Body>, Option<Upgraded>) {
    let mut passed = None;
    let protocol = response.headers().get(UPGRADE).cloned();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded = hyper::upgrade::on(&mut response);
        match upgraded.await {
            Ok(upgraded) if may_switch => passed = Some(upgraded),
            _ => return (page(StatusCode::BAD_GATEWAY), None),
        }
    }
    let (mut head, body) = response.into_parts();
    remove_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    if passed.is_some() {
        let protocol = protocol.unwrap_or(HeaderValue::from_static("websocket"));
        head.headers.insert(UPGRADE, protocol);
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.remove(CONTENT_LENGTH);
    }
    // Its server has the request until the body ends.
    let body = Held::new(body, running);
    let body = body.map_err(Into::into).boxed_unsync();
    (Response::from_parts(head, body), passed)
}

/// An answer of our own.
fn page(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// Runs the connections to the servers.
#[derive(Clone)]
struct Spawner(Arc<Tasks>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, connection: F) {
        self.0.spawn(connection);
    }
}

/// Connects to the server of a URI.
#[derive(Clone)]
struct Connector {
    upstreams: Arc<Upstreams>,
    dial: Dial,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Io;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut all = self.upstreams.all.iter();
        let upstream = all.find(|one| uri.authority() == Some(&one.authority));
        let dialing = upstream.map(|one| (self.dial)(one.address.clone()));
        Box::pin(async move {
            let dialing =
                dialing.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
            let stream = dialing.await?;
            let moved = Arc::new(Moved::default());
            Ok(Io::new(Arc::new(stream), Vec::new(), moved))
        })
    }
}
