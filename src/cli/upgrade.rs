//! `ssr upgrade`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ssr::limits::UPGRADE_TIME;

use super::asked::Asked;
use super::output::{UNAVAILABLE, print, print_error};

/// How long the running process may take beyond the time of the new one.
const MARGIN: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    asked: Asked,
}

/// `ssr upgrade`.
pub(crate) fn upgrade(args: &UpgradeArgs) -> ExitCode {
    let answer = match args.asked.ask_within("upgrade", UPGRADE_TIME + MARGIN) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    let said = answer.get("upgrade");
    let text = |key: &str| said.and_then(|said| said.get(key));
    match (text("pid"), text("refused")) {
        (Some(pid), _) => {
            print(&format!("process {pid} has taken over\n"));
            ExitCode::SUCCESS
        }
        (None, refused) => {
            let reason = refused
                .and_then(|reason| reason.as_str())
                .unwrap_or("it does not say why");
            print_error(&format!("error: the old process goes on: {reason}"));
            UNAVAILABLE.into()
        }
    }
}
