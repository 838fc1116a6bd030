//! How far long work is: a bar where standard error is a terminal, a line for each quarter elsewhere.

use std::{
    io::{self, IsTerminal},
    sync::atomic::{AtomicUsize, Ordering},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A counter that several threads may raise. A bar goes away when dropped.
pub(super) struct Progress {
    what: &'static str,
    length: usize,
    done: AtomicUsize,
    /// None where there is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of `length` things; `what` is being done.
    pub(super) fn new(what: &'static str, length: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len}");
            let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.with_prefix(what)
        });
        Self { what, length, done: AtomicUsize::new(0), bar }
    }

    /// One more is done.
    pub(super) fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None if quarter(done, self.length) > quarter(done - 1, self.length) => {
                tracing::info!("{}: {done} of {}", self.what, self.length);
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn quarter(done: usize, length: usize) -> usize {
    4 * done / length.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_quarter_that_there_is() {
        let lines = |length| (1..=length).filter(|done| quarter(*done, length) > quarter(done - 1, length)).count();
        assert_eq!([0, 1, 2, 3, 4, 40, 500].map(lines), [0, 1, 2, 3, 4, 4, 4]);
    }
}
