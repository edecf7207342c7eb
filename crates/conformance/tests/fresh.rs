//! The generated clients of the models are what the `.proto` files say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

const FILES: [&str; 4] = [
    "tck/eventsourced.proto",
    "tck/valueentity.proto",
    "tck/action.proto",
    "tck/shoppingcart.proto",
];

#[test]
fn generated_clients_match_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/generated");
    for (name, text) in generate(&root.join("../../protocols")) {
        let path = committed.join(&name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{name} is stale: run `cargo xtask codegen`");
    }
}

/// File names and texts, as prost and tonic make them of `protocols/`.
fn generate(protocols: &Path) -> Vec<(String, String)> {
    let descriptors = protox::compile(FILES, [protocols]).unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("models-{}", std::process::id()));
    fs::create_dir_all(&out).unwrap();
    tonic_prost_build::configure()
        .build_server(false)
        .out_dir(&out)
        .compile_fds(descriptors)
        .unwrap();
    let mut files: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (file_name(&path), fs::read_to_string(&path).unwrap()))
        .filter(|(name, _)| !name.starts_with("google"))
        .collect();
    files.sort();
    fs::remove_dir_all(&out).unwrap();
    files
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
