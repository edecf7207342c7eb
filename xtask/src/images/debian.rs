//! What Debian packages hold, as one archive for a Dockerfile to add: no base image can be pulled where there
//! is no registry, and Debian's archive is needed anyway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use xshell::Shell;

use crate::{digest::Digest, host, layout, progress::Progress};

/// What unpacks packages, and a file by which one sees that it is installed.
const UNPACKER: [(&str, &str); 1] = [("mmdebstrap", "/usr/bin/mmdebstrap")];
const SUITE: &str = "bookworm";
/// Files that make half of an image and that no server reads.
const WITHOUT: [&str; 10] = [
    "/usr/lib/*/libLLVM*",
    "/usr/lib/*/libz3*",
    "/usr/lib/*/perl*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/share/doc/*",
    "/usr/share/i18n/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/perl*",
    "/usr/share/postgresql/*/man/*",
];

/// The packages with all that they need, unpacked and not configured. Taken from the cache when it is there.
///
/// # Errors
/// When Debian's archive does not answer, or has no such package.
pub fn unpacked(progress: &Progress, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let mut digest = Digest::new();
    let list = packages.join(",");
    for part in [SUITE, std::env::consts::ARCH, &list].iter().chain(&WITHOUT) {
        digest.part("part", part.as_bytes());
    }
    let folder = layout::cache().join(format!("{name}-{SUITE}-{}", digest.short()));
    let archive = folder.join("base.tar");
    if archive.exists() {
        return Ok(archive);
    }
    host::ensure_packages(&Shell::new()?, progress, &UNPACKER)?;
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    progress.say(&format!("unpacking Debian's {list}, once (about a minute)"));
    // The archive gets its name when it is complete.
    let partial = folder.join("partial.tar");
    let mut unpack = Command::new("mmdebstrap");
    unpack.args(["--variant=extract", "--format=tar", &format!("--include={list}")]);
    unpack.args(WITHOUT.map(|files| format!("--dpkgopt=path-exclude={files}")));
    unpack.arg(SUITE).arg(&partial);
    // The archive that this machine uses may be a mirror.
    let sources = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    unpack.args(sources.into_iter().find(|file| Path::new(file).exists()));
    progress.run(&format!("unpack-{name}"), unpack, Duration::from_mins(15))?;
    fs::rename(&partial, &archive)
        .with_context(|| format!("move {} into place", partial.display()))?;
    Ok(archive)
}
