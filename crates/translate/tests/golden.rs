//! YAML in, YAML out: each folder of `tests/golden` has an `input.yaml` (one StatefulService, the
//! StatefulStores of its namespace, its Deployment if it has one already, and the operator's `Settings`
//! where they are not the default), and either an `expected.yaml` or an `error.txt`.
//! `UPDATE_GENERATED=1` writes the expectations anew; read the difference before you keep it.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

mod support;

use std::path::{Path, PathBuf};
use std::{env, fs};

use self::support::{read, translate};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

#[test]
fn every_case_comes_out_as_expected() {
    #[expect(clippy::disallowed_methods, reason = "a test's switch, not configuration")]
    let update = env::var("UPDATE_GENERATED").is_ok_and(|value| value == "1");
    let mut wrong = Vec::new();
    for case in cases() {
        let (wanted, other, actual) = match translate(&read(&case).parse()) {
            Ok(yaml) => ("expected.yaml", "error.txt", yaml),
            Err(problems) => ("error.txt", "expected.yaml", problems),
        };
        if update {
            fs::write(case.join(wanted), &actual).unwrap();
            fs::remove_file(case.join(other)).ok();
        }
        let stored = fs::read_to_string(case.join(wanted)).unwrap_or_default();
        if stored != actual || case.join(other).exists() {
            wrong.push(format!("{}/{wanted} should be:\n{actual}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases().len() >= 10, "cases are missing");
}
