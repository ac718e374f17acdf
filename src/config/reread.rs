//! How a config was read, so that it can be read again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::overrides::Overrides;
use super::role::Role;

/// The file of a config, its role, and the flags that override it.
#[derive(Clone)]
pub struct Reread(Arc<How>);

struct How {
    path: PathBuf,
    role: Role,
    flags: Overrides,
}

impl Reread {
    pub(super) fn new(path: &Path, role: Role, flags: &Overrides) -> Self {
        Self(Arc::new(How {
            // The working directory may be another one later.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            role,
            flags: flags.clone(),
        }))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// The flags.
    #[must_use]
    pub fn flags(&self) -> &Overrides {
        &self.0.flags
    }
}

/// Without the flags: there may be passwords in them.
impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reread").field(&self.0.path).finish()
    }
}
