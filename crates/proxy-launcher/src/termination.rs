//! Last words: the file that Kubernetes shows as the container's termination message.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use api::contract::NotReady;
use tracing::debug;

/// What stands in the file, told apart from what the proxy has left there.
#[derive(Debug)]
pub struct LastWords {
    path: Option<PathBuf>,
    /// The launcher's own words, as they were written.
    own: Vec<u8>,
}

impl LastWords {
    /// Words in that file, or nowhere.
    pub fn at(path: Option<PathBuf>) -> Self {
        Self { path, own: Vec::new() }
    }

    /// Empties the file, so that whatever stands there later was left by the proxy that is started now.
    pub fn clear(&mut self) {
        self.own.clear();
        self.try_with(clear);
    }

    /// Lets `words` stand there for the case that nobody can say any more.
    pub fn stand(&mut self, words: &NotReady) {
        self.replace(Some(words));
    }

    /// Leaves `words`, or nothing at all, in place of what stood there; what the proxy has left stays.
    pub fn leave(&mut self, words: Option<&NotReady>) {
        self.replace(words);
    }

    fn replace(&mut self, words: Option<&NotReady>) {
        let new = words.map(line).unwrap_or_default();
        let own = std::mem::take(&mut self.own);
        if new == own {
            self.own = new;
            return;
        }
        self.try_with(|path| {
            // No more than tells the difference: the file may be a device without an end.
            let most = u64::try_from(own.len() + 1).unwrap_or(u64::MAX);
            let mut found = Vec::new();
            if let Ok(file) = File::open(path) {
                file.take(most).read_to_end(&mut found)?;
            }
            let is_ours = found.is_empty() || found == own;
            if is_ours { fs::write(path, &new) } else { Ok(()) }
        });
        self.own = new;
    }

    fn try_with(&self, write: impl FnOnce(&Path) -> io::Result<()>) {
        if let Some(path) = &self.path
            && let Err(error) = write(path)
        {
            debug!(path = %path.display(), %error, "failed to write last words");
        }
    }
}

/// Empties the file, so that whatever stands there later was left by the proxy that is started now.
///
/// # Errors
/// When it exists and cannot be written.
pub fn clear(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).truncate(true).open(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Leaves `words` as one line of JSON, unless somebody has left something there already.
///
/// # Errors
/// When the file cannot be written.
pub fn write_if_empty(path: &Path, words: &NotReady) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    fs::write(path, line(words))
}

fn line(words: &NotReady) -> Vec<u8> {
    let mut line = serde_json::to_vec(&words.clone().cut()).expect("two strings always make JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(message: &str) -> NotReady {
        NotReady { reason: "ConfigurationRefused".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn earlier_words_win_until_they_are_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words");
        clear(&path).unwrap();
        assert!(!path.exists(), "clearing must not create the file");

        write_if_empty(&path, &words("first")).unwrap();
        write_if_empty(&path, &words("second")).unwrap();
        let read: NotReady = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, words("first"));

        clear(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn what_stands_there_gives_way_to_everything_but_itself_to_nothing_of_the_proxys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words");
        let read = || fs::read_to_string(&path).unwrap_or_default();
        let mut last = LastWords::at(Some(path.clone()));
        last.stand(&words("starting"));
        last.stand(&words("running"));
        assert!(read().contains("running") && !read().contains("starting"));
        last.leave(None);
        assert_eq!(read(), "");

        last.stand(&words("running"));
        fs::write(&path, "of the proxy").unwrap();
        last.stand(&words("stopping"));
        last.leave(Some(&words("crashed")));
        assert_eq!(read(), "of the proxy");
        last.clear();
        last.leave(Some(&words("crashed")));
        assert!(read().contains("crashed"));
        LastWords::at(None).stand(&words("nowhere"));
    }

    #[test]
    fn long_words_stay_json_within_what_kubernetes_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words");
        write_if_empty(&path, &words(&"\"ü".repeat(10_000))).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() <= 4_096, "{}", bytes.len());
        let read: NotReady = serde_json::from_slice(&bytes).unwrap();
        assert!(read.message.starts_with("\"ü\"ü"));
    }
}
