//! What all steps share.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::report::{Code, Event, Finding, Problem, Step, Verdict};
use crate::app::error::Error;
use crate::app::services::single::{Parts, Running};
use crate::config::{Config, Server};
use crate::dns::Resolver;
use crate::outbound::endpoint::Endpoint;
use crate::wire::Address;

/// How long one connection to a server may take.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a step may take.
const STEP: Duration = Duration::from_secs(14);
/// How long everything may take.
const WHOLE: Duration = Duration::from_secs(58);

/// A file on the web, by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// Where it is.
    pub target: Address,
    /// The `Host` of requests.
    pub host: String,
    /// Its path.
    pub path: String,
}

/// What is asked through the servers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is downloaded.
    pub down: Web,
    /// Where uploads go.
    pub up: Web,
    /// The name server.
    pub name_server: Address,
}

/// Several things at once.
pub(super) type Job<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs all jobs at once; the results are in their order.
pub(super) async fn all<T>(jobs: Vec<Job<'_, T>>) -> Vec<T> {
    let mut jobs: Vec<(Job<'_, T>, Option<T>)> = jobs.into_iter().map(|job| (job, None)).collect();
    poll_fn(|cx| {
        let mut waits = false;
        for (job, result) in &mut jobs {
            if result.is_none() {
                match job.as_mut().poll(cx) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => waits = true,
                }
            }
        }
        match waits {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    jobs.into_iter().filter_map(|(_, result)| result).collect()
}

/// Runs all jobs at once, until one has a result.
pub(super) async fn first<T>(mut jobs: Vec<Job<'_, Option<T>>>) -> Option<T> {
    poll_fn(|cx| {
        let mut found = None;
        jobs.retain_mut(|job| match (&found, job.as_mut().poll(cx)) {
            (None, Poll::Ready(result)) => {
                found = result;
                false
            }
            (_, polled) => polled.is_pending(),
        });
        match (found, jobs.is_empty()) {
            (None, false) => Poll::Pending,
            (found, _) => Poll::Ready(found),
        }
    })
    .await
}

/// Where findings and events go.
pub(super) struct Sink<'a> {
    pub(super) show: &'a dyn Fn(Event<'_>),
    pub(super) found: RefCell<Vec<Finding>>,
}

/// The config, what is asked, and where the results go.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    pub(super) settings: &'a Settings,
    pub(super) parts: Parts<'a>,
    pub(super) resolver: Arc<Resolver>,
    sink: Sink<'a>,
    deadline: Instant,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        config: &'a Config,
        settings: &'a Settings,
        resolver: Arc<Resolver>,
        sink: Sink<'a>,
    ) -> Self {
        Self {
            config,
            settings,
            parts: Parts::new(config, Arc::clone(&resolver)),
            resolver,
            sink,
            deadline: Instant::now() + WHOLE,
        }
    }

    /// Says that a step begins.
    pub(super) fn begin(&self, step: Step, server: Option<&str>) {
        (self.sink.show)(Event::Begins(step, server));
    }

    /// Notes a result.
    pub(super) fn note(&self, step: Step, server: Option<&str>, verdict: Verdict) {
        let finding = Finding {
            step,
            server: server.map(str::to_owned),
            verdict,
        };
        (self.sink.show)(Event::Found(&finding));
        self.sink.found.borrow_mut().push(finding);
    }

    /// Does a step, and notes its result. Returns whether there was no fault.
    pub(super) async fn step(
        &self,
        step: Step,
        server: Option<&str>,
        work: impl Future<Output = Verdict>,
    ) -> bool {
        self.begin(step, server);
        let deadline = self.deadline.min(Instant::now() + STEP);
        let verdict = timeout_at(deadline, Box::pin(work)).await;
        let verdict = verdict.unwrap_or_else(|_| {
            let place = server.map_or_else(|| "this machine".to_owned(), |name| format!("server {name}"));
            Verdict::Warning(Problem::new(
                Code::TooSlow,
                format!("the step `{}` did not end in its time, and was given up", step.name()),
                place,
                "run `ssr doctor` again; if it stays so, the way to the server is very slow or loses most packets",
            ))
        });
        let works = !matches!(verdict, Verdict::Fault(_));
        self.note(step, server, verdict);
        works
    }

    /// Whether the time is over.
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.sink.found.into_inner()
    }

    /// `server` as `ssr local` reaches it, with less patience.
    pub(super) fn endpoint(&self, server: &Server, plugin: &Running) -> Result<Endpoint, Error> {
        let mut endpoint = self.parts.endpoint(server, plugin)?;
        endpoint.dialer.connect_timeout = endpoint.dialer.connect_timeout.min(CONNECT);
        Ok(endpoint)
    }
}

/// A time as people read it.
pub(super) fn millis(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{} ms", micros / 1000),
    }
}
