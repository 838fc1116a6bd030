//! What the user sees while it runs: bars on a terminal, plain lines elsewhere, always on standard error.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how far things are.
#[derive(Debug)]
pub struct Progress {
    /// None where there is no terminal.
    bars: Option<MultiProgress>,
    began: Instant,
    silent: bool,
}

impl Progress {
    /// Bars if standard error is a terminal, plain lines if not.
    pub fn on_stderr() -> Self {
        let bars = io::stderr().is_terminal().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { bars, began: Instant::now(), silent: false }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self { bars: None, began: Instant::now(), silent: true }
    }

    /// One line that stays.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("[{:6.1} s] {text}", self.began.elapsed().as_secs_f64());
        match &self.bars {
            _ if self.silent => {}
            // Where standard error is closed nobody wants to know.
            Some(bars) => drop(bars.println(line)),
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// A counter that goes up to `length`.
    pub(crate) fn count(&self, what: &str, length: u64) -> Counter {
        let bar = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template("{prefix:24} [{bar:32}] {pos}/{len} {msg}");
            let bar = bars.add(ProgressBar::new(length).with_prefix(what.to_owned()));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Counter { bar }
    }

    /// A line whose words change: what one party is doing.
    pub(crate) fn state(&self, who: &str) -> Counter {
        let bar = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template("{prefix:24} {spinner} {wide_msg}");
            let bar = bars.add(ProgressBar::new_spinner().with_prefix(who.to_owned()));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Counter { bar }
    }
}

/// A bar, or nothing where there is no terminal. It goes away when dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    bar: Option<ProgressBar>,
}

impl Counter {
    /// One more is done.
    pub(crate) fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// `position` are done.
    pub(crate) fn at(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    /// What is being done.
    pub(crate) fn message(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
