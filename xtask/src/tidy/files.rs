//! What holds for files: sizes, completeness, and words that do not belong into a finished change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, ensure};

/// Past this length a file has more than one subject.
const LINES_MAX: usize = 700;

/// Where files are made by a program, and may be as long as it likes.
const GENERATED: &str = "/generated/";

/// Folders with one folder for each golden case.
const GOLDEN: &[&str] = &["crates/translate/tests/golden"];

/// Left-overs in Rust files. Written in two halves, so that this file is not a finding.
const LEFT_OVERS: &[(&str, &str)] = &[
    (concat!("todo", "!("), "is not finished"),
    (concat!("unimplemented", "!("), "is not finished"),
    (concat!("dbg", "!("), "prints for whoever debugged it"),
    (concat!("#[", "ignore"), "is a test that nobody runs"),
];

/// Sources that compute and do nothing else, so that a golden file says all there is to say of them.
const PURE: &str = "crates/translate/src/";

/// By these the standard library reaches outside, or knows the time.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
];

/// Every problem in the files that git knows or would know.
pub(super) fn problems(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = BTreeMap::new();
    for path in list(root)? {
        // A path that git still knows may be gone from the disk; a file that is no text is an image.
        if let Ok(text) = fs::read_to_string(root.join(&path)) {
            files.insert(path, text);
        }
    }
    let mut problems: Vec<_> = files.iter().flat_map(|(path, text)| in_file(path, text)).collect();
    problems.extend(GOLDEN.iter().flat_map(|folder| golden(folder, files.keys())));
    Ok(problems)
}

fn list(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(names.split_terminator('\0').map(str::to_owned).collect())
}

fn in_file(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if has_extension(path, "rs") && !path.contains(GENERATED) {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{path} has {lines} lines, more than {LINES_MAX}: split it"));
        }
        for (number, line) in (1..).zip(text.lines()) {
            for (word, why) in LEFT_OVERS.iter().filter(|(word, _)| line.contains(word)) {
                problems.push(format!("{path}:{number} `{word}` {why}"));
            }
        }
    }
    if path.starts_with(PURE) {
        for (number, line) in (1..).zip(text.lines()) {
            for means in IMPURE.iter().filter(|means| line.contains(**means)) {
                problems.push(format!("{path}:{number} names {means}, and is to be pure"));
            }
        }
    }
    if path.ends_with("/Cargo.toml") {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| names_a_version(line)) {
            problems.push(format!(
                "{path}:{number} `{}`: versions stand in [workspace.dependencies] only",
                line.trim()
            ));
        }
    }
    problems
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// Whether a line of a manifest asks for a version, as `x = "1"` or `x = { version = "1", … }`.
fn names_a_version(line: &str) -> bool {
    line.split_once("version = \"").is_some()
        || line.split_once(" = \"").is_some_and(|(_, value)| {
            value.starts_with(|first: char| first.is_ascii_digit() || "^~=*<>".contains(first))
        })
}

/// Every case has the same set of files, or something was forgotten; no case at all is a wrong path.
fn golden<'a>(folder: &str, paths: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut cases: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in paths {
        let inside = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        if let Some((case, file)) = inside.and_then(|rest| rest.split_once('/')) {
            cases.entry(case).or_default().insert(file);
        }
    }
    if cases.is_empty() {
        return vec![format!("{folder} holds no golden case")];
    }
    let mut problems = Vec::new();
    for (case, files) in cases {
        let inputs = files.iter().any(|file| file.starts_with("input"));
        if !inputs || files.len() < 2 {
            problems.push(format!(
                "{folder}/{case} is incomplete: it holds {files:?}, not an input and what it becomes"
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_named_unless_a_program_wrote_them() {
        let text = "\n".repeat(LINES_MAX + 1);
        assert_eq!(
            in_file("crates/proxy/src/lib.rs", &text),
            ["crates/proxy/src/lib.rs has 701 lines, more than 700: split it"]
        );
        assert_eq!(in_file("crates/protocol/src/generated/a.rs", &text), [""; 0]);
    }

    #[test]
    fn left_overs_are_named_with_their_line() {
        let text = format!("fn f() {{\n    {}\n}}\n", concat!("todo", "!()"));
        assert_eq!(in_file("a.rs", &text), [concat!("a.rs:2 `todo", "!(` is not finished")]);
    }

    #[test]
    fn translation_is_pure() {
        let text = "use std::collections::BTreeMap;\nuse std::fs;\n";
        assert_eq!(
            in_file("crates/translate/src/render.rs", text),
            ["crates/translate/src/render.rs:2 names std::fs, and is to be pure"]
        );
        assert_eq!(in_file("crates/operator/src/config.rs", text), [""; 0]);
    }

    #[test]
    fn a_member_does_not_choose_versions() {
        let text = "[dependencies]\nserde.workspace = true\nrand = \"0.9\"\n";
        assert_eq!(
            in_file("crates/api/Cargo.toml", text),
            [
                "crates/api/Cargo.toml:3 `rand = \"0.9\"`: versions stand in [workspace.dependencies] only"
            ]
        );
        assert!(names_a_version("x = { version = \"1\", features = [] }"));
        assert!(!names_a_version("version.workspace = true"));
        assert!(!names_a_version("description = \"Typed resources\""));
    }

    #[test]
    fn golden_cases_are_whole() {
        let paths = ["g/minimal/input.yaml", "g/minimal/expected.yaml", "g/port/input.yaml"];
        let paths = paths.map(str::to_owned);
        let problems = golden("g", paths.iter());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("g/port is incomplete"), "{problems:?}");
        assert_eq!(golden("elsewhere", paths.iter()), ["elsewhere holds no golden case"]);
    }
}
