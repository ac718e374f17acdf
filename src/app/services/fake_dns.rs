//! `fake-dns` locals, and the files that keep their names over a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::builder::Builder;
use super::dns::own_names;
use super::local::LocalSockets;
use crate::app::worker::{Job, Phase, Shared};
use crate::config::Local;
use crate::dns::fake::{Damage, FakeNames, Fakes, Saved, decode, encode};
use crate::inbound::dns::{Dns, Fake};
use crate::limits::MAX_FAKE_NAMES;
use crate::net::unix_now;
use crate::outbound::current::Current;

/// How long names wait until they are saved together.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of the longest file: of both IP versions, a name of 253 bytes with its address and its time.
const LONGEST_FILE: u64 = 2 * 320 * MAX_FAKE_NAMES as u64;
/// The name of the file where the path is a directory, such as the database of shadowsocks-rust.
const IN_DIRECTORY: &str = "ssr-fake-names";

impl Builder<'_> {
    /// Makes the tables of all `fake-dns` locals, with the names of an earlier run, and saves them while the process runs.
    /// Others ask [`Builder::fakes`] for them, so this comes before they are built.
    pub(super) fn prepare_fakes(&mut self) {
        let mut all: Vec<Arc<FakeNames>> = Vec::new();
        for fake in self
            .config
            .locals
            .iter()
            .filter_map(|local| local.fake_dns.as_ref())
        {
            if all.iter().any(|names| *names.settings() == fake.names) {
                continue;
            }
            let names = Arc::new(FakeNames::new(fake.names.clone(), rand::random()));
            let file = file_at(&fake.file);
            restore(&names, &file);
            if let Some(jobs) = self.jobs.first_mut() {
                jobs.push(saving(Arc::clone(&names), file));
            }
            all.push(names);
        }
        self.fakes = Fakes::new(all);
    }

    /// Serves an entry of `locals` whose protocol is `fake-dns`.
    pub(super) fn fake_dns(&mut self, local: &Local, sockets: LocalSockets, servers: &Current) {
        let Some(settings) = &local.fake_dns else {
            return;
        };
        let names = self.fakes.all().iter();
        let mut names = names.filter(|names| *names.settings() == settings.names);
        let Some(names) = names.next() else { return };
        let own = own_names(self.config);
        // Servers of `online_config`, whose names change.
        let listed = self.config.online.is_some().then(|| servers.clone());
        let is_own = move |name: &str| {
            let listed = listed.as_ref();
            own.contains(name) || listed.is_some_and(|servers| servers.now().has_name(name))
        };
        let fake = Fake::new(Arc::clone(names), Box::new(is_own));
        self.serve_dns(Dns::faking(fake), sockets, servers);
    }
}

/// The file at the path of the config.
fn file_at(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.join(IN_DIRECTORY),
        false => path.to_owned(),
    }
}

/// Takes back the names in `file`. What cannot be used is reported, and a damaged file is moved aside.
fn restore(names: &FakeNames, file: &Path) {
    let path = file.display();
    match read(file) {
        Ok(None) => {}
        Ok(Some(Ok(saved))) => {
            let restored = names.restore(saved, unix_now());
            tracing::info!(%path, names = restored, "fake names of an earlier run are in use again");
        }
        Ok(Some(Err(damage))) => {
            let aside = beside(file, ".damaged");
            let moved = fs::rename(file, &aside);
            let moved =
                moved.map_or_else(|error| error.to_string(), |()| aside.display().to_string());
            tracing::warn!(%path, error = %damage, moved, "the file of fake names is damaged; a new one is written");
        }
        Err(error) => {
            tracing::warn!(%path, %error, "cannot read the file of fake names; earlier names are unknown");
        }
    }
}

/// Reads names; `None`: there is no file.
fn read(file: &Path) -> io::Result<Option<Result<Vec<Saved>, Damage>>> {
    let mut bytes = Vec::new();
    match File::open(file) {
        Ok(open) => open.take(LONGEST_FILE).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(decode(&String::from_utf8_lossy(&bytes))))
}

/// The job that saves names: at once, so that a file that cannot be written is known from the start, when there are news,
/// and at the end.
fn saving(names: Arc<FakeNames>, file: PathBuf) -> Job {
    Box::new(move |mut shared: Shared| {
        Box::pin(async move {
            let mut fails = false;
            loop {
                save(&names, &file, &mut fails).await;
                let news = async {
                    names.changed().await;
                    sleep(SAVE_PAUSE).await;
                };
                tokio::select! {
                    () = shared.reached(Phase::Retire) => break,
                    () = news => {}
                }
            }
            save(&names, &file, &mut fails).await;
        })
    })
}

/// Saves names now. The first failure in a row is reported.
async fn save(names: &Arc<FakeNames>, file: &Path, fails: &mut bool) {
    let (saved, at) = (Arc::clone(names), file.to_owned());
    let written = spawn_blocking(move || write(&at, &encode(&saved.save()))).await;
    let written = written.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()));
    if let Err(error) = &written
        && !*fails
    {
        let path = file.display();
        tracing::warn!(%path, %error, "cannot save fake names; they will not survive a restart");
    }
    *fails = written.is_err();
}

/// Writes a file whole or not at all. Which names were asked for is nobody else's business.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = beside(file, ".new");
    // Left behind by a process that was killed, or put there by somebody.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut open = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    open.write_all(text.as_bytes())?;
    open.sync_data()?;
    fs::rename(&new, file)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
