//! hyper at both ends of the HTTP proxy: what one sends is what the other gets, whatever the framing.

use crate::{
    common::{bytes::pattern, process::v4},
    http_proxy::http,
};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    client::conn::http1 as client,
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::net::{TcpListener, TcpStream};

type Body = BoxBody<Bytes, Infallible>;

/// A body of one piece, whose length is announced, or of chunks.
fn body(bytes: Vec<u8>, is_chunked: bool) -> Body {
    if !is_chunked {
        return Full::new(Bytes::from(bytes)).boxed();
    }
    let pieces: Vec<_> = bytes.chunks(7001).map(Bytes::copy_from_slice).collect();
    Pieces(pieces.into_iter()).boxed()
}

/// A body of pieces, whose length nobody knows.
struct Pieces(std::vec::IntoIter<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
    }
}

/// Sends the body back, with the request's method and path; `/chunked` in chunks, `/close` at the end of the connection.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (head, sent) = request.into_parts();
    let bytes = sent.collect().await?.to_bytes().to_vec();
    let path = head.uri.path().to_owned();
    let answer = Response::builder()
        .header("x-line", format!("{} {}", head.method, head.uri))
        .header("x-host", head.headers["host"].clone());
    let answer = match path.as_str() {
        "/close" => answer.header("connection", "close"),
        _ => answer,
    };
    Ok(answer.body(body(bytes, path == "/chunked")).unwrap())
}

async fn origin() -> SocketAddr {
    let listener = TcpListener::bind(v4(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(echo);
            tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn hyper_understands_itself_through_the_proxy() {
    let pair = http();
    let hosts = [origin().await, origin().await];
    let stream = TcpStream::connect(pair.local.address).await.unwrap();
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for number in 0..120_usize {
        let host = hosts[number / 3 % 2];
        let path = ["/plain", "/chunked", "/close"][number % 3];
        let method = ["POST", "PUT", "GET", "HEAD", "DELETE"][number / 2 % 5];
        let len = [0, 1, 100, 16_384, 70_001, 400_000][number / 5 % 6];
        let bytes = match method {
            "POST" | "PUT" => pattern(number as u64, len),
            _ => Vec::new(),
        };
        let uri = format!("http://{host}{path}?{number}");
        let request = Request::builder()
            .method(method)
            .uri(&uri)
            .header("host", host.to_string())
            .body(body(bytes.clone(), number % 2 == 1))
            .unwrap();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let at = format!("{number}: {method} {uri}, {len} bytes");
        assert_eq!(answer.status(), 200, "{at}");
        assert_eq!(
            answer.headers()["x-line"],
            format!("{method} {path}?{number}"),
            "{at}"
        );
        assert_eq!(answer.headers()["x-host"], host.to_string(), "{at}");
        let got = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(got == bytes, "{at}: {} bytes came back", got.len());
    }
}
