//! `ssr import`.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use ssr::config::{self, ImportError};
use ssr::limits::MAX_CONFIG_SIZE;
use ssr::net::fetch::{Shown, fetch, has_scheme};
use zeroize::Zeroizing;

use super::output::{DATA, UNAVAILABLE, print, print_error};
use super::progress::Progress;

#[derive(Args)]
pub(crate) struct ImportArgs {
    /// An ss:// link, an https:// URL that is downloaded, a file, or `-` for standard input: links (one per line), SIP008, gui-config.json of
    /// shadowsocks-windows, profiles of shadowsocks-android, Clash (YAML), sing-box
    #[arg(value_name = "FILE|URL|-", value_hint = ValueHint::FilePath)]
    source: String,
}

impl ImportArgs {
    /// Prints the config on standard output, and what was left out on standard error.
    pub(crate) fn run(&self) -> ExitCode {
        let text = match self.read() {
            Ok(text) => text,
            Err(message) => {
                print_error(&format!("error: {message}"));
                return UNAVAILABLE.into();
            }
        };
        match config::import(&text) {
            Ok(imported) => {
                let servers = imported
                    .config
                    .get("servers")
                    .and_then(|list| list.as_array());
                let count = servers.map_or(0, Vec::len);
                print_error(&format!("read as {}: {count} servers", imported.format));
                left_out(&imported.left_out);
                let text = serde_json::to_string_pretty(&imported.config).unwrap_or_default();
                print(&Zeroizing::new(format!("{text}\n")));
                ExitCode::SUCCESS
            }
            Err(error) => {
                if let ImportError::Empty { left_out: why } = &error {
                    left_out(why);
                }
                print_error(&format!("error: {}: {error}", self.shown()));
                DATA.into()
            }
        }
    }

    /// The name of the source. A link is not shown: it holds a password.
    fn shown(&self) -> &str {
        match self.source.as_str() {
            "-" => "standard input",
            link if link.contains("://") => "the link",
            file => file,
        }
    }

    fn read(&self) -> Result<Zeroizing<String>, String> {
        match self.source.as_str() {
            link if link.starts_with("ss://") => Ok(Zeroizing::new(link.to_owned())),
            url if has_scheme(url, "https://") || has_scheme(url, "http://") => download(url),
            url if url.contains("://") => Err(
                "a URL of another scheme than ss:// and https:// is not fetched: use `curl URL | ssr import -`"
                    .to_owned(),
            ),
            "-" => text(io::stdin()),
            file => {
                let file = File::open(PathBuf::from(file));
                text(file.map_err(|error| format!("{}: {error}", self.shown()))?)
            }
        }
        .map_err(|error| error.to_string())
    }
}

/// Downloads a document, and shows on a terminal how far that is.
fn download(url: &str) -> Result<Zeroizing<String>, String> {
    let at = Shown(url);
    if has_scheme(url, "http://") {
        print_error(&format!(
            "warning: {at} is not https: anybody on the way can read the passwords and change the servers"
        ));
    }
    let progress = Progress::download(&at.to_string());
    let fetched = fetch(url, MAX_CONFIG_SIZE, |done, all| progress.set(done, all));
    drop(progress);
    let document = fetched.map_err(|error| format!("{at}: {error}"))?;
    let document = String::from_utf8(document);
    document
        .map(Zeroizing::new)
        .map_err(|_| format!("{at}: the document is not UTF-8 text"))
}

fn text(from: impl Read) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    from.take(MAX_CONFIG_SIZE + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    match u64::try_from(text.len()).is_ok_and(|length| length > MAX_CONFIG_SIZE) {
        true => Err(format!("longer than {MAX_CONFIG_SIZE} bytes")),
        false => Ok(text),
    }
}

fn left_out(lines: &[String]) {
    for line in lines {
        print_error(&format!("left out: {line}"));
    }
}
