//! The leg of a relay to a Shadowsocks server.

use crate::net::Stream;
use crate::relay::tcp::{First, Leg};
use crate::wire::AddressRef;
use crate::wire::ss::stream::{Opener, Sealer};
use crate::wire::ss::{Credentials, Salt};

/// Makes `stream`, a connection to a server with these keys, the leg to `target`.
pub(super) fn leg(credentials: &Credentials, stream: Stream, target: AddressRef<'_>) -> Leg {
    let salt = Salt::new(credentials.method(), rand::random());
    Leg {
        stream,
        codec: Some((
            Opener::response(credentials, salt),
            Sealer::request(credentials, salt, target),
        )),
        first: First::Nothing,
        others: None,
    }
}
