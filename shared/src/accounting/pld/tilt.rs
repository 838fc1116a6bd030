//! The order at which the Chernoff bound is smallest: it says where the answer lies and how to weigh losses.

use super::Direction;
use crate::accounting::{moment, rdp};

/// The smallest tilt that is tried.
const SMALLEST: f64 = 1e-9;

/// The largest tilt that is tried: it moves the bulk by 64 standard deviations, and what lies there underflows. Where losses
/// are bounded, the best tilt is infinite.
fn largest(kinds: &Direction) -> f64 {
    64.0 * (1.0 + kinds.iter().map(|(pair, _)| pair.sigma).fold(f64::INFINITY, f64::min))
}

/// A tilt and what it proves by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tilt {
    /// The weight of loss l is exp(lambda l).
    pub(super) lambda: f64,
    /// An epsilon at the delta, or a delta at the epsilon, that holds.
    pub(super) bound: f64,
}

impl Tilt {
    /// The one that gives the smallest epsilon at `delta`.
    pub(super) fn for_delta(kinds: &Direction, delta: f64) -> Self {
        // Unimodal in ln lambda, since lambda epsilon(lambda) is convex.
        let (lambda, bound) =
            smallest(largest(kinds), |lambda| rdp::convert(total(kinds, lambda) / lambda, lambda + 1.0, delta));
        Self { lambda, bound }
    }

    /// The one that gives the smallest delta at `epsilon`: delta is at most the chance of a loss above epsilon.
    pub(super) fn for_epsilon(kinds: &Direction, epsilon: f64) -> Self {
        let (lambda, log_delta) = smallest(largest(kinds), |lambda| {
            let parts = (total(kinds, lambda), lambda * epsilon);
            parts.0 - parts.1 + 8.0 * f64::EPSILON * (parts.0 + parts.1)
        });
        Self { lambda, bound: libm::exp(log_delta) * (1.0 + 1e-12) }
    }
}

/// ln E[exp(lambda loss)] of everything.
fn total(kinds: &Direction, lambda: f64) -> f64 {
    kinds.iter().map(|(pair, count)| count * moment::log_moment(pair, lambda + 1.0)).sum()
}

/// Where `of` is smallest on the positive numbers, and what it is there; from 1 downhill, then by golden section.
fn smallest(largest: f64, of: impl Fn(f64) -> f64) -> (f64, f64) {
    let (lowest, highest) = (SMALLEST.ln(), largest.ln());
    let at = |t: f64| of(t.min(highest).exp());
    let stride = 2.0;
    let (mut middle, mut best) = (0.0_f64, at(0.0));
    let direction = if at(stride) < best { stride } else { -stride };
    while (lowest..=highest).contains(&(middle + direction)) {
        let next = at(middle + direction);
        if next >= best {
            break;
        }
        (middle, best) = (middle + direction, next);
    }
    let (mut low, mut high) = (middle - stride, middle + stride);
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut left, mut right) = (high - golden * (high - low), low + golden * (high - low));
    let (mut at_left, mut at_right) = (at(left), at(right));
    for _ in 0..30 {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = at(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = at(right);
        }
    }
    let found = [(middle, best), (left, at_left), (right, at_right)];
    let (t, value) = found.into_iter().fold((middle, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a });
    (t.min(highest).exp(), value)
}
