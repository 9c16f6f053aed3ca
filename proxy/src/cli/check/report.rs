//! What was found: a line for each thing looked at, and how to put right what is wrong.

use std::fmt::{self, Display};

use serde::Serialize;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not wrong yet.
    Warning,
    /// Wrong.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// The same in words.
    pub says: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// All that was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order they were looked at.
    pub findings: Vec<Finding>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, says: impl Display) -> Self {
        Self { check, state: State::Ok, says: says.to_string(), fix: None }
    }

    pub(super) fn warning(check: &'static str, says: impl Display, fix: impl Display) -> Self {
        Self { check, state: State::Warning, says: says.to_string(), fix: Some(fix.to_string()) }
    }

    pub(super) fn problem(check: &'static str, says: impl Display, fix: impl Display) -> Self {
        Self { check, state: State::Problem, says: says.to_string(), fix: Some(fix.to_string()) }
    }
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The worst of it.
    #[must_use]
    pub fn worst(&self) -> State {
        self.findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { check, state, says, fix } in &self.findings {
            let state = match state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Problem => "PROBLEM",
            };
            writeln!(f, "{state:<8} {check:<14} {says}")?;
            if let Some(fix) = fix {
                writeln!(f, "{:<23} -> {fix}", "")?;
            }
        }
        let count = |wanted| self.findings.iter().filter(|finding| finding.state == wanted).count();
        writeln!(f, "{} problems, {} warnings", count(State::Problem), count(State::Warning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_every_fault_has_its_fix() {
        let mut report = Report::default();
        report.add(Finding::ok("clock", "fine"));
        assert_eq!(report.worst(), State::Ok);
        report.add(Finding::problem("ports", "15443 is taken", "end the other process"));
        report.add(Finding::warning("certificate", "ends in 5 s", "wait"));
        assert_eq!(report.worst(), State::Problem);
        let text = report.to_string();
        assert!(text.contains("PROBLEM  ports          15443 is taken\n"), "{text}");
        assert!(
            text.contains("-> end the other process\n") && text.ends_with("1 problems, 1 warnings\n"),
            "{text}"
        );
    }
}
