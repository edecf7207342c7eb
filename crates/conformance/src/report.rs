//! What a person sees: a line for each failure as it happens, and a table at the end.

use std::{collections::BTreeMap, fmt};

use anyhow::Error;

/// Outcomes of all tests, by name and column.
#[derive(Debug, Default)]
pub struct Report {
    /// The column that outcomes go to.
    column: String,
    columns: Vec<String>,
    /// In the order in which tests came first.
    rows: Vec<String>,
    cells: BTreeMap<(String, String), bool>,
}

impl Report {
    /// A report of one column.
    pub fn new(column: impl fmt::Display) -> Self {
        Self { column: column.to_string(), ..Self::default() }
    }

    /// Notes an outcome, and says at once what does not hold.
    #[expect(clippy::print_stdout, reason = "this program talks to a person")]
    pub fn add(&mut self, name: &str, outcome: &Result<(), Error>) {
        let column = self.column.clone();
        if let Err(error) = outcome {
            println!("FAILED {name} on {column}: {error:#}");
        }
        self.note(name.to_owned(), column, outcome.is_ok());
    }

    /// Takes over what another report holds.
    pub fn add_all(&mut self, mut other: Self) {
        for row in other.rows {
            for column in &other.columns {
                if let Some(passed) = other.cells.remove(&(row.clone(), column.clone())) {
                    self.note(row.clone(), column.clone(), passed);
                }
            }
        }
    }

    fn note(&mut self, row: String, column: String, passed: bool) {
        if !self.columns.contains(&column) {
            self.columns.push(column.clone());
        }
        if !self.rows.contains(&row) {
            self.rows.push(row.clone());
        }
        self.cells.insert((row, column), passed);
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
        let mut report = Report::new("sqlite/1");
        report.add("a::b", &Ok(()));
        let mut other = Report::new("sqlite/32");
        other.add("a::b", &Err(anyhow::anyhow!("no")));
        other.add("c", &Ok(()));
        report.add_all(other);
        let table =
            "      sqlite/1  sqlite/32\na::b  ok        FAILED   \nc     -         ok       ";
        assert_eq!(report.to_string(), table);
        assert_eq!(report.counts(), (2, 1));
    }
}
