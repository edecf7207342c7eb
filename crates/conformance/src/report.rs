//! What a person sees: a line for each failure as it happens, and a table at the end.

use std::{collections::BTreeMap, fmt};

use anyhow::Error;

/// Outcomes of all tests, by name and column.
#[derive(Debug, Default)]
pub struct Report {
    columns: Vec<String>,
    /// In the order in which tests came first.
    rows: Vec<String>,
    cells: BTreeMap<(String, String), bool>,
}

impl Report {
    /// Notes an outcome, and says at once what does not hold.
    #[expect(clippy::print_stdout, reason = "this program talks to a person")]
    pub fn add(&mut self, name: &str, column: &str, outcome: &Result<(), Error>) {
        if let Err(error) = outcome {
            println!("FAILED {name} on {column}: {error:#}");
        }
        if !self.columns.iter().any(|known| known == column) {
            self.columns.push(column.to_owned());
        }
        if !self.rows.iter().any(|known| known == name) {
            self.rows.push(name.to_owned());
        }
        self.cells.insert((name.to_owned(), column.to_owned()), outcome.is_ok());
    }

    /// How many passed, and how many did not.
    pub fn counts(&self) -> (usize, usize) {
        let passed = self.cells.values().filter(|passed| **passed).count();
        (passed, self.cells.len() - passed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(String::len).max().unwrap_or_default();
        write!(f, "{:width$}", "")?;
        self.columns.iter().try_for_each(|column| write!(f, "  {column}"))?;
        for row in &self.rows {
            write!(f, "\n{row:width$}")?;
            for column in &self.columns {
                let cell = match self.cells.get(&(row.clone(), column.clone())) {
                    Some(true) => "ok",
                    Some(false) => "FAILED",
                    None => "-",
                };
                write!(f, "  {cell:<width$}", width = column.len())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_cell_for_each_test_and_column() {
        let mut report = Report::default();
        report.add("a::b", "sqlite/1", &Ok(()));
        report.add("a::b", "sqlite/32", &Err(anyhow::anyhow!("no")));
        report.add("c", "sqlite/32", &Ok(()));
        let table =
            "      sqlite/1  sqlite/32\na::b  ok        FAILED   \nc     -         ok       ";
        assert_eq!(report.to_string(), table);
        assert_eq!(report.counts(), (2, 1));
    }
}
