//! A manager, and the ports that it adds.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::secret::Secret;
use crate::config::written::file::Top;
use crate::wire::address::Address;

/// Where the commands of a manager come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagerAddress {
    /// Datagrams of UDP.
    Udp(Address),
    /// Datagrams of a unix socket.
    Path(PathBuf),
}

/// Where the commands of a manager come, and what its ports have in common.
#[derive(Clone)]
pub struct Manager {
    /// Where they come.
    pub address: ManagerAddress,
    pub(in crate::config) template: Arc<Template>,
}

/// The file, of which a port of a manager has all that its command does not say.
pub(in crate::config) struct Template {
    pub(in crate::config) top: Top,
    pub(in crate::config) file: PathBuf,
    pub(in crate::config) files: bool,
}

/// Without the file: there are passwords in it.
impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Manager").field(&self.address).finish()
    }
}

/// A port as a manager describes it.
#[derive(Clone, Debug, Default)]
pub struct ManagedPort {
    /// The port.
    pub port: u16,
    /// The password or key.
    pub password: Secret,
    /// The method; `None`: that of the file, or the default.
    pub method: Option<String>,
    /// The mode; `None`: that of the file.
    pub mode: Option<String>,
    /// The plugin; `None`: that of the file.
    pub plugin: Option<String>,
    /// Options of the plugin.
    pub plugin_opts: Option<String>,
    /// Which of TCP and UDP it carries.
    pub plugin_mode: Option<String>,
    /// Names and keys of users behind identity headers.
    pub users: Vec<(String, Secret)>,
}
