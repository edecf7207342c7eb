//! Folders for the files of one test.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";
/// So much must be free there: containers often have a few megabytes only.
const ROOM: u64 = 2 * 1024 * 1024 * 1024;

/// A new folder in memory, or on disk where there is no room. On a machine whose disk others keep busy, one
/// write that is to be durable may take seconds; a proxy takes its store for dead after one. A test that is
/// about something else has nothing to tell about that.
///
/// # Errors
/// When it cannot be created.
pub fn folder(prefix: &str) -> Result<TempDir> {
    let place =
        if has_room(Path::new(MEMORY)) { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
    TempDir::with_prefix_in(prefix, &place)
        .with_context(|| format!("cannot create a folder in {}", place.display()))
}

/// A new folder on disk, for what measures or kills.
///
/// # Errors
/// When it cannot be created.
pub fn on_disk(prefix: &str) -> Result<TempDir> {
    TempDir::with_prefix(prefix).context("cannot create a folder for temporary files")
}

fn has_room(place: &Path) -> bool {
    rustix::fs::statvfs(place).is_ok_and(|found| found.f_bavail * found.f_frsize >= ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_does_not_exist_has_no_room() {
        assert!(!has_room(Path::new("/does/not/exist")));
        let folder = folder("cloudstate-scratch-").unwrap();
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
