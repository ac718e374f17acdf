//! The servers of a port that a manager adds.

use super::meaning::context::Context;
use super::meaning::managed::{ManagedPort, Manager};
use super::meaning::model::Server;
use super::meaning::translate;
use super::role::Role;
use super::text::diagnostic::{Diagnostic, Severity};
use super::text::document::Document;
use super::text::reporter::Reporter;
use super::written::file;
use super::written::scalar::{List, Number};

impl Manager {
    /// The servers of `port`: one for each address of the file's `server`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn servers(&self, port: &ManagedPort) -> Result<Vec<Server>, Vec<Diagnostic>> {
        let mut top = self.template.top.clone();
        top.manager_address = None;
        top.manager_port = None;
        top.servers = None;
        top.forwards = None;
        top.port_password = None;
        top.key = None;
        top.remarks = None;
        top.id = None;
        top.server_port = Some(Number(port.port));
        top.password = Some(port.password.clone());
        top.method = port.method.clone().or(top.method);
        top.mode = port.mode.clone().or(top.mode);
        if port.plugin.is_some() {
            top.plugin.clone_from(&port.plugin);
            top.plugin_opts.clone_from(&port.plugin_opts);
            top.plugin_mode.clone_from(&port.plugin_mode);
            top.plugin_args = None;
        }
        let users = port.users.iter().map(|(name, password)| file::User {
            name: Some(name.clone()),
            password: Some(password.clone()),
            ..file::User::default()
        });
        let users: Vec<_> = users.collect();
        top.users = (!users.is_empty()).then_some(List(users));
        let mut found = Vec::new();
        let document = Document::parse("{}", Role::Server, &mut found)?;
        // Who sends commands must not read the environment.
        let mut cx = Context {
            role: Role::Server,
            env: &|_| None,
            files: self.template.files,
            file: &self.template.file,
            report: Reporter::new(document, found),
        };
        let servers = translate::config(&top, &mut cx).servers;
        let mut found = cx.report.finish();
        found.retain(|finding| finding.severity == Severity::Error);
        match found.is_empty() {
            true => Ok(servers),
            false => Err(found),
        }
    }
}
