//! Landlock: which files the process can use.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, RestrictSelfError, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, path_beneath_rules,
};

use super::places::Places;

/// The newest version that is asked for; the kernel does what it knows of it.
const VERSION: ABI = ABI::V5;

/// Whether files are limited.
#[derive(Debug)]
pub(super) enum Limited {
    Yes,
    /// By as many rules as the system takes, which the processes before this one have set.
    Inherited,
    /// And why.
    No(String),
}

/// Limits the files of this thread and of those that it starts to `places`.
pub(super) fn limit(places: &Places) -> Limited {
    match restrict(places) {
        Ok(RulesetStatus::NotEnforced) => Limited::No("this kernel has no Landlock".to_owned()),
        Ok(_) => Limited::Yes,
        Err(error) if is_too_many(&error) => Limited::Inherited,
        Err(error) => Limited::No(format!("Landlock: {error}")),
    }
}

fn restrict(places: &Places) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(VERSION) & !BitFlags::from(AccessFs::Execute);
    let rules = |places: &[PathBuf], access| path_beneath_rules(places.to_vec(), access);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .create()?
        .add_rules(rules(&places.read, read))?
        .add_rules(rules(&places.write, write))?
        .add_rules(rules(&places.execute, read | AccessFs::Execute))?;
    Ok(ruleset.restrict_self()?.ruleset)
}

/// Each upgrade adds rules to those that the process inherits, and the kernel takes 16 times as many at most.
fn is_too_many(error: &RulesetError) -> bool {
    let RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }) = error
    else {
        return false;
    };
    source.raw_os_error() == Some(libc::E2BIG)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use super::*;

    /// The limits are those of a thread, and end with it.
    #[test]
    fn files_elsewhere_are_neither_read_nor_written_nor_run() {
        let home = tempfile::tempdir().unwrap();
        let place = |name: &str| home.path().join(name);
        for name in ["read", "write", "secret"] {
            fs::create_dir(place(name)).unwrap();
            fs::write(place(name).join("file"), "text").unwrap();
        }
        let places = Places {
            read: vec![place("read")],
            write: vec![place("write")],
            execute: Vec::new(),
        };
        let base = home.path().to_path_buf();
        let limited = std::thread::spawn(move || {
            if let Limited::No(reason) = limit(&places) {
                assert_eq!(reason, "this kernel has no Landlock");
                return;
            }
            let denied = |result: std::io::Result<()>| {
                result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
            };
            let read = |name: &str| fs::read(base.join(name)).map(drop);
            let write = |name: &str| fs::write(base.join(name), "new");
            read("read/file").unwrap();
            write("write/other").unwrap();
            fs::rename(base.join("write/other"), base.join("write/file")).unwrap();
            assert!(denied(read("secret/file")) && denied(write("secret/file")));
            assert!(denied(write("read/file")) && denied(write("read/other")));
            assert!(denied(fs::remove_file(base.join("read/file"))));
            let started = std::process::Command::new("/bin/sh")
                .arg("-c")
                .arg("")
                .status();
            assert!(denied(started.map(drop)));
        });
        limited.join().unwrap();
    }
}
