//! `ssr genkey`.

use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use ssr::crypto::{Family, Method};
use zeroize::Zeroizing;

use super::output::{SOFTWARE, print, print_error, usage_error};

/// Random bytes in the password of a method that accepts any password.
const PASSWORD_LEN: usize = 32;

#[derive(Args)]
pub(crate) struct GenkeyArgs {
    /// The encryption method
    #[arg(
        short = 'm',
        long = "encrypt-method",
        alias = "method",
        value_name = "METHOD"
    )]
    method: Method,
    /// Also print keys for this many users, one per line
    #[arg(long, value_name = "N", default_value_t = 0)]
    users: u16,
}

/// `ssr genkey`: prints the key, then one for each user; of a server with users and no key, theirs only.
pub(crate) fn genkey(args: &GenkeyArgs) -> ExitCode {
    let method = args.method;
    let length = match method.family() {
        Family::Plain => return usage_error(&format!("{method} does not encrypt and has no key")),
        Family::Aead2017 => PASSWORD_LEN,
        Family::Aead2022 => method.key_len(),
    };
    if args.users > 0 && !method.supports_users() {
        let instead = Method::Blake3Aes256Gcm;
        return usage_error(&format!("{method} does not support users; use {instead}"));
    }
    let mut text = Zeroizing::new(String::new());
    // Under AEAD-2017 methods, a server with users has no password of its own.
    let count = match (method.family(), args.users) {
        (Family::Aead2017, 1..) => args.users,
        (_, users) => users.saturating_add(1),
    };
    for _ in 0..count {
        let mut key = Zeroizing::new([0; PASSWORD_LEN]);
        let Some(bytes) = key.get_mut(..length) else {
            return SOFTWARE.into();
        };
        if rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, bytes).is_err() {
            print_error("cannot get random bytes from the system");
            return SOFTWARE.into();
        }
        STANDARD.encode_string(bytes, &mut text);
        text.push('\n');
    }
    print(&text);
    ExitCode::SUCCESS
}
