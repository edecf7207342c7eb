//! `cargo xtask tidy`: what the compiler does not hold together.
//!
//! The arrows between our packages ([`arrows`]) and the state of the files ([`files`]). Both only
//! read, and both name every problem, not the first.

mod arrows;
mod files;

use std::path::Path;

use anyhow::bail;

/// Checks everything.
///
/// # Errors
/// One line for each problem, or that cargo or git could not be asked.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let mut problems = arrows::problems(root)?;
    problems.extend(files::problems(root)?);
    if problems.is_empty() {
        println!("tidy: arrows and files are as ARCHITECTURE.md says");
        return Ok(());
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    bail!("{} problems; the tables are in xtask/src/tidy/", problems.len())
}
