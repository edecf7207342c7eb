//! Proxies made of jars, in the cluster: the image of `deploy/images/sidecar-jvm` with a small program of ours where
//! the original's jars would be, and the operator told of it.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use xshell::Shell;

use crate::{
    cluster::{self, Handle},
    host,
    images::{self, Image, Recipe, debian},
    layout,
    progress::Progress,
};

/// What compiles the program, and a file by which one sees that it is installed.
const COMPILER: [(&str, &str); 1] = [("openjdk-17-jdk-headless", "/usr/bin/javac")];
/// Where the operator's settings are.
const NAMESPACE: &str = "cloudstate";
const CONFIG_MAP: &str = "cloudstate-operator-config";
/// How the line of the image begins in the operator's settings.
const KEY: &str = "    jvm: ";

/// Builds the image, puts it into the cluster, and lets the operator use it. It follows its settings, so that nothing
/// is started anew.
pub(super) fn install(progress: &Progress, handle: &Handle) -> Result<()> {
    let image = image(progress)?;
    cluster::import(progress, &image)?;
    let rights = layout::root().join("xtask/parts/sidecar-jvm/rights.yaml");
    let rights =
        fs::read_to_string(&rights).with_context(|| format!("cannot read {}", rights.display()))?;
    cluster::apply(handle, &rights)?;
    let there = ["--namespace", NAMESPACE, "configmap", CONFIG_MAP];
    let text = ["get", "--output=jsonpath={.data.config\\.yaml}"];
    let settings = with_image(&handle.ask(&[&text, &there[..]].concat())?, &image.reference())?;
    let patch = serde_json::json!({ "data": { "config.yaml": settings } }).to_string();
    handle.ask(&[&["patch", "--patch", &patch], &there[..]].concat()).map(drop)
}

/// Takes the image and the rights that came with it back, so that the operator has what its install gives it.
pub(super) fn remove(handle: &Handle) -> Result<()> {
    let there = ["--namespace", NAMESPACE, "configmap", CONFIG_MAP];
    let text = ["get", "--output=jsonpath={.data.config\\.yaml}"];
    let settings = handle.ask(&[&text, &there[..]].concat())?;
    let lines: Vec<_> = settings.lines().filter(|line| !line.starts_with(KEY)).collect();
    let patch =
        serde_json::json!({ "data": { "config.yaml": lines.join("\n") + "\n" } }).to_string();
    handle.ask(&[&["patch", "--patch", &patch], &there[..]].concat())?;
    let rights = "clusterrolebinding/cloudstate-operator-jvm";
    handle.ask(&["delete", rights, "--ignore-not-found"]).map(drop)
}

fn image(progress: &Progress) -> Result<Image> {
    let base =
        debian::unpacked(progress, "openjdk-17", &["base-files", "openjdk-17-jre-headless"])?;
    let root = layout::root();
    let launcher = images::launcher(progress)?;
    images::build(
        progress,
        &Recipe {
            name: "sidecar-jvm".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dockerfile: root.join("deploy/images/sidecar-jvm"),
            programs: vec![base, launcher, jar(progress)?],
            arguments: vec!["MAIN_CLASS=Proxy".to_owned()],
        },
    )
}

/// What the launcher's own tests run on a JVM, as a jar.
fn jar(progress: &Progress) -> Result<PathBuf> {
    host::ensure_packages(&Shell::new()?, progress, &COMPILER)?;
    let root = layout::root();
    let classes = root.join("target/jvm/classes");
    if classes.exists() {
        fs::remove_dir_all(&classes).with_context(|| format!("remove {}", classes.display()))?;
    }
    let mut compile = Command::new("javac");
    compile.arg("-d").arg(&classes);
    compile.arg(root.join("crates/proxy-launcher/tests/jvm/Proxy.java"));
    progress.run("build-jar", compile, Duration::from_mins(1))?;
    let jar = root.join("target/jvm/proxy.jar");
    // Always the same date, so that the same classes are the same image.
    let mut pack = Command::new("jar");
    pack.args(["--create", "--no-manifest", "--date=2026-01-01T00:00:00Z", "--file"]).arg(&jar);
    pack.arg("-C").arg(&classes).arg(".");
    progress.run("build-jar", pack, Duration::from_mins(1))?;
    Ok(jar)
}

/// The operator's settings with that image for proxies made of jars.
fn with_image(settings: &str, image: &str) -> Result<String> {
    let lines = settings.lines().filter(|line| !line.starts_with(KEY));
    let mut out: Vec<String> = Vec::new();
    let mut is_set = false;
    for line in lines {
        out.push(line.to_owned());
        if line == "  image:" {
            out.push(format!("{KEY}{image}"));
            is_set = true;
        }
    }
    anyhow::ensure!(is_set, "the operator's settings have no proxy.image:\n{settings}");
    Ok(out.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_set_or_replaced_among_the_others() {
        let without = "proxy:\n  image:\n    no-store: a:1\n";
        let with = with_image(without, "b:1").unwrap();
        assert_eq!(with, "proxy:\n  image:\n    jvm: b:1\n    no-store: a:1\n");
        assert_eq!(with_image(&with, "b:2").unwrap(), with.replace("b:1", "b:2"));
        assert!(with_image("proxy: {}\n", "b:1").is_err());
    }
}
