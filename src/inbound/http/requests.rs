//! Reads the requests of a client, and asks for credentials.

use std::sync::Arc;

use super::pages::Page;
use crate::dns::fake::{Fakes, NoName};
use crate::inbound::login::{self, Login};
use crate::net::Stream;
use crate::net::handshake::{HandshakeError, Reader, reject};
use crate::relay::{Error, Side, User};
use crate::wire::Address;
use crate::wire::http_proxy::{Kind, MAX_HEAD, Request};

/// A request of a client that may make it.
pub(super) struct Asked {
    pub(super) target: Address,
    pub(super) kind: Kind,
    pub(super) user: Option<Arc<User>>,
}

/// Reads the next request. One without the credentials that are needed is answered, and the next one is read.
///
/// # Errors
/// When the client does not make a valid request; it has been answered.
pub(super) async fn next(
    stream: &Stream,
    reader: &mut Reader<'_>,
    logins: &[Login],
    fakes: &Fakes,
) -> Result<Asked, Error> {
    loop {
        let request = read(stream, reader).await?;
        let user =
            credentials(&request).and_then(|(name, password)| login::find(logins, name, password));
        if user.is_some() || logins.is_empty() {
            let Request { target, kind, .. } = request;
            let target = match fakes.meant(target) {
                Ok(target) => target,
                Err(NoName(address)) => {
                    let error = Error::NoName(address);
                    let is_head = matches!(&kind, Kind::Forward(forward) if forward.is_head);
                    reject(stream, &Page::of_failure(&error).response(is_head, true)).await;
                    return Err(error);
                }
            };
            return Ok(Asked { target, kind, user });
        }
        let (is_head, persists) = match &request.kind {
            Kind::Connect => (false, true),
            // A body would have to be read to find the next request.
            Kind::Forward(forward) => (forward.is_head, forward.persists && forward.body.is_over()),
        };
        let page = Page::of_login().response(is_head, !persists);
        if !persists {
            reject(stream, &page).await;
            return Err(Error::Credentials);
        }
        let written = stream.write_all(&page).await;
        written.map_err(Error::io(Side::Client))?;
    }
}

fn credentials(request: &Request) -> Option<(&[u8], &[u8])> {
    let given = request.credentials.as_deref()?;
    let colon = given.iter().position(|byte| *byte == b':')?;
    let (name, password) = given.split_at_checked(colon)?;
    Some((name, password.get(1..)?))
}

async fn read(stream: &Stream, reader: &mut Reader<'_>) -> Result<Request, Error> {
    let mut seen = 0;
    let request = reader.next(|bytes| {
        // A head that comes in many pieces is parsed when a line ends, not for each piece.
        let fresh = bytes.get(seen..).unwrap_or_default();
        let is_due = seen == 0 || fresh.contains(&b'\n') || bytes.len() >= MAX_HEAD;
        seen = bytes.len();
        if is_due {
            Request::parse(bytes)
        } else {
            Ok(None)
        }
    });
    match request.await {
        Ok(request) => Ok(request),
        Err(HandshakeError::End) => Err(Error::HandshakeEnd),
        Err(HandshakeError::Io(error)) => Err(Error::io(Side::Client)(error)),
        Err(HandshakeError::Invalid(error)) => {
            reject(stream, &Page::of_request(error).response(false, true)).await;
            Err(Error::NotOffered("it is not valid HTTP/1.1 for a proxy"))
        }
    }
}
