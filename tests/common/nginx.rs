//! nginx, in the foreground and with nothing outside its directory.

use super::process::{Process, free_port, v4};
use std::{fs, net::SocketAddr, path::Path, process::Command};
use tempfile::TempDir;

/// The command that runs nginx with this inside `http { }`, and its files in `directory`.
pub fn nginx(directory: &Path, http: &str) -> Command {
    let at = directory.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}} http {{ access_log off; \
         client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c; uwsgi_temp_path {at}/d; \
         scgi_temp_path {at}/e;\n{http} }}"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config).unwrap();
    // Debian has it where not every user looks.
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-c").arg(file).arg("-p").arg(directory);
    command
}

/// nginx before a WebSocket server, as a CDN is.
pub struct Cdn {
    _process: Process,
    _dir: TempDir,
    pub address: SocketAddr,
}

impl Cdn {
    /// Passes `path` on to `upstream` as nginx's documentation says for WebSocket. `tls` stands in its `server { }` where
    /// it has TLS outside, `more` in its `location { }`.
    pub fn before(upstream: SocketAddr, path: &str, tls: Option<&str>, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = v4(free_port());
        let (ssl, tls) = tls.map_or(("", ""), |tls| (" ssl", tls));
        let http = format!(
            "server {{ listen {address}{ssl}; {tls} location {path} {{ proxy_pass http://{upstream}; \
             proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; \
             proxy_set_header Host $host; {more} }} }}"
        );
        let mut process = Process::spawn("nginx", &mut nginx(dir.path(), &http))
            .expect("scripts/test installs nginx");
        process.listening(&[address]).unwrap();
        Self {
            _process: process,
            _dir: dir,
            address,
        }
    }
}
