//! Tries a server for datagrams: a DNS query through it, to a name server that answers shortly.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use crate::net::udp::{Batch, Path};
use crate::relay::udp::Upstream;
use crate::wire::{Address, AddressRef};

/// How often the query is sent: a datagram may be lost.
const TRIES: u32 = 3;

/// What follows the id of the query: recursion desired, one question, for the name servers of the root (RFC 1035 §4.1).
const QUESTION: [u8; 15] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Asks the name server at `target` through `upstream`, whose server is at `at`, for at most `longest`.
pub(crate) async fn ask(
    mut upstream: Upstream,
    at: SocketAddr,
    target: AddressRef<'_>,
    longest: Duration,
) -> Result<(), String> {
    let mut address = [0; Address::MAX_LEN];
    let len = target.encode(&mut address).unwrap_or(0);
    let address = address.get(..len).unwrap_or_default();
    let id: [u8; 2] = rand::random();
    let query = [&id[..], &QUESTION].concat();
    for _ in 0..TRIES {
        let mut batch = Batch::default();
        let path = Path::to(at);
        let pushed = upstream.encoder.push(&mut batch, path, address, &query);
        pushed.map_err(|error| error.to_string())?;
        upstream.socket.send(&mut batch);
        match timeout(longest / TRIES, answer(&mut upstream, at, id)).await {
            Ok(answered) => return answered.map_err(|error| error.to_string()),
            Err(_) => continue,
        }
    }
    let seconds = longest.as_secs();
    Err(format!("no answer to a datagram within {seconds} s"))
}

/// Waits for the answer to the query `id`, whatever it says.
async fn answer(upstream: &mut Upstream, at: SocketAddr, id: [u8; 2]) -> io::Result<()> {
    let Upstream {
        socket, decoder, ..
    } = upstream;
    let mut answered = false;
    poll_fn(|cx| {
        loop {
            let received = socket.poll_receive(cx, |mut received| {
                decoder.decode(&mut received, Some(at), |_, decoded| {
                    let data = decoded.map(|(_, data)| data).unwrap_or_default();
                    answered |= is_answer(data, id);
                });
            });
            match received {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if answered => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
            }
        }
    })
    .await
}

fn is_answer(data: &[u8], id: [u8; 2]) -> bool {
    data.starts_with(&id) && data.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_with_the_same_id_counts() {
        assert!(is_answer(&[1, 2, 0x81, 5], [1, 2]), "even a refusal");
        assert!(!is_answer(&[1, 2, 1, 0], [1, 2]), "a query");
        assert!(!is_answer(&[1, 3, 0x81, 0], [1, 2]));
        assert!(!is_answer(&[1, 2], [1, 2]));
    }
}
