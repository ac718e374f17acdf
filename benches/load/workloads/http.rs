//! Plain requests of HTTP on connections that are kept.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::measure::{Figures, Span, measure};
use crate::result::Result;
use crate::route::Route;
use crate::running::Running;
use crate::targets::{PAGE, Targets};

/// Connections at once.
const CLIENTS: usize = 32;

/// Requests a small page again and again on each of [`CLIENTS`] connections.
pub(crate) fn requests(running: &Running, targets: &Targets, span: Span) -> Result<Figures> {
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let interval = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let outcome =
                    Client::connect(&running.route, targets.http).and_then(|mut client| {
                        while !stop.load(Relaxed) {
                            client.request()?;
                            done.fetch_add(1, Relaxed);
                        }
                        Ok(())
                    });
                if let Err(error) = outcome {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(error.to_string());
                }
            });
        }
        let interval = measure(running, &done, span);
        stop.store(true, Relaxed);
        interval
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(format!("a request failed: {error}").into()),
        None => {
            let interval = interval?;
            Ok(vec![
                ("requests/s", interval.count / interval.seconds),
                ("CPU us/request", interval.cpu * 1e6 / interval.count),
            ])
        }
    }
}

struct Client {
    route: Route,
    target: SocketAddr,
    stream: TcpStream,
    request: String,
    response: Vec<u8>,
}

impl Client {
    /// A connection to an HTTP proxy, or through another kind of proxy to `target`.
    fn connect(route: &Route, target: SocketAddr) -> Result<Self> {
        let uri = match route {
            Route::Http(_) => format!("http://{target}/"),
            _ => "/".to_owned(),
        };
        Ok(Self {
            route: route.clone(),
            target,
            stream: open(route, target)?,
            request: format!("GET {uri} HTTP/1.1\r\nHost: {target}\r\nAccept: */*\r\n\r\n"),
            response: Vec::new(),
        })
    }

    /// Sends the request and reads the response, whose body is the same every time.
    fn request(&mut self) -> Result<()> {
        self.stream.write_all(self.request.as_bytes())?;
        self.response.clear();
        let mut part = [0; 4096];
        loop {
            match self.stream.read(&mut part)? {
                // A proxy need not keep connections.
                0 if self.response.is_empty() => {
                    self.stream = open(&self.route, self.target)?;
                    self.stream.write_all(self.request.as_bytes())?;
                }
                0 => return Err("a response ended early".into()),
                length => self.response.extend(part.get(..length).unwrap_or_default()),
            }
            let end = self
                .response
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = end
                && self.response.len() >= end + 4 + PAGE
            {
                break;
            }
        }
        match self.response.get(9..12) {
            Some(b"200") => Ok(()),
            _ => Err("the response is an error".into()),
        }
    }
}

fn open(route: &Route, target: SocketAddr) -> Result<TcpStream> {
    Ok(match route {
        Route::Http(proxy) => Route::Direct.connect(&(*proxy).into())?,
        other => other.connect(&target.into())?,
    })
}
