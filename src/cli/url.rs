//! `ssr url`, and `ssurl` of shadowsocks-rust.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use fast_qr::convert::svg::SvgBuilder;
use fast_qr::qr::{QRBuilder, QRCode};
use ssr::config::{self, ServerUrl, Shared};
use zeroize::Zeroizing;

use super::output::{
    CONFIG, DATA, UNAVAILABLE, print, print_error, print_styled, report, usage_error,
};

#[derive(Subcommand)]
pub(crate) enum UrlCommand {
    /// Print the servers of a config as ss:// URLs, one for each user of a server
    Encode(Servers),
    /// Print the config that ss:// URLs describe
    Decode {
        /// The URLs
        #[arg(value_name = "URL", required = true, value_hint = ValueHint::Url)]
        urls: Vec<String>,
    },
    /// Show an ss:// URL as a QR code
    Qr {
        /// The URL
        #[arg(value_name = "URL", required_unless_present = "config", conflicts_with = "config", value_hint = ValueHint::Url)]
        url: Option<String>,
        #[command(flatten)]
        servers: MaybeServers,
        /// Write a picture to this file, for one server
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        svg: Option<PathBuf>,
    },
}

/// A config whose servers are wanted.
#[derive(Args)]
pub(crate) struct Servers {
    /// The config file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: PathBuf,
    /// The public address of the servers, in place of that in the config
    #[arg(long, value_name = "HOST", value_hint = ValueHint::Hostname)]
    host: Option<String>,
}

/// The same, if there is no URL.
#[derive(Args)]
pub(crate) struct MaybeServers {
    /// The config file with the server
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The public address of the server, in place of that in the config
    #[arg(long, value_name = "HOST", requires = "config", value_hint = ValueHint::Hostname)]
    host: Option<String>,
}

/// The flags of ssurl.
#[derive(Args)]
pub(crate) struct SsurlArgs {
    /// Print the servers of this config as URLs
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "decode")]
    encode: Option<PathBuf>,
    /// Print the config of this URL
    #[arg(short, long, value_name = "URL", value_hint = ValueHint::Url)]
    decode: Option<String>,
    /// Show a QR code too
    #[arg(short = 'c', long)]
    qrcode: bool,
    /// Read a key of Outline (ssconf://)
    #[arg(short, long, value_name = "URL", hide = true)]
    outline: Option<String>,
}

impl UrlCommand {
    /// `ssr url`.
    pub(crate) fn run(self) -> ExitCode {
        match self {
            Self::Encode(servers) => encode(&servers.config, servers.host.as_deref(), false),
            Self::Decode { urls } => decode(&urls),
            Self::Qr { url, servers, svg } => {
                let urls = match (url, &servers.config) {
                    (Some(url), _) => match url.parse::<ServerUrl>() {
                        Ok(_) => vec![Zeroizing::new(url)],
                        Err(error) => return data_error(&error.to_string()),
                    },
                    (None, Some(path)) => match shared(path, servers.host.as_deref()) {
                        Ok(urls) => urls,
                        Err(code) => return code,
                    },
                    (None, None) => return usage_error("name a URL, or a config with -c FILE"),
                };
                match (svg, urls.as_slice()) {
                    (None, urls) => show(urls),
                    (Some(path), [url]) => draw(url, &path),
                    (Some(_), urls) => usage_error(&format!(
                        "--svg draws one server, and these are {}: name its URL (`ssr url encode` prints all)",
                        urls.len()
                    )),
                }
            }
        }
    }
}

impl SsurlArgs {
    /// `ssurl`.
    pub(crate) fn run(&self) -> ExitCode {
        if self.outline.is_some() {
            return usage_error(
                "--outline: ssr does not fetch keys: use `curl https://HOST/PATH | ssr import -` with the rest of the ssconf URL",
            );
        }
        match (&self.encode, &self.decode) {
            (Some(path), _) => encode(path, None, self.qrcode),
            (None, Some(url)) => {
                let code = decode(std::slice::from_ref(url));
                if self.qrcode && code == ExitCode::SUCCESS {
                    return show(&[Zeroizing::new(url.clone())]);
                }
                code
            }
            (None, None) => usage_error("use --encode FILE or --decode URL"),
        }
    }
}

/// The URLs of the servers of a config; what has none is reported.
fn shared(path: &Path, host: Option<&str>) -> Result<Vec<Zeroizing<String>>, ExitCode> {
    let env = |variable: &str| std::env::var(variable).ok();
    let Shared { urls, left_out } = config::share(path, host, &env).map_err(|found| {
        report(&found, false);
        ExitCode::from(CONFIG)
    })?;
    for line in &left_out {
        print_error(&format!("left out: {line}"));
    }
    match urls.is_empty() {
        true => {
            print_error(&format!("error: {}: no server for a URL", path.display()));
            Err(CONFIG.into())
        }
        false => Ok(urls.iter().map(ServerUrl::encode).collect()),
    }
}

fn encode(path: &Path, host: Option<&str>, qr: bool) -> ExitCode {
    let urls = match shared(path, host) {
        Ok(urls) => urls,
        Err(code) => return code,
    };
    for url in &urls {
        print(url);
        print("\n");
        if qr {
            let code = show(std::slice::from_ref(url));
            if code != ExitCode::SUCCESS {
                return code;
            }
        }
    }
    ExitCode::SUCCESS
}

fn decode(urls: &[String]) -> ExitCode {
    let mut left_out = Vec::new();
    match config::import(&urls.join("\n")) {
        Ok(imported) => {
            left_out.extend(imported.left_out);
            let text = serde_json::to_string_pretty(&imported.config).unwrap_or_default();
            print(&Zeroizing::new(format!("{text}\n")));
        }
        Err(config::ImportError::Empty { left_out: why }) => left_out.extend(why),
        Err(_) => return data_error("not an `ss://` URL"),
    }
    for line in &left_out {
        print_error(&format!("error: {line}"));
    }
    match left_out.is_empty() {
        true => ExitCode::SUCCESS,
        false => DATA.into(),
    }
}

pub(crate) fn show(urls: &[Zeroizing<String>]) -> ExitCode {
    for url in urls {
        match qr(url) {
            Ok(code) => print_styled(&on_terminal(&code)),
            Err(code) => return code,
        }
    }
    ExitCode::SUCCESS
}

pub(crate) fn draw(url: &str, path: &Path) -> ExitCode {
    let code = match qr(url) {
        Ok(code) => code,
        Err(code) => return code,
    };
    match std::fs::write(path, SvgBuilder::default().to_str(&code)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("error: cannot write {}: {error}", path.display()));
            UNAVAILABLE.into()
        }
    }
}

fn qr(url: &str) -> Result<QRCode, ExitCode> {
    QRBuilder::new(url).build().map_err(|_| {
        let length = url.len();
        data_error(&format!(
            "a URL of {length} bytes is too long for a QR code"
        ))
    })
}

/// Two rows of the code a line. On a terminal it is dark on light whatever the colours of the terminal are.
fn on_terminal(code: &QRCode) -> String {
    /// Light modules around the code (ISO/IEC 18004 §6.3.8).
    const QUIET: usize = 4;
    let size = code.size;
    let is_dark = |row: usize, column: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < size);
        match (inside(row), inside(column)) {
            (Some(row), Some(column)) => code
                .data
                .get(row * size + column)
                .is_some_and(|module| module.value()),
            _ => false,
        }
    };
    let (begin, end) = match io::stdout().is_terminal() {
        true => ("\x1b[30;107m", "\x1b[0m"),
        false => ("", ""),
    };
    let mut text = String::new();
    for row in (0..size + 2 * QUIET).step_by(2) {
        text.push_str(begin);
        for column in 0..size + 2 * QUIET {
            text.push(match (is_dark(row, column), is_dark(row + 1, column)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        text.push_str(end);
        text.push('\n');
    }
    text
}

fn data_error(message: &str) -> ExitCode {
    print_error(&format!("error: {message}"));
    DATA.into()
}
