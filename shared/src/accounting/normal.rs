//! Tails of the standard normal, from `libm` alone so that every machine gets the same figures.

use std::f64::consts::{PI, SQRT_2};

/// The chance that a standard normal is above `x`.
pub(super) fn above(x: f64) -> f64 {
    0.5 * libm::erfc(x / SQRT_2)
}

/// [`above`] divided by the density, `above(x) / phi(x)`: Mills' ratio. It does not underflow for large `x`.
///
/// Up to 5 by definition; from there on by Laplace's continued fraction x + 1/(x + 2/(x + 3/(x + ...))), of which 60
/// levels are exact to rounding.
pub(super) fn mills(x: f64) -> f64 {
    if x < 5.0 {
        return above(x) * (2.0 * PI).sqrt() * libm::exp(x * x / 2.0);
    }
    1.0 / (1..=60).rev().fold(x, |tail, level| x + f64::from(level) / tail)
}

/// The density of the standard normal.
pub(super) fn density(x: f64) -> f64 {
    libm::exp(-x * x / 2.0) / (2.0 * PI).sqrt()
}

/// A point beyond which at most `chance` of a standard normal lies: by the bound above(x) <= exp(-x²/2) / 2.
pub(super) fn beyond(chance: f64) -> f64 {
    (2.0 * (0.5_f64.ln() - chance.ln())).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_tables() {
        // Abramowitz and Stegun, table 26.2; the last by the asymptotic series.
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        close(above(1.0), 0.158_655_253_931);
        close(above(6.0), 9.865_876_450e-10);
        close(mills(1.0), 0.655_679_542_418_798_5);
        close(mills(100.0), 0.009_999_000_299_850_1);
        assert!((mills(5.0 - 1e-12) / mills(5.0) - 1.0).abs() < 1e-11, "both ways meet");
        for chance in [0.3, 1e-5, 1e-30, 1e-200] {
            assert!(above(beyond(chance)) <= chance);
        }
    }
}
