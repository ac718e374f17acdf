//! The leg of a relay to a Shadowsocks server.

use std::sync::Arc;

use crate::net::Stream;
use crate::relay::replay::{ClientReplays, ReplayFilter};
use crate::relay::tcp::{First, Leg};
use crate::wire::AddressRef;
use crate::wire::ss::stream::{Opener, Sealer};
use crate::wire::ss::{Credentials, Salt};

/// Makes `stream`, a connection to a server with these keys, the leg to `target`.
pub(super) fn leg(
    (credentials, replays): (&Credentials, &ClientReplays),
    stream: Stream,
    target: AddressRef<'_>,
) -> Leg {
    let salt = Salt::new(credentials.method(), rand::random());
    let mut opener = Opener::response(credentials, salt);
    if let Some(seen) = replays.streams(credentials.method()) {
        seen.note_sent(&salt);
        opener = opener.asking(Arc::<ReplayFilter>::clone(seen));
    }
    Leg {
        stream,
        codec: Some((opener, Sealer::request(credentials, salt, target))),
        first: First::Nothing,
        others: None,
    }
}
