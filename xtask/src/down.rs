//! `cargo xtask down`: takes the cluster away again.

use std::path::Path;

use anyhow::Result;
use xshell::Shell;

use crate::{
    cluster,
    host::{self, Lock},
    layout,
    progress::Progress,
};

/// Stops the cluster and removes what it left on the machine, except for the cache.
///
/// # Errors
/// With what cannot be removed.
pub fn run() -> Result<()> {
    host::require_root("`cargo xtask down`")?;
    let _lock = Lock::take(Path::new(cluster::LOCK))?;
    let progress = Progress::start(layout::logs())?;
    cluster::remove(&Shell::new()?, &progress)?;
    progress.say(&format!(
        "the cluster is gone; what was built stays in {}",
        layout::cache().display()
    ));
    Ok(())
}
