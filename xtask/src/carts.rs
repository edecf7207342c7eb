//! Carts of ours on libraries of others: installed once, by package name, with the versions that they pin.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::{digest::Digest, host, layout, network_hint, parts, progress::Progress};

/// What one installation may take.
const LIMIT: Duration = Duration::from_mins(10);

/// The cart on npm's `cloudstate`, ready to run: the folder of `index.js`.
///
/// # Errors
/// When Node or the packages cannot be had.
pub fn node(sh: &Shell, progress: &Progress) -> Result<PathBuf> {
    let sample = layout::root().join("samples/shopping-cart-node");
    let folder = folder("cart-node", &sample)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    ensure_node(sh, progress)?;
    progress.say("installing the Node cart's packages, once (half a minute)");
    parts::keep(&folder, |partial| {
        copy(&sample, partial)?;
        for (log, arguments) in [
            ("install-cart-node", &["ci", "--no-audit", "--no-fund"][..]),
            ("build-cart-node", &["run", "build"]),
        ] {
            let mut npm = Command::new("npm");
            npm.args(arguments).current_dir(partial);
            progress
                .run(log, npm, LIMIT)
                .map_err(|error| network_hint::explain(error, "the npm registry", "registry"))?;
        }
        Ok(())
    })?;
    Ok(folder)
}

/// The cart on `cloudstate` from the Python package index, ready to run: the folder of
/// `cart.py` and of `venv`.
///
/// # Errors
/// When Python or the packages cannot be had.
pub fn python(sh: &Shell, progress: &Progress) -> Result<PathBuf> {
    let sample = layout::root().join("samples/shopping-cart-python");
    let folder = folder("cart-python", &sample)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    if cmd!(sh, "python3 -m ensurepip --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_err()
    {
        host::install_packages(sh, progress, &["python3", "python3-venv"])?;
    }
    progress.say("installing the Python cart's packages, once (half a minute)");
    parts::keep(&folder, |partial| {
        copy(&sample, partial)?;
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "venv"]).current_dir(partial);
        progress.run("venv-cart-python", venv, LIMIT)?;
        let mut pip = Command::new(partial.join("venv/bin/python"));
        pip.args(["-m", "pip", "install", "--no-deps", "--requirement", "requirements.txt"]);
        pip.current_dir(partial);
        progress.run("install-cart-python", pip, LIMIT).map_err(|error| {
            network_hint::explain(error, "the Python package index", "PIP_INDEX_URL")
        })
    })?;
    Ok(folder)
}

/// Installs Node from Debian unless there is one on `PATH`, where it is run from.
///
/// # Errors
/// When it cannot be installed.
pub fn ensure_node(sh: &Shell, progress: &Progress) -> Result<()> {
    let is_there = |program: &str| {
        cmd!(sh, "{program} --version").quiet().ignore_stdout().ignore_stderr().run().is_ok()
    };
    if is_there("node") && is_there("npm") {
        return Ok(());
    }
    host::install_packages(sh, progress, &["nodejs", "npm"])
}

/// A folder of the cache, named by what the sample's files hold.
fn folder(name: &str, sample: &Path) -> Result<PathBuf> {
    let mut digest = Digest::new();
    digest.part("arch", std::env::consts::ARCH.as_bytes());
    for path in files(sample)? {
        let content = fs::read(sample.join(&path)).with_context(|| path.display().to_string())?;
        digest.part(&path.to_string_lossy(), &content);
    }
    Ok(layout::cache().join(format!("{name}-{}", digest.short())))
}

fn copy(sample: &Path, to: &Path) -> Result<()> {
    for path in files(sample)? {
        let target = to.join(&path);
        fs::create_dir_all(target.parent().unwrap_or(to))?;
        let source = sample.join(&path);
        fs::copy(&source, &target).with_context(|| format!("copy {}", source.display()))?;
    }
    Ok(())
}

/// What the sample needs, in order; not what somebody who tried it has installed there.
fn files(sample: &Path) -> Result<Vec<PathBuf>> {
    const OTHERS: [&str; 5] =
        ["README.md", "node_modules", "user-function.desc", "venv", "__pycache__"];
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = sample.join(&folder);
        for entry in fs::read_dir(&path).with_context(|| format!("read {}", path.display()))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if OTHERS.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_its_own_files() {
        let sample = layout::root().join("samples/shopping-cart-node");
        let found = files(&sample).unwrap();
        for name in ["index.js", "grpc/index.js", "package-lock.json", ".npmrc"] {
            assert!(found.contains(&PathBuf::from(name)), "{name} is missing in {found:?}");
        }
        assert!(!found.iter().any(|path| path.starts_with("node_modules")), "{found:?}");
    }
}
