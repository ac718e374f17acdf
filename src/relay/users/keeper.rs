//! Asks whoever keeps the users beyond this process to do so now.

use std::sync::mpsc::SyncSender;

use tokio::sync::oneshot;

/// Answers when everything up to now is kept.
pub type Kept = oneshot::Sender<Result<(), NotKept>>;

/// Why a change of the users holds for this process only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// It could not be written.
    #[error("the change holds now, but could not be saved in `admin.state`: {0}")]
    Failed(String),
    /// Many others wait.
    #[error("the change holds now, but is not saved in `admin.state` yet")]
    Busy,
}

/// Whom to ask; `None` ends it.
#[derive(Debug)]
pub struct Keeper(pub SyncSender<Option<Kept>>);

impl Keeper {
    pub(super) async fn keep(&self) -> Result<(), NotKept> {
        let (kept, answer) = oneshot::channel();
        self.0.try_send(Some(kept)).map_err(|_| NotKept::Busy)?;
        answer.await.unwrap_or(Err(NotKept::Busy))
    }
}
