//! `admin.state`: where totals of users are kept.

use std::path::PathBuf;

use super::context::{Context, filled};
use crate::config::role::Role;
use crate::config::written::file::Top;

/// The directory, for the role that has users.
pub(super) fn state(top: &Top, cx: &Context<'_>) -> Option<PathBuf> {
    let written = top.admin.as_ref()?.state.as_deref();
    let path = filled(written).map(PathBuf::from);
    path.filter(|_| cx.role == Role::Server)
}
