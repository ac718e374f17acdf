//! Forwards: ports whose connections, or datagrams, are carried to one target as they are.

use super::Error;
use super::services::Builder;
use crate::config::{Forward, Scheme};
use crate::inbound::tunnel::Tunnel;
use crate::relay::udp::PacketInbound;

impl Builder<'_> {
    /// Listens for every forward of the config.
    pub(super) async fn forwards(&mut self) -> Result<(), Error> {
        let forwards = &self.config.forwards;
        self.note_wildcards(forwards.iter().map(|forward| &forward.listen.address));
        for forward in forwards {
            self.forward(forward).await?;
        }
        Ok(())
    }

    async fn forward(&mut self, forward: &Forward) -> Result<(), Error> {
        let Forward { listen, target } = forward;
        let options = &self.config.socket;
        let address = self.listen_address(&listen.address).await?;
        let direct = self.direct(options, true);
        let bound = match listen.scheme {
            Scheme::Udp => {
                let sockets = self.bind_udp(address, options)?;
                let bound = sockets.first().and_then(|socket| socket.local_addr().ok());
                let relay = self.relay(PacketInbound::Tunnel(target.address.clone()), direct);
                self.packets(&relay, sockets);
                bound.unwrap_or(address)
            }
            Scheme::Tcp | Scheme::Ws | Scheme::Wss => {
                let inbound = Tunnel {
                    target: target.address.clone(),
                };
                let idle = self.config.timeouts.idle;
                self.streams(address, options, inbound, direct, idle)?
            }
        };
        tracing::info!(listen = format!("{}://{bound}", listen.scheme.name()), %target, "forwarding");
        Ok(())
    }
}
