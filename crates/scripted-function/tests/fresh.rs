//! The descriptors in the program are what the `.proto` files say.

use std::{fs, path::Path};

#[test]
fn descriptors_match_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([root.join("proto")]).unwrap();
    let compiler = compiler.include_imports(true).open_file("scripted.proto").unwrap();
    let generated = compiler.encode_file_descriptor_set();
    let path = root.join("src/descriptors.bin");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let committed = fs::read(&path).unwrap_or_default();
    assert!(committed == generated, "descriptors.bin is stale: run `cargo xtask codegen`");
}
