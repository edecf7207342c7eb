//! The Go toolchain: found on the machine, or brought in.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::{layout, network_hint, progress::Progress};

/// What our modules ask for with their `go` line.
const OLDEST: (u32, u32) = (1, 24);
/// Which toolchain is brought in when the machine has none that is new enough.
const BROUGHT: &str = "v0.0.1-go1.25.3.linux-";

/// What the messages call it.
const MODULE_PROXY: &str = "the Go module proxy";
/// A module that every proxy knows, to see whether it answers.
const PROBE: &str = "github.com/spf13/pflag@v1.0.6";

/// A Go that is new enough.
#[derive(Debug)]
pub struct Go {
    program: PathBuf,
}

impl Go {
    /// Finds a Go, or brings one in: Debian's is too old for Kubernetes, and new enough to fetch a newer one,
    /// which the module proxy offers as a module.
    ///
    /// # Errors
    /// When there is none and none can be had.
    pub fn find(sh: &Shell, progress: &Progress) -> Result<Self> {
        let version = |program: &Path| {
            let text = cmd!(sh, "{program} env GOVERSION")
                .env("GOTOOLCHAIN", "local")
                .quiet()
                .ignore_stderr()
                .read();
            text.ok().and_then(|text| parse_version(&text))
        };
        let own = PathBuf::from("go");
        if version(&own).is_some_and(|found| found >= OLDEST) {
            return Ok(Self { program: own });
        }
        let arch = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        let modules = layout::cache().join("go");
        let toolchain = format!("{BROUGHT}{arch}");
        let folder = modules.join(format!("golang.org/toolchain@{toolchain}"));
        let brought = folder.join("bin/go");
        if version(&brought).is_none() {
            crate::host::install_packages(sh, progress, &["golang-go", "ca-certificates"])?;
            progress.say("fetching a Go toolchain that is new enough for Kubernetes, once");
            let mut fetch = Command::new("go");
            fetch.args([
                "mod",
                "download",
                "-modcacherw",
                &format!("golang.org/toolchain@{toolchain}"),
            ]);
            fetch.env("GOMODCACHE", &modules).env("GOFLAGS", "").current_dir("/");
            progress
                .run("fetch-go", fetch, Duration::from_mins(10))
                .map_err(|error| network_hint::explain(error, MODULE_PROXY, "GOPROXY"))?;
            // A module does not keep the right to execute.
            cmd!(sh, "chmod -R u+w,a+x {folder}/bin {folder}/pkg/tool").quiet().run()?;
        }
        if version(&brought).is_some_and(|found| found >= OLDEST) {
            return Ok(Self { program: brought });
        }
        bail!(
            "no Go {}.{} or newer: install it from https://go.dev/dl and put it on PATH",
            OLDEST.0,
            OLDEST.1
        )
    }

    /// A static build in that folder, whatever workspace it may be in.
    pub fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(folder).env("CGO_ENABLED", "0").env("GOWORK", "off");
        command
    }

    /// Fetches the modules that the packages need, unless they are here already.
    ///
    /// # Errors
    /// When the module proxy does not answer or does not have them.
    pub fn download(
        &self,
        progress: &Progress,
        folder: &Path,
        name: &str,
        packages: &[&str],
    ) -> Result<()> {
        let log = format!("fetch-{name}");
        let list = || {
            let mut list = self.command(folder);
            list.args(["list", "-deps", "-f", "{{.ImportPath}}"]).args(packages);
            list
        };
        let mut offline = list();
        offline.env("GOPROXY", "off");
        if progress.run(&log, offline, Duration::from_mins(2)).is_ok() {
            return Ok(());
        }
        self.probe(progress)?;
        progress
            .run(&log, list(), Duration::from_mins(15))
            .with_context(|| format!("fetch the Go modules of {}", folder.display()))
            .map_err(|error| network_hint::explain(error, MODULE_PROXY, "GOPROXY"))
    }

    /// Asks the module proxy for a few bytes. Go itself waits for minutes where nothing answers.
    fn probe(&self, progress: &Progress) -> Result<()> {
        let empty = std::env::temp_dir().join(format!("cloudstate-probe-{}", std::process::id()));
        let mut ask = Command::new(&self.program);
        ask.args(["list", "-m", PROBE])
            .current_dir("/")
            .env("GOFLAGS", "")
            .env("GOMODCACHE", &empty);
        let answer = progress.run("probe-go", ask, Duration::from_secs(20));
        let _absent = std::fs::remove_dir_all(&empty);
        answer.map_err(|error| network_hint::silent(error, MODULE_PROXY, "GOPROXY"))
    }
}

/// Major and minor of `go1.26.8`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_compare_by_number() {
        assert_eq!(parse_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(parse_version("go1.25rc1"), Some((1, 25)));
        assert_eq!(parse_version("devel"), None);
        assert!(parse_version("go1.9").unwrap() < OLDEST);
    }
}
