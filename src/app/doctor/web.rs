//! Requests to the target of the download, through a server and without one.

use std::time::Duration;

use tokio::time::timeout;

use super::context::Context;
use super::exchange::{Reply, Request, Shift, ask};
use super::query;
use crate::net::dial::SpeaksFirst;
use crate::outbound::endpoint::Endpoint;

/// Bytes of an answer that are read.
const LONGEST: usize = 16 * 1024;

/// Asks the target of the download for its head, in the time that `shift` says.
pub(super) async fn ask_web(
    cx: &Context<'_>,
    endpoint: &Endpoint,
    shift: Shift,
    limit: Duration,
) -> Reply {
    let web = &cx.settings.down;
    let bytes = query::head(web);
    let request = Request {
        target: &web.target,
        bytes: &bytes,
        begins: b"HTTP/",
        is_enough: query::is_status,
    };
    ask(endpoint, &request, shift, limit).await
}

/// The head of the answer to the same request without a server in between.
pub(super) async fn ask_directly(cx: &Context<'_>, limit: Duration) -> Option<String> {
    let asked = async {
        let web = &cx.settings.down;
        let dial = cx.parts.direct();
        let stream = dial.dial(&web.target, true, SpeaksFirst::Us).await.ok()?;
        stream.write_all(&query::head(web)).await.ok()?;
        let (mut head, mut room) = (Vec::new(), [0; 2048]);
        while head.len() < LONGEST && !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut room).await {
                Ok(count) if count > 0 => head.extend_from_slice(room.get(..count)?),
                _ => break,
            }
        }
        String::from_utf8(head).ok()
    };
    timeout(limit, asked).await.ok()?
}
