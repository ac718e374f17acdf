//! nginx, in the foreground and with nothing outside its directory.

use std::{fs, path::Path, process::Command};

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
