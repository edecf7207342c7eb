//! Container images: from a Dockerfile and a few static programs to an archive whose tag names its content.

pub mod debian;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{digest::Digest, golang::Go, layout, network_hint, progress::Progress, run};

/// Every image of ours has this before its name.
pub const PREFIX: &str = "localhost/cloudstate";

/// What an image is made from.
#[derive(Debug)]
pub struct Recipe {
    /// Last part of the image's name.
    pub name: String,
    /// First part of the tag.
    pub version: String,
    /// Folder with the Dockerfile.
    pub dockerfile: PathBuf,
    /// Programs that the Dockerfile copies.
    pub programs: Vec<PathBuf>,
    /// What the Dockerfile is told besides, as `NAME=VALUE`.
    pub arguments: Vec<String>,
}

/// An image that lies ready in an archive.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name without tag, such as `localhost/cloudstate/operator`.
    pub repository: String,
    /// Version and digest of the content.
    pub tag: String,
    /// OCI archive on disk.
    pub archive: PathBuf,
}

impl Image {
    /// What manifests and `ctr` call it.
    pub fn reference(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }

    /// The same image under a registry's name.
    pub fn at(&self, registry: &str) -> String {
        let name = self.repository.rsplit('/').next().unwrap_or(&self.repository);
        format!("{}/{name}:{}", registry.trim_end_matches('/'), self.tag)
    }
}

/// Relocations packed, of which a program that may lie anywhere has thousands.
const STATIC: &str = "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs";

/// Builds static programs of ours in a profile of `Cargo.toml`, in one call, and says in which folder they are.
///
/// # Errors
/// When cargo fails; the end of its log is part of the text.
pub fn static_programs(progress: &Progress, profile: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = layout::root();
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = root.join("target/static");
    let mut build = run::cargo(&root);
    build.args(["build", "--locked", "--profile", profile, "--target", &target]);
    for package in packages {
        build.args(["--package", package]);
    }
    build.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", STATIC);
    build
        .env("CARGO_NET_RETRY", "1")
        .env("CARGO_HTTP_TIMEOUT", "30")
        .env("CARGO_TERM_COLOR", "never");
    let log = format!("build-{}", packages.join("-"));
    progress.run(&log, build, Duration::from_mins(30)).map_err(|error| {
        network_hint::explain(error, "the crate registry", "[source] in ~/.cargo/config.toml")
    })?;
    Ok(folder.join(target).join(profile))
}

/// Builds the launcher as it ships.
///
/// # Errors
/// As [`static_programs`].
pub fn launcher(progress: &Progress) -> Result<PathBuf> {
    const NAME: &str = "proxy-launcher";
    Ok(static_programs(progress, "small", &[NAME])?.join(NAME))
}

/// Builds the Go program of a sample, a `tool` of the module in `folder`, under the sample's name.
///
/// # Errors
/// When its modules cannot be had or do not compile.
pub fn go_program(progress: &Progress, go: &Go, folder: &Path, name: &str) -> Result<PathBuf> {
    let program = layout::root().join("target/samples").join(name);
    fs::create_dir_all(program.parent().unwrap_or(Path::new("/")))
        .context("create target/samples")?;
    if !program.exists() {
        go.download(progress, folder, name, &["tool"])?;
    }
    let mut build = go.command(folder);
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&program).arg("tool");
    progress.run(&format!("build-{name}"), build, Duration::from_mins(10))?;
    Ok(program)
}

/// Builds the image unless an archive of the very same content is there.
///
/// # Errors
/// When buildah fails; the end of its log is part of the text.
pub fn build(progress: &Progress, recipe: &Recipe) -> Result<Image> {
    let folder = layout::images();
    let context = folder.join(&recipe.name);
    stage(recipe, &context)?;
    let tag = format!("{}-{}", recipe.version, digest(&context, &recipe.arguments)?);
    let image = Image {
        repository: format!("{PREFIX}/{}", recipe.name),
        archive: folder.join(format!("{}-{tag}.tar", recipe.name)),
        tag,
    };
    if image.archive.exists() {
        return Ok(image);
    }
    remove_older(&folder, &recipe.name)?;
    let reference = image.reference();
    progress.say(&format!("building image {reference}"));
    let log = format!("image-{}", recipe.name);
    let limit = Duration::from_mins(5);
    let mut bud = buildah();
    bud.args(["bud", "--isolation", "chroot", "--timestamp", "0", "--tag", &reference]);
    for argument in &recipe.arguments {
        bud.args(["--build-arg", argument]);
    }
    bud.arg(&context);
    progress.run(&log, bud, limit)?;
    // The archive gets its name when it is complete: a killed push must not look like an image.
    let partial = image.archive.with_extension("partial");
    let mut push = buildah();
    push.arg("push").arg(&reference).arg(format!("oci-archive:{}:{reference}", partial.display()));
    progress.run(&log, push, limit)?;
    let mut forget = buildah();
    forget.args(["rmi", "--force", &reference]);
    progress.run(&log, forget, limit)?;
    fs::rename(&partial, &image.archive)
        .with_context(|| format!("move {} into place", partial.display()))?;
    Ok(image)
}

/// Pushes the image to a registry and says under which name.
///
/// # Errors
/// When the registry refuses or does not answer.
pub fn push(progress: &Progress, image: &Image, registry: &str) -> Result<String> {
    let name = image.at(registry);
    progress.say(&format!("pushing {name}"));
    let limit = Duration::from_mins(5);
    let mut pull = buildah();
    pull.arg("pull").arg(format!("oci-archive:{}", image.archive.display()));
    progress.run("push", pull, limit)?;
    let mut push = buildah();
    push.arg("push");
    if is_on_this_machine(registry) {
        push.arg("--tls-verify=false");
    }
    push.arg(image.reference()).arg(format!("docker://{name}"));
    progress.run("push", push, limit).with_context(|| {
        format!(
            "push {name}: log in with `buildah login`, and see that the registry {registry} answers"
        )
    })?;
    let mut forget = buildah();
    forget.args(["rmi", "--force", &image.reference()]);
    progress.run("push", forget, limit)?;
    Ok(name)
}

/// A registry on the machine itself has no certificate, and needs none.
fn is_on_this_machine(registry: &str) -> bool {
    let host = registry.split(['/', ':']).next().unwrap_or_default();
    host == "localhost" || host.starts_with("127.")
}

fn buildah() -> Command {
    let mut command = Command::new("buildah");
    let folder = layout::root().join("target/buildah");
    command.arg("--root").arg(folder.join("root")).arg("--runroot").arg(folder.join("run"));
    command.args(["--storage-driver", "vfs"]);
    command
}

/// Puts the Dockerfile and the programs in one folder, and nothing else.
fn stage(recipe: &Recipe, context: &Path) -> Result<()> {
    if context.exists() {
        fs::remove_dir_all(context).with_context(|| format!("remove {}", context.display()))?;
    }
    fs::create_dir_all(context).with_context(|| format!("create {}", context.display()))?;
    let dockerfile = recipe.dockerfile.join("Dockerfile");
    for file in recipe.programs.iter().chain([&dockerfile]) {
        let Some(name) = file.file_name() else { bail!("{} is not a file", file.display()) };
        fs::copy(file, context.join(name))
            .with_context(|| format!("copy {} for the image", file.display()))?;
    }
    Ok(())
}

/// A digest of the arguments and of the folder's files: names, whether they can be executed, and content.
fn digest(folder: &Path, arguments: &[String]) -> Result<String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        files.insert(entry.file_name(), entry);
    }
    let mut digest = Digest::new();
    for argument in arguments {
        digest.part("argument", argument.as_bytes());
    }
    for (name, entry) in files {
        let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
        let content =
            fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
        digest.part(
            &format!("{}{}", name.to_string_lossy(), if executable { "*" } else { "" }),
            &content,
        );
    }
    Ok(digest.short())
}

/// Removes the archives of earlier contents, or every change would cost disk for ever.
fn remove_older(folder: &Path, name: &str) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_file()
            && path.file_name().is_some_and(|file| is_archive_of(&file.to_string_lossy(), name))
        {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Whether the file is `<name>-<version>-<digest>.tar`, or a part of such.
fn is_archive_of(file: &str, name: &str) -> bool {
    let Some((stem, "tar" | "partial")) = file.rsplit_once('.') else { return false };
    stem.rsplitn(3, '-').last() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_name_here_and_in_a_registry() {
        let image = Image {
            repository: "localhost/cloudstate/operator".to_owned(),
            tag: "0.1.0-abc".to_owned(),
            archive: PathBuf::new(),
        };
        assert_eq!(image.reference(), "localhost/cloudstate/operator:0.1.0-abc");
        assert_eq!(
            image.at("registry.example.com/team/"),
            "registry.example.com/team/operator:0.1.0-abc"
        );
    }

    #[test]
    fn only_a_registry_on_this_machine_goes_without_a_certificate() {
        assert!(is_on_this_machine("localhost:5000/team"));
        assert!(is_on_this_machine("127.0.0.1:5000"));
        assert!(!is_on_this_machine("localhost.example.com"));
        assert!(!is_on_this_machine("registry.example.com/localhost"));
    }

    #[test]
    fn archives_belong_to_the_image_of_exactly_that_name() {
        assert!(is_archive_of("shopping-cart-0.1.0-0123456789ab.tar", "shopping-cart"));
        assert!(is_archive_of("operator-0.1.0-0123456789ab.partial", "operator"));
        assert!(!is_archive_of("shopping-cart-0.1.0-0123456789ab.tar", "shopping"));
        assert!(!is_archive_of("operator", "operator"));
    }

    #[test]
    fn the_digest_changes_with_arguments_mode_and_content() {
        let folder = std::env::temp_dir().join(format!("xtask-digest-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("program");
        fs::write(&file, "one").unwrap();
        let first = digest(&folder, &[]).unwrap();
        assert_eq!(digest(&folder, &[]).unwrap(), first);
        assert_ne!(digest(&folder, &["A=b".to_owned()]).unwrap(), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let second = digest(&folder, &[]).unwrap();
        assert_ne!(second, first);
        fs::write(&file, "two").unwrap();
        assert_ne!(digest(&folder, &[]).unwrap(), second);
        fs::remove_dir_all(folder).unwrap();
    }
}
