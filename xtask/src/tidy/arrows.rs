//! The dependency arrows of `ARCHITECTURE.md` as a table.
//!
//! Two looks at the same tree. `cargo metadata` tells what a manifest asks for, so an arrow is seen
//! even while nothing uses it. `cargo tree` tells what a package is really built from when cargo
//! builds it alone; metadata cannot, because it unites the features of the whole workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::run::cargo;

/// What a package may ask for, and what must not come along.
struct Room {
    name: &'static str,
    /// Packages of ours that it may use.
    ours: &'static [&'static str],
    /// Others' packages that it may use; `None` leaves the choice to review.
    others: Option<&'static [&'static str]>,
    /// Packages that must not be in what it is built from, however they would get there.
    never: &'static [&'static str],
    /// Whether [`Room::never`] is looked at with default features or without.
    default_features: bool,
}

/// The means of I/O, time and logging: what a pure package does without.
const IMPURE: &[&str] =
    &["kube-client", "kube-runtime", "hyper", "tokio", "tokio-util", "tonic", "tracing"];

/// What describes Kubernetes: tens of thousands of lines that no program in a pod needs.
const KUBERNETES: &[&str] = &["k8s-openapi", "kube", "kube-client", "kube-core", "schemars"];

const ROOMS: &[Room] = &[
    Room {
        name: "api",
        ours: &[],
        others: Some(&["k8s-openapi", "kube", "schemars", "serde", "serde_json"]),
        never: &["k8s-openapi", "kube", "kube-core", "schemars", "serde_json", "tokio"],
        default_features: false,
    },
    Room {
        name: "translate",
        ours: &["api"],
        others: Some(&["fastrand", "k8s-openapi", "kube", "serde", "serde_json", "thiserror"]),
        never: IMPURE,
        default_features: true,
    },
    Room {
        name: "operator",
        ours: &["api", "translate"],
        others: None,
        never: &["tonic", "prost"],
        default_features: true,
    },
    Room {
        name: "proxy-launcher",
        ours: &["api"],
        others: None,
        never: KUBERNETES,
        default_features: true,
    },
    Room {
        name: "protocol",
        ours: &[],
        others: Some(&["bytes", "prost", "prost-types", "tonic", "tonic-prost"]),
        never: KUBERNETES,
        default_features: true,
    },
    Room {
        name: "proxy",
        ours: &["api", "protocol"],
        others: None,
        never: KUBERNETES,
        default_features: true,
    },
    Room {
        name: "scripted-function",
        ours: &["protocol"],
        others: Some(&["prost", "tokio", "tonic"]),
        never: KUBERNETES,
        default_features: true,
    },
    Room {
        name: "scripted-api",
        ours: &[],
        others: Some(&[
            "bytes",
            "futures",
            "http",
            "http-body-util",
            "hyper",
            "hyper-util",
            "serde_json",
            "tokio",
            "tower",
        ]),
        never: KUBERNETES,
        default_features: true,
    },
    Room {
        name: "testbed",
        ours: &["api", "protocol"],
        others: None,
        never: KUBERNETES,
        default_features: true,
    },
    Room {
        name: "conformance",
        ours: &["protocol", "testbed"],
        others: None,
        never: KUBERNETES,
        default_features: true,
    },
    Room { name: "xtask", ours: &["testbed"], others: None, never: &[], default_features: true },
];

/// Never anywhere in the tree, and why.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-rs", "a second TLS provider makes rustls panic at its first use; ours is ring"),
    ("aws-lc-sys", "a second TLS provider makes rustls panic at its first use; ours is ring"),
    ("native-tls", "TLS is rustls"),
    ("openssl", "TLS is rustls"),
    ("openssl-sys", "TLS is rustls, and static images hold no libssl"),
    ("reqwest", "hyper-util's client suffices"),
    ("serde_yaml", "unmaintained; YAML is serde-saphyr"),
    ("serde_yml", "unsound; YAML is serde-saphyr"),
];

/// Features that are for our own tests, and that no build that ships may have.
const LABORATORY: &[&str] = &["planted", "sim"];
/// Where the programs of images are built.
const IMAGES: &str = "xtask/src/images.rs";

/// The part of `cargo metadata` that we look at.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
    #[serde(default)]
    features: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `null` for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
    /// What it is asked to have.
    #[serde(default)]
    features: Vec<String>,
}

/// Asks cargo, and names every arrow that the table does not allow.
pub(super) fn problems(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = output(cargo(root).args(["metadata", "--format-version=1", "--locked"]))?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("cargo metadata does not answer as expected")?;
    let mut problems = declared(&metadata);
    let images =
        fs::read_to_string(root.join(IMAGES)).context("cannot read how images are built")?;
    if images.contains("features\"") {
        problems.push(format!("{IMAGES} asks for features, and what ships has the default ones"));
    }
    for room in ROOMS.iter().filter(|room| !room.never.is_empty()) {
        problems.extend(built_from(room, &tree_of(root, room)?));
    }
    Ok(problems)
}

/// Problems in what the manifests ask for. Tests may look anywhere, so dev-dependencies are free.
fn declared(metadata: &Metadata) -> Vec<String> {
    let members: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
        .map(|package| (package.name.as_str(), package))
        .collect();
    let mut problems = Vec::new();
    for (name, package) in &members {
        let Some(room) = ROOMS.iter().find(|room| room.name == *name) else {
            problems.push(format!("package {name} has no row in the table of arrows"));
            continue;
        };
        let used = package.dependencies.iter().filter(|used| used.kind.as_deref() != Some("dev"));
        let default = package.features.get("default").into_iter().flatten();
        for feature in default.filter(|feature| LABORATORY.contains(&feature.as_str())) {
            problems.push(format!("{name} must not have the feature {feature} by default"));
        }
        for Dependency { name: used, features, .. } in used {
            for feature in features.iter().filter(|name| LABORATORY.contains(&name.as_str())) {
                problems.push(format!("{name} must not ask {used} for the feature {feature}"));
            }
            let allowed = if members.contains_key(used.as_str()) {
                room.ours.contains(&used.as_str())
            } else {
                room.others.is_none_or(|others| others.contains(&used.as_str()))
            };
            if !allowed {
                problems.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    for room in ROOMS.iter().filter(|room| !members.contains_key(room.name)) {
        problems.push(format!("the table of arrows names {}, which is no package", room.name));
    }
    for package in &metadata.packages {
        if let Some((name, why)) = BANNED.iter().find(|(name, _)| *name == package.name) {
            problems.push(format!("{name} is in the tree: {why} (`cargo tree -i {name}`)"));
        }
    }
    problems
}

/// Problems in what a package is built from.
fn built_from(room: &Room, packages: &BTreeSet<String>) -> Vec<String> {
    let Room { name, never, default_features, .. } = room;
    let without = if *default_features { "" } else { " --no-default-features" };
    never
        .iter()
        .filter(|package| packages.contains(**package))
        .map(|package| {
            format!("{name} is built from {package} (`cargo tree -p {name}{without} -i {package}`)")
        })
        .collect()
}

/// Names of everything that the package is built from.
fn tree_of(folder: &Path, room: &Room) -> anyhow::Result<BTreeSet<String>> {
    let mut command = cargo(folder);
    command.args(["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}"]);
    command.args(["--package", room.name]);
    if !room.default_features {
        command.arg("--no-default-features");
    }
    let packages = output(&mut command)?;
    Ok(packages.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {errors}");
    String::from_utf8(output.stdout).context("cargo's answer is not UTF-8")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A workspace of every room, each depending on what the second argument says: (from, to, kind).
    fn workspace(arrows: &[(&str, &str, Option<&str>)]) -> Metadata {
        let of = |name: &str| -> Vec<Value> {
            arrows
                .iter()
                .filter(|(from, ..)| *from == name)
                .map(|(_, to, kind)| json!({"name": to, "kind": kind}))
                .collect()
        };
        let members: Vec<&str> = ROOMS.iter().map(|room| room.name).collect();
        let mut packages: Vec<Value> = members
            .iter()
            .map(|name| json!({"id": name, "name": name, "dependencies": of(name)}))
            .collect();
        for (_, to, _) in arrows.iter().filter(|(_, to, _)| !members.contains(to)) {
            packages.push(json!({"id": format!("registry+{to}"), "name": to, "dependencies": []}));
        }
        serde_json::from_value(json!({"packages": packages, "workspace_members": members})).unwrap()
    }

    #[test]
    fn arrows_of_the_table_are_fine() {
        let metadata = workspace(&[
            ("translate", "api", None),
            ("operator", "translate", None),
            ("operator", "tokio", None),
            ("proxy", "protocol", None),
            ("proxy-launcher", "api", None),
        ]);
        assert_eq!(declared(&metadata), [""; 0]);
    }

    #[test]
    fn what_is_for_tests_only_stays_out_of_what_ships() {
        let mut metadata = workspace(&[("proxy", "protocol", None)]);
        let proxy = metadata.packages.iter_mut().find(|package| package.name == "proxy").unwrap();
        proxy.features.insert("default".to_owned(), vec!["planted".to_owned()]);
        proxy.dependencies[0].features.push("sim".to_owned());
        assert_eq!(
            declared(&metadata),
            [
                "proxy must not have the feature planted by default",
                "proxy must not ask protocol for the feature sim"
            ]
        );
    }

    #[test]
    fn an_arrow_that_points_back_is_named() {
        let metadata = workspace(&[("api", "translate", None)]);
        assert_eq!(declared(&metadata), ["api must not depend on translate"]);
    }

    #[test]
    fn sidecar_programs_do_not_meet_in_code() {
        let metadata = workspace(&[("proxy-launcher", "proxy", None)]);
        assert_eq!(declared(&metadata), ["proxy-launcher must not depend on proxy"]);
    }

    #[test]
    fn a_pure_room_does_not_get_a_runtime() {
        let metadata = workspace(&[("translate", "tokio", None), ("translate", "tracing", None)]);
        assert_eq!(
            declared(&metadata),
            ["translate must not depend on tokio", "translate must not depend on tracing"]
        );
    }

    #[test]
    fn a_build_script_is_no_way_around_an_arrow() {
        let metadata = workspace(&[("protocol", "protox", Some("build"))]);
        assert_eq!(declared(&metadata), ["protocol must not depend on protox"]);
    }

    #[test]
    fn tests_may_look_anywhere() {
        let metadata = workspace(&[("translate", "proxy-launcher", Some("dev"))]);
        assert_eq!(declared(&metadata), [""; 0]);
    }

    #[test]
    fn nothing_looks_at_xtask() {
        for room in ROOMS.iter().filter(|room| room.name != "xtask") {
            let metadata = workspace(&[(room.name, "xtask", None)]);
            assert_eq!(declared(&metadata), [format!("{} must not depend on xtask", room.name)]);
        }
    }

    #[test]
    fn a_banned_package_is_named_wherever_it_hides() {
        let metadata = workspace(&[("operator", "openssl", None)]);
        let [problem] = &declared(&metadata)[..] else { panic!("one problem") };
        assert!(problem.starts_with("openssl is in the tree"), "{problem}");
    }

    #[test]
    fn a_package_without_a_row_is_named() {
        let mut metadata = workspace(&[]);
        metadata.workspace_members.insert("attic".to_owned());
        metadata.packages.push(Package {
            id: "attic".to_owned(),
            name: "attic".to_owned(),
            features: BTreeMap::new(),
            dependencies: Vec::new(),
        });
        assert_eq!(declared(&metadata), ["package attic has no row in the table of arrows"]);
    }

    #[test]
    fn what_comes_along_unasked_is_named() {
        let room = ROOMS.iter().find(|room| room.name == "translate").unwrap();
        let packages = ["api", "kube-core", "kube-client"].map(str::to_owned).into();
        assert_eq!(
            built_from(room, &packages),
            ["translate is built from kube-client (`cargo tree -p translate -i kube-client`)"]
        );
    }

    #[test]
    fn the_contract_alone_drags_nothing_of_kubernetes_in() {
        let room = ROOMS.iter().find(|room| room.name == "api").unwrap();
        let packages = ["api", "serde", "kube"].map(str::to_owned).into();
        assert_eq!(
            built_from(room, &packages),
            ["api is built from kube (`cargo tree -p api --no-default-features -i kube`)"]
        );
    }
}
