//! Everything that is wrong, in the order in which it is found.

use crate::Problem;

/// Problems so far.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Problem>);

impl Findings {
    pub(super) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// A field cannot be used: what it is, what is wrong with that, and what to do.
    pub(super) fn field(&mut self, path: impl Into<String>, fault: impl Into<String>) {
        self.0.push(Problem::Field { path: path.into(), fault: fault.into() });
    }

    /// A text breaks a rule of Kubernetes on what it may look like.
    pub(super) fn rule(
        &mut self,
        path: impl Into<String>,
        text: &str,
        rule: Result<(), &'static str>,
    ) {
        match rule {
            Ok(()) => {}
            Err(rule) if text.is_empty() => {
                self.field(path, format!("is empty: set it to {rule}"));
            }
            Err(rule) => self.field(path, format!("is {text:?}: set it to {rule}")),
        }
    }

    /// A word is none of those that are known.
    pub(super) fn word(&mut self, path: impl Into<String>, word: Option<&str>, known: &[&str]) {
        if let Some(word) = word.filter(|word| !known.contains(word)) {
            let known = known.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>();
            self.field(path, format!("is {word:?}: set it to {}", known.join(" or ")));
        }
    }
}
