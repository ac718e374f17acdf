//! Where the commands of a manager come.

use std::io;

use super::error::Error;
use super::services::listen_address;
use crate::config::{Config, ManagerAddress};
use crate::dns::Resolver;
use crate::net::manager::Socket;

/// Binds what `manager_address` of the config says; `None`: there is no such key. `owner` may use the socket too.
pub(super) async fn bind(
    config: &Config,
    resolver: &Resolver,
    owner: Option<(u32, u32)>,
) -> Result<Option<Socket>, Error> {
    let Some(manager) = &config.manager else {
        return Ok(None);
    };
    let bound = match &manager.address {
        ManagerAddress::Path(path) => {
            tracing::info!(path = %path.display(), "manager: listening");
            Socket::unix(path, owner)
        }
        ManagerAddress::Udp(address) => {
            let address = listen_address(address, resolver).await?;
            tracing::info!(%address, "manager: listening");
            Socket::udp(address)
        }
    };
    let at = match &manager.address {
        ManagerAddress::Path(path) => path.display().to_string(),
        ManagerAddress::Udp(address) => address.to_string(),
    };
    let named = bound.map_err(|error| io::Error::new(error.kind(), format!("{at}: {error}")));
    let named = named.map_err(Error::system("cannot listen at `manager_address`"))?;
    Ok(Some(named))
}
