//! Working memory that is kept from one call to the next.
//!
//! Asking the system for megabytes at each call costs as much as some computations: every fresh page is cleared by it. A
//! training step asks for the same few sizes again and again, from threads that come and go, so buffers are kept in one
//! place for the process.

use std::{
    ops::{Deref, DerefMut},
    sync::Mutex,
};

/// Buffers that nobody uses at the moment, and at most so many: one or two for each thread of a large machine.
static IDLE: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());
const KEPT: usize = 64;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LENGTH]);

const LENGTH: usize = 16;

/// Numbers on a 64-byte boundary, given back for the next caller when dropped. What is in them at first is left over.
pub(crate) struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` numbers.
    pub(crate) fn take(len: usize) -> Self {
        let count = len.div_ceil(LENGTH);
        let mut idle = IDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fitting = idle.iter().enumerate().filter(|(_, lines)| lines.len() >= count);
        let best = fitting.min_by_key(|(_, lines)| lines.len()).map(|(at, _)| at);
        // a buffer that is too small is better freed than kept beside the larger one that replaces it
        let mut lines = best.or(idle.len().checked_sub(1)).map(|at| idle.swap_remove(at)).unwrap_or_default();
        drop(idle);
        if lines.len() < count {
            lines = vec![Line([0.0; LENGTH]); count];
        }
        Self { lines, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut idle = IDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(std::mem::take(&mut self.lines));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is sixteen numbers without padding, and `len` is at most sixteen times the lines there are
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed for as long as the slice lives
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_separate_and_as_long_as_asked() {
        let mut held: Vec<Scratch> = (0..5).map(|i| Scratch::take(100 * i + 3)).collect();
        for (i, buffer) in held.iter_mut().enumerate() {
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % 64), (100 * i + 3, 0));
            buffer.fill(i as f32);
        }
        assert!(held.iter().enumerate().all(|(i, buffer)| buffer.iter().all(|v| *v == i as f32)));
    }
}
