//! Last words: the file that Kubernetes shows as the container's termination message.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use api::contract::NotReady;

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
    let mut line = serde_json::to_vec(&words.clone().cut())?;
    line.push(b'\n');
    fs::write(path, line)
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
