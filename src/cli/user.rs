//! `ssr user`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use ssr::control::call::{Api, CallError};
use ssr::control::status;
use zeroize::Zeroizing;

use super::api::{ApiArgs, failed};
use super::output::{DATA, print, print_error};
use super::url::{draw, show};

#[derive(Args)]
pub(crate) struct UserArgs {
    #[command(flatten)]
    api: ApiArgs,
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Subcommand)]
enum UserCommand {
    /// Print the users, what they have used, and their limits
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a user, and print its ss:// URL
    Add {
        #[command(flatten)]
        user: Named,
        /// Its password; a key in base64 under AEAD-2022 methods. Without one, one is made
        #[arg(long, value_name = "PASSWORD")]
        password: Option<String>,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Remove a user, and end its connections
    #[command(name = "del", alias = "remove")]
    Delete {
        #[command(flatten)]
        user: Named,
    },
    /// Change the limits of a user; `none` takes one away
    Limit {
        #[command(flatten)]
        user: Named,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Print the ss:// URL of a user
    Link {
        #[command(flatten)]
        user: Named,
    },
    /// Show the ss:// URL of a user as a QR code
    Qr {
        #[command(flatten)]
        user: Named,
        /// Write a picture to this file
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        svg: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Named {
    /// The user
    #[arg(value_name = "NAME")]
    name: String,
    /// The server that it is a user of, where several have users
    #[arg(long, value_name = "SERVER")]
    server: Option<String>,
    /// The public address of the server, for the URL
    #[arg(long, value_name = "HOST", value_hint = ValueHint::Hostname)]
    host: Option<String>,
}

#[derive(Args)]
struct LimitArgs {
    /// Bytes of a period: 100000000000, 100G or 100GiB
    #[arg(long, value_name = "BYTES")]
    quota: Option<String>,
    /// monthly (the default), daily or once
    #[arg(long, value_name = "PERIOD")]
    period: Option<String>,
    /// The day on which a monthly period begins
    #[arg(long, value_name = "DAY")]
    day: Option<u8>,
    /// Bytes a second, in each direction: 2500000 or 2.5M
    #[arg(long, value_name = "BYTES")]
    rate: Option<String>,
    /// Connections at once
    #[arg(long, value_name = "COUNT")]
    connections: Option<String>,
    /// Addresses at once
    #[arg(long, value_name = "COUNT")]
    ips: Option<String>,
    /// The first day without service (2027-01-31), or a time
    #[arg(long, value_name = "DATE")]
    expires: Option<String>,
}

impl UserArgs {
    /// `ssr user`.
    pub(crate) fn run(&self) -> ExitCode {
        let api = match self.api.find() {
            Ok(api) => api,
            Err(code) => return code,
        };
        match self.command.run(&api) {
            Ok(code) => code,
            Err(error) => failed(&error),
        }
    }
}

impl UserCommand {
    fn run(&self, api: &Api) -> Result<ExitCode, CallError> {
        match self {
            Self::List { json } => {
                let users = api.get("/api/v1/users")?;
                match json {
                    true => print(&format!("{users:#}\n")),
                    false => print(&status::users_text(&users)),
                }
            }
            Self::Add {
                user,
                password,
                limits,
            } => {
                let mut body = match limits.body() {
                    Ok(body) => body,
                    Err(code) => return Ok(code),
                };
                if let Some(password) = password {
                    body.insert("password".to_owned(), json!(password));
                }
                if exists(api, user)? {
                    print_error(
                        "error: there is a user of this name already: `ssr user limit` changes it",
                    );
                    return Ok(DATA.into());
                }
                let made = put(api, user, body)?;
                let key = if made.get("link").is_some_and(Value::is_string) {
                    "link"
                } else {
                    "password"
                };
                print(&format!("{}\n", text(&made, key)));
            }
            Self::Delete { user } => {
                let path = user.path("");
                api.call(http::Method::DELETE, &path, None)?;
            }
            Self::Limit { user, limits } => {
                let body = match limits.body() {
                    Ok(body) => body,
                    Err(code) => return Ok(code),
                };
                if !exists(api, user)? {
                    print_error("error: there is no user of this name: `ssr user add` adds one");
                    return Ok(DATA.into());
                }
                put(api, user, body)?;
            }
            Self::Link { user } => {
                let answer = api.get(&user.path("/link"))?;
                print(&format!("{}\n", text(&answer, "link")));
            }
            Self::Qr { user, svg } => {
                let answer = api.get(&user.path("/link"))?;
                let link = Zeroizing::new(text(&answer, "link").to_owned());
                return Ok(match svg {
                    None => show(&[link]),
                    Some(path) => draw(&link, path),
                });
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn put(api: &Api, user: &Named, body: Map<String, Value>) -> Result<Value, CallError> {
    let body = Value::Object(body);
    api.call(http::Method::PUT, &user.path(""), Some(&body))
}

fn exists(api: &Api, user: &Named) -> Result<bool, CallError> {
    let users = api.get("/api/v1/users")?;
    let users = users.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(users.iter().any(|one| {
        text(one, "name") == user.name
            && user
                .server
                .as_ref()
                .is_none_or(|server| text(one, "server") == server)
    }))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Named {
    /// The path of the user in the API.
    fn path(&self, tail: &str) -> String {
        let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut path = format!("/api/v1/users/{}{tail}", escaped(&self.name));
        let mut separator = '?';
        for (key, value) in [("server", &self.server), ("host", &self.host)] {
            if let Some(value) = value {
                path.push_str(&format!("{separator}{key}={}", escaped(value)));
                separator = '&';
            }
        }
        path
    }
}

impl LimitArgs {
    /// The body of a request, or the exit code after an error was printed.
    fn body(&self) -> Result<Map<String, Value>, ExitCode> {
        let mut body = Map::new();
        for (key, flag, value) in [
            ("quota_bytes", "--quota", &self.quota),
            ("rate_limit", "--rate", &self.rate),
            ("max_connections", "--connections", &self.connections),
            ("max_ips", "--ips", &self.ips),
        ] {
            let Some(value) = value else { continue };
            let number = match value.as_str() {
                "none" => Value::Null,
                value => match number(value) {
                    Some(number) => number.into(),
                    None => {
                        print_error(&format!(
                            "error: {flag}: not a number: use digits, perhaps with K, M, G, T, KiB, MiB, GiB or TiB; or `none`"
                        ));
                        return Err(super::output::USAGE.into());
                    }
                },
            };
            body.insert(key.to_owned(), number);
        }
        if let Some(period) = &self.period {
            body.insert("quota_period".to_owned(), json!(period));
        }
        if let Some(day) = self.day {
            body.insert("quota_day".to_owned(), json!(day));
        }
        if let Some(expires) = &self.expires {
            let value = match expires.as_str() {
                "none" => Value::Null,
                date => json!(date),
            };
            body.insert("expires".to_owned(), value);
        }
        Ok(body)
    }
}

/// A number with a unit: `100G` and `100GB` are 10^11, `100GiB` is 100 × 2^30.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let (whole, part) = digits.split_once('.')?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let places = u32::try_from(part.len()).ok()?;
    let part = part.parse::<u64>().ok()?.checked_mul(factor)?;
    whole.checked_add(part / 10_u64.checked_pow(places)?)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_may_have_units() {
        for (text, expected) in [
            ("5", Some(5)),
            ("100G", Some(100_000_000_000)),
            ("1.5M", Some(1_500_000)),
            ("2KiB", Some(2048)),
            ("0.5gib", Some(1 << 29)),
            ("", None),
            ("G", None),
            ("5X", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("99999999999T", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
