//! `cargo xtask planted`: bugs on purpose, each of which the simulation must notice.
//!
//! One build, one test for each bug (`crates/proxy/src/planted.rs`), and one that plants nothing.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, ensure};

use crate::{
    run::cargo,
    test::{Tally, result_line},
};

/// Fewer than these would mean that tests were not found.
const BUGS_MIN: usize = 15;

/// Plants every bug, and prints what noticed it.
///
/// # Errors
/// When one is not noticed, or when something is noticed although nothing is planted.
pub fn run(root: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let mut child = cargo(root)
        .args(["test", "--locked", "--quiet", "-p", "proxy", "--lib", "--features", "planted"])
        .args(["planted::", "--", "--show-output"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let lines = BufReader::new(child.stdout.take().context("cargo has no output")?);
    let (mut test, mut caught) = (String::new(), Vec::new());
    for line in lines.lines() {
        let line = line.context("cannot read cargo's output")?;
        if let Some(name) = output_of(&line) {
            name.clone_into(&mut test);
        }
        if let Some(Tally { passed, failed }) = result_line(&line) {
            tally.passed += passed;
            tally.failed += failed;
        }
        match row(&line, &test) {
            Some(row) => caught.push(row),
            None if line.contains("panicked at") || line.contains("is not noticed") => {
                println!("{line}");
            }
            None => {}
        }
    }
    caught.sort();
    println!("{:<22}{:<9}caught by", "planted", "promise");
    for line in &caught {
        println!("{line}");
    }
    println!("{} bugs planted and caught", caught.len());
    ensure!(child.wait()?.success(), "not every planted bug is caught by the test named for it");
    ensure!(caught.len() >= BUGS_MIN, "{} bugs were planted: too few", caught.len());
    Ok(())
}

/// The test of whose output the lines behind this one are: `---- planted::tests::x stdout ----`.
fn output_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- planted::tests::")?.strip_suffix(" stdout ----")
}

/// One row of the table, out of `planted<TAB>bug<TAB>promise<TAB>seed<TAB>what`.
fn row(line: &str, test: &str) -> Option<String> {
    let mut fields = line.strip_prefix("planted\t")?.split('\t');
    let (bug, promise, seed) = (fields.next()?, fields.next()?, fields.next()?);
    let what = fields.next()?;
    Some(format!("{bug:<22}{promise:<9}{test} (seed {seed}: {what})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_bug_promise_and_test() {
        let test = output_of("---- planted::tests::a_lost_one_is_caught stdout ----").unwrap();
        let row = row("planted\tQueueLost\tI8\t3\t1 command waits", test).unwrap();
        assert_eq!(
            row,
            "QueueLost             I8       a_lost_one_is_caught (seed 3: 1 command waits)"
        );
    }
}
