//! `ssr completions`, `ssr man` and `ssr schema`, for packagers.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use super::output::{SOFTWARE, print};

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    /// `ssr completions`.
    pub(crate) fn run(self, mut command: Command) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "ssr", &mut script);
        print(&String::from_utf8_lossy(&script));
        ExitCode::SUCCESS
    }
}

/// `ssr man`: one page with every command.
pub(crate) fn man(mut command: Command) -> ExitCode {
    command.build();
    let mut page = Vec::new();
    let mut render = |command: Command| clap_mangen::Man::new(command).render(&mut page);
    let mut rendered = render(command.clone());
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        rendered = rendered.and_then(|()| render(sub.clone()));
    }
    if rendered.is_err() {
        return SOFTWARE.into();
    }
    print(&String::from_utf8_lossy(&page));
    ExitCode::SUCCESS
}

/// `ssr schema`: the JSON Schema of the config.
pub(crate) fn schema() -> ExitCode {
    print(&format!("{:#}\n", ssr::config::json_schema()));
    ExitCode::SUCCESS
}
