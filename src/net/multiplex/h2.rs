//! HTTP/2: each stream is a CONNECT request that is answered by 200 at once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};

use super::carrier::Carrier;
use super::channel::{Channel, stream};
use super::session::{Session, invalid};
use crate::limits::{MAX_HEAD, MAX_MULTIPLEX_STREAMS, MULTIPLEX_BUFFER, MULTIPLEX_WINDOW};
use crate::net::Stream;

/// What the client of sing-box asks for.
const AUTHORITY: &str = "localhost";

/// Unread bytes of all streams: streams that are not read leave room for the others.
const CONNECTION_WINDOW: u32 = most_streams() * MULTIPLEX_WINDOW;

#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const fn most_streams() -> u32 {
    MAX_MULTIPLEX_STREAMS as u32
}

fn max_head() -> u32 {
    u32::try_from(MAX_HEAD).unwrap_or(u32::MAX)
}

pub(super) enum Server {
    Handshake(Box<h2::server::Handshake<Carrier, Bytes>>),
    Open(Box<h2::server::Connection<Carrier, Bytes>>),
}

impl Server {
    pub(super) fn new(carrier: Stream) -> Self {
        let handshake = h2::server::Builder::new()
            .initial_window_size(MULTIPLEX_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(most_streams())
            .max_header_list_size(max_head())
            .max_send_buffer_size(MULTIPLEX_BUFFER)
            .handshake(Carrier::new(carrier));
        Self::Handshake(Box::new(handshake))
    }
}

impl Session for Server {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>> {
        loop {
            let connection = match self {
                Self::Handshake(handshake) => {
                    let opened = ready!(Pin::new(handshake).poll(cx)).map_err(failure)?;
                    *self = Self::Open(Box::new(opened));
                    continue;
                }
                Self::Open(connection) => connection,
            };
            let (request, mut respond) = match ready!(connection.poll_accept(cx)) {
                None => return Poll::Ready(Ok(None)),
                Some(accepted) => accepted.map_err(failure)?,
            };
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::OK;
            // If it cannot be answered, it was reset already.
            if let Ok(send) = respond.send_response(response, false) {
                let receive = Receive::Open(request.into_body());
                return Poll::Ready(Ok(Some(stream(Within { receive, send }))));
            }
        }
    }

    fn poll_open(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Handshake(_) => Poll::Ready(Ok(())),
            Self::Open(connection) => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                connection.poll_closed(cx).map_err(failure)
            }
        }
    }
}

type Opened = (SendRequest<Bytes>, Connection);
type Connection = h2::client::Connection<Carrier, Bytes>;
type Opening = Pin<Box<dyn Future<Output = Result<Opened, h2::Error>> + Send>>;

pub(super) enum Client {
    Handshake(Opening),
    Open(Box<SendRequest<Bytes>>, Box<Connection>),
}

impl Client {
    pub(super) fn new(carrier: Stream) -> Self {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(MULTIPLEX_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(max_head())
            .max_send_buffer_size(MULTIPLEX_BUFFER)
            .enable_push(false);
        let carrier = Carrier::new(carrier);
        Self::Handshake(Box::pin(async move { builder.handshake(carrier).await }))
    }

    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Handshake(handshake) = self {
            let (send, connection) = ready!(handshake.as_mut().poll(cx)).map_err(failure)?;
            *self = Self::Open(Box::new(send), Box::new(connection));
        }
        Poll::Ready(Ok(()))
    }
}

impl Session for Client {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>> {
        ready!(self.poll_opened(cx))?;
        match self {
            Self::Handshake(_) => Poll::Pending,
            Self::Open(_, connection) => match ready!(Pin::new(connection).poll(cx)) {
                Ok(()) => Poll::Ready(Ok(None)),
                Err(error) => Poll::Ready(Err(failure(error))),
            },
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        ready!(self.poll_opened(cx))?;
        let Self::Open(requests, _) = self else {
            return Poll::Pending;
        };
        ready!(requests.poll_ready(cx)).map_err(failure)?;
        let request = Request::builder().method(Method::CONNECT).uri(AUTHORITY);
        let request = request.body(()).map_err(invalid)?;
        let (response, send) = requests.send_request(request, false).map_err(failure)?;
        let receive = Receive::Waiting(response);
        Poll::Ready(Ok(stream(Within { receive, send })))
    }

    fn most_streams(&self) -> usize {
        match self {
            Self::Handshake(_) => MAX_MULTIPLEX_STREAMS,
            Self::Open(requests, _) => requests
                .current_max_send_streams()
                .min(MAX_MULTIPLEX_STREAMS),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection ends by itself when nobody can send requests on it.
        let closed = std::mem::replace(self, Self::Handshake(Box::pin(std::future::pending())));
        if let Self::Open(requests, mut connection) = closed {
            drop(requests);
            // What is left to be sent is sent now or never.
            let _ = Pin::new(&mut connection).poll(cx);
        }
        Poll::Ready(Ok(()))
    }
}

fn failure(error: h2::Error) -> io::Error {
    let reason = error.reason();
    match error.into_io() {
        Some(error) => error,
        None => match reason {
            Some(Reason::NO_ERROR | Reason::CANCEL) => io::ErrorKind::ConnectionReset.into(),
            Some(reason) => invalid(reason.description()),
            None => invalid("HTTP/2 failed"),
        },
    }
}

struct Within {
    receive: Receive,
    send: SendStream<Bytes>,
}

enum Receive {
    /// The response has not come yet.
    Waiting(ResponseFuture),
    Open(RecvStream),
}

impl Channel for Within {
    type Data = Bytes;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match &mut self.receive {
                Receive::Waiting(response) => {
                    let response = ready!(Pin::new(response).poll(cx)).map_err(failure)?;
                    if response.status() != StatusCode::OK {
                        let status = response.status().as_u16();
                        return Poll::Ready(Err(invalid(format!("the server answered {status}"))));
                    }
                    self.receive = Receive::Open(response.into_body());
                }
                Receive::Open(body) => {
                    return match ready!(body.poll_data(cx)) {
                        None => Poll::Ready(Ok(None)),
                        Some(data) => Poll::Ready(data.map(Some).map_err(failure)),
                    };
                }
            }
        }
    }

    fn consumed(&mut self, count: usize) {
        if let Receive::Open(body) = &mut self.receive {
            // It was counted when it came.
            let _ = body.flow_control().release_capacity(count);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wanted = bytes.len().min(MULTIPLEX_BUFFER);
        loop {
            let room = self.send.capacity().min(wanted);
            if room > 0 {
                let data = Bytes::copy_from_slice(bytes.get(..room).unwrap_or_default());
                self.send.send_data(data, false).map_err(failure)?;
                return Poll::Ready(Ok(room));
            }
            self.send.reserve_capacity(wanted);
            match ready!(self.send.poll_capacity(cx)) {
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Some(capacity) => capacity.map_err(failure)?,
            };
        }
    }

    fn poll_end(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send.reserve_capacity(0);
        // If it is reset already, there is nothing to end.
        let _ = self.send.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}
