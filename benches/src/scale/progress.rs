//! What happens now, for whoever waits: a bar on a terminal, one line per step elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
}

impl Progress {
    /// On standard error.
    #[must_use]
    pub fn on_stderr() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Begins a step of `length` parts; the bar is gone when it is dropped.
    pub(super) fn step(&self, what: &str, length: usize) -> Step {
        if !self.terminal {
            eprintln!("{what} ({length})");
            return Step(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(length as u64).with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg:40} {bar:30} {pos}/{len} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Step(bar)
    }
}

/// A step under way.
pub(super) struct Step(ProgressBar);

impl Step {
    pub(super) fn advance(&self) {
        self.0.inc(1);
    }

    pub(super) fn at(&self, part: usize) {
        self.0.set_position(part as u64);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
