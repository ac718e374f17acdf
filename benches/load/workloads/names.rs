//! Short connections to a few names: what a DNS cache saves.

use std::thread;
use std::time::Duration;

use crate::measure::{Figures, Span};
use crate::name_server::NameServer;
use crate::result::Result;
use crate::route::Target;
use crate::running::Running;
use crate::targets::Targets;

use super::tcp::connections;

/// Names that are resolved.
const NAMES: usize = 16;

/// Connects to [`NAMES`] names in turn and counts the queries that reach `server`.
pub(crate) fn names(
    running: &Running,
    targets: &Targets,
    server: &NameServer,
    span: Span,
) -> Result<Figures> {
    let port = targets.respond.port();
    let wanted: Vec<Target> = (0..NAMES)
        .map(|number| Target::Name(format!("host{number}.bench.example"), port))
        .collect();
    let interval = connections(running, &wanted, 32, span)?;
    // The last queries may still be on their way.
    thread::sleep(Duration::from_millis(50));
    Ok(vec![
        ("conn/s", interval.count / interval.seconds),
        ("CPU us/conn", interval.cpu * 1e6 / interval.count),
        (
            "queries/1000 conn",
            server.queries() as f64 * 1e3 / interval.total,
        ),
    ])
}
