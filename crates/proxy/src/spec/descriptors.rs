//! Reads a user function's `FileDescriptorSet`. The library that links it stops at its first
//! problem and does not say which method is meant, so what goes wrong most is looked for here first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool,
    prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet},
};

use super::names;

/// Links the descriptors.
///
/// # Errors
/// Every problem that is seen before linking; else the first one that linking finds.
pub(super) fn link(proto: &Bytes) -> Result<DescriptorPool, Vec<String>> {
    let set = FileDescriptorSet::decode(proto.clone()).map_err(|error| {
        vec![format!(
            "EntitySpec.proto ({} bytes) is not a FileDescriptorSet ({error}): send the output of protoc \
             --include_imports --descriptor_set_out",
            proto.len()
        )]
    })?;
    let problems: Vec<_> = unknown_syntax(&set)
        .chain(missing_imports(&set))
        .chain(circular_import(&set))
        .chain(missing_types(&set))
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    DescriptorPool::decode(proto.clone()).map_err(|error| {
        vec![format!(
            "EntitySpec.proto does not link: file {:?}: {error}: send the descriptors as protoc makes them",
            error.file().unwrap_or_default()
        )]
    })
}

/// Files of a syntax that the library does not know. It has to be found before linking: prost-reflect 0.16.5
/// panics when it is about to tell of one.
fn unknown_syntax(set: &FileDescriptorSet) -> impl Iterator<Item = String> {
    let unknown = |file: &&FileDescriptorProto| {
        !matches!(file.syntax.as_deref(), None | Some("proto2" | "proto3"))
    };
    set.file.iter().filter(unknown).map(|file| {
        format!(
            "EntitySpec.proto: file {:?} has the syntax {:?}, which is not served: write it in proto3, or in \
             proto2",
            file.name(),
            file.syntax()
        )
    })
}

fn missing_imports(set: &FileDescriptorSet) -> impl Iterator<Item = String> {
    let present: BTreeSet<_> = set.file.iter().map(FileDescriptorProto::name).collect();
    set.file.iter().flat_map(move |file| {
        let missing = file.dependency.iter().filter(|path| !present.contains(path.as_str()));
        let missing: Vec<_> = missing.cloned().collect();
        missing.into_iter().map(|import| {
            format!(
                "EntitySpec.proto: file {:?} imports {import:?}, which is not in the set: send every \
                 imported file, those of google.protobuf too",
                file.name()
            )
        })
    })
}

/// The first circle of imports. It has to be found before linking, which follows imports as they are.
fn circular_import(set: &FileDescriptorSet) -> Option<String> {
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = set
        .file
        .iter()
        .map(|file| (file.name(), file.dependency.iter().map(String::as_str).collect()))
        .collect();
    // Whoever imports nothing that is left cannot be part of a circle.
    loop {
        let left: BTreeSet<_> = imports.keys().copied().collect();
        imports.retain(|_, wanted| wanted.iter().any(|import| left.contains(import)));
        if imports.len() == left.len() {
            break;
        }
    }
    let files = names(imports.keys().map(|file| format!("{file:?}")));
    (!imports.is_empty()).then(|| {
        format!("EntitySpec.proto: the imports of {files} form a circle: move what they share to a file of its own")
    })
}

/// Methods whose messages nobody defines.
fn missing_types(set: &FileDescriptorSet) -> Vec<String> {
    let mut defined = BTreeSet::new();
    for file in &set.file {
        collect(file.package(), &file.message_type, &mut defined);
    }
    let mut problems = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("{}.{}", join(file.package(), service.name()), method.name());
                for (field, name) in
                    [("input_type", method.input_type()), ("output_type", method.output_type())]
                {
                    // A name without a dot in front is relative; finding it is left to linking.
                    let undefined =
                        name.strip_prefix('.').map_or(name.is_empty(), |n| !defined.contains(n));
                    if undefined {
                        problems.push(format!(
                            "method {path}: {field} {name:?} is not defined in EntitySpec.proto: send the \
                             file that defines it"
                        ));
                    }
                }
            }
        }
    }
    problems
}

fn collect(scope: &str, messages: &[DescriptorProto], defined: &mut BTreeSet<String>) {
    for message in messages {
        let name = join(scope, message.name());
        collect(&name, &message.nested_type, defined);
        defined.insert(name);
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}
