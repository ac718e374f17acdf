//! The visitors of a TCP service that several links publish. The system spreads them over the links' sockets by chance; from there,
//! each goes to the link with the fewest visitors, and is served by the worker that runs that link.

use std::net::SocketAddr;

use tokio::sync::mpsc;

use crate::app::room::Place;
use crate::app::worker::{Accepted, Exchange};
use crate::net::stream::Parked;
use crate::relay::link::Handle;
use crate::relay::link::limits::MAX_PASSED;

/// A visitor on the way to another link, without a reactor.
pub(super) struct Passed {
    stream: Parked,
    peer: SocketAddr,
    place: Place,
}

/// Where the visitors of a link are sent that another one has accepted.
pub(super) type Door = mpsc::Sender<Passed>;

/// Finds the link with the fewest visitors, and its door; `None`: no other has fewer.
pub(super) type Lighter = Box<dyn Fn() -> Option<(Handle, Door)> + Send>;

/// One link's part in the service.
pub(super) struct Sharing {
    link: Handle,
    arriving: mpsc::Receiver<Passed>,
    lighter: Lighter,
}

impl Sharing {
    /// The part of `link`, and its door for the others.
    pub(super) fn new(link: &Handle, lighter: Lighter) -> (Self, Door) {
        let (door, arriving) = mpsc::channel(MAX_PASSED);
        let link = link.clone();
        let sharing = Self {
            link,
            arriving,
            lighter,
        };
        (sharing, door)
    }
}

impl Exchange for Sharing {
    fn keep(&mut self, (stream, peer, mut place): Accepted) -> Option<Accepted> {
        if let Some((link, door)) = (self.lighter)()
            && let Ok(free) = door.try_reserve()
        {
            // Before it is there, so that the next visitors go elsewhere.
            place.count(link.expect());
            // One that fails here has left.
            if let Ok(stream) = stream.park() {
                free.send(Passed {
                    stream,
                    peer,
                    place,
                });
            }
            return None;
        }
        place.count(self.link.expect());
        Some((stream, peer, place))
    }

    async fn next(&mut self) -> Accepted {
        while let Some(passed) = self.arriving.recv().await {
            let Passed {
                stream,
                peer,
                place,
            } = passed;
            if let Ok(stream) = stream.resume() {
                return (stream, peer, place);
            }
        }
        // The link is closed: its port will be, too.
        std::future::pending().await
    }
}
