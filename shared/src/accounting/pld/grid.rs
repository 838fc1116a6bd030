//! The loss of one release on a grid, by connecting the dots.

use crate::accounting::pair::Pair;

/// Nodes and weights of Gauss-Legendre on [0, 1] with 5 points: exact to 1e-17 on the panels below, within 24 standard
/// deviations.
const NODES: [(f64, f64); 5] = [
    (0.046_910_077_030_668, 0.118_463_442_528_094_54),
    (0.230_765_344_947_158_45, 0.239_314_335_249_683_23),
    (0.5, 0.284_444_444_444_444_44),
    (0.769_234_655_052_841_5, 0.239_314_335_249_683_23),
    (0.953_089_922_969_332, 0.118_463_442_528_094_54),
];

/// A distribution of losses on the multiples of `step`.
#[derive(Debug)]
pub(super) struct Grid {
    /// Distance of two points.
    pub(super) step: f64,
    /// The lowest point, in steps.
    pub(super) first: i64,
    /// ln of the mass of each point.
    pub(super) log_mass: Vec<f64>,
    /// The mass of infinite loss.
    pub(super) infinite: f64,
}

impl Grid {
    /// The loss of `pair` under P. What lies below `range` is raised to its edge; what lies above is infinite.
    ///
    /// A loss at fraction f (in exp(-loss)) of its cell goes to the upper point with chance f: that keeps E[exp(-loss)]
    /// on every cell, so it is connect-the-dots, without the difference of two nearly equal masses.
    pub(super) fn of(pair: &Pair, range: (f64, f64), step: f64) -> Self {
        let (low, high) = range;
        let first = (pair.loss(low) / step).floor();
        let last = (pair.loss(high) / step).ceil().max(first + 1.0);
        let cells = (last - first) as usize;
        let mut mass = vec![0.0; cells + 1];
        mass[1] += pair.below(low);
        let widest =
            if pair.is_gaussian() { pair.sigma / 32.0 } else { (pair.sigma / 32.0).min(pair.sigma * pair.sigma / 8.0) };
        let whole_cell = -libm::expm1(-step);
        let mut start = low;
        for cell in 0..cells {
            let bottom = (first + cell as f64) * step;
            let end = if cell + 1 == cells { high } else { pair.at_loss(bottom + step).clamp(start, high) };
            let panels = ((end - start) / widest).ceil();
            let width = (end - start) / panels;
            let (mut down, mut up) = (0.0, 0.0);
            for panel in 0..panels as u64 {
                let left = start + width * panel as f64;
                for (node, weight) in NODES {
                    let x = left + width * node;
                    let part = weight * width * pair.density(x);
                    let share = (-libm::expm1(bottom - pair.loss(x)) / whole_cell).clamp(0.0, 1.0);
                    up += part * share;
                    down += part * (1.0 - share);
                }
            }
            mass[cell] += down;
            mass[cell + 1] += up;
            start = end;
        }
        mass.iter_mut().for_each(|mass| *mass = mass.ln());
        Self { step, first: first as i64, log_mass: mass, infinite: pair.above(high) }
    }

    /// The lowest and the highest loss.
    pub(super) fn ends(&self) -> (f64, f64) {
        let last = self.first + self.log_mass.len() as i64 - 1;
        (self.first as f64 * self.step, last as f64 * self.step)
    }

    /// The loss of point `index`.
    fn loss(&self, index: usize) -> f64 {
        (self.first + index as i64) as f64 * self.step
    }

    fn exponents(&self, lambda: f64) -> impl Iterator<Item = f64> {
        self.log_mass.iter().enumerate().map(move |(index, mass)| mass + lambda * self.loss(index))
    }

    /// ln E[exp(lambda loss); loss finite].
    pub(super) fn log_moment(&self, lambda: f64) -> f64 {
        let top = self.exponents(lambda).fold(f64::NEG_INFINITY, f64::max);
        top + compensated(self.exponents(lambda).map(|exponent| libm::exp(exponent - top))).ln()
    }

    /// Mass weighed with exp(lambda loss), as exp(`log_moment`) has it sum to 1.
    pub(super) fn tilted(&self, lambda: f64, log_moment: f64) -> impl Iterator<Item = f64> {
        self.exponents(lambda).map(move |exponent| libm::exp(exponent - log_moment))
    }

    /// The variance of the tilted loss.
    pub(super) fn tilted_variance(&self, lambda: f64, log_moment: f64) -> f64 {
        let weighed = || self.tilted(lambda, log_moment).enumerate().map(|(index, mass)| (self.loss(index), mass));
        let mean: f64 = weighed().map(|(loss, mass)| loss * mass).sum();
        weighed().map(|(loss, mass)| (loss - mean) * (loss - mean) * mass).sum()
    }
}

/// The largest exponent that appears in a density ratio within `range`: losses are exact to some units in its last place.
pub(super) fn largest_exponent(pair: &Pair, range: (f64, f64)) -> f64 {
    (range.0.abs().max(range.1.abs()) + 0.5) / (pair.sigma * pair.sigma)
}

/// A sum whose rounding does not grow with its length (Neumaier).
fn compensated(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0);
    for term in terms {
        let next = sum + term;
        lost += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
        sum = next;
    }
    sum + lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::{Adjacency, Releases};

    fn examples() -> Vec<(Pair, Grid)> {
        let mut grids = Vec::new();
        for (q, sigma) in [(1.0, 1.0), (1.0, 50.0), (0.01, 0.3), (0.05, 1.0), (0.9, 6.0), (1e-5, 2.0), (0.5, 0.1)] {
            for adjacency in [Adjacency::AddRemove, Adjacency::ReplaceOne] {
                for pair in Pair::directions(&Releases::new(q, sigma, 1).expect("in range"), adjacency) {
                    let range = pair.range(1e-17, 1e-14);
                    let step = (pair.loss(range.1) - pair.loss(range.0)) / 2048.0;
                    grids.push((pair, Grid::of(&pair, range, step)));
                }
            }
        }
        grids
    }

    #[test]
    fn both_distributions_keep_their_mass() {
        for (pair, grid) in examples() {
            let p = compensated(grid.tilted(0.0, 0.0)) + grid.infinite;
            assert!((p - 1.0).abs() < 2e-14, "{pair:?}: {p}");
            // E_P[exp(-loss)] = Q of all losses that are in range.
            let q = compensated(grid.tilted(-1.0, 0.0));
            assert!(q <= 1.0 + 1e-12, "{pair:?}: {q}");
            assert!(q > 1.0 - 1e-9 || pair.sigma < 1.0, "{pair:?}: {q}");
        }
    }

    #[test]
    fn the_grid_dominates_and_is_close() {
        for (pair, grid) in examples() {
            for lambda in [0.5, 1.0, 3.7] {
                let exact = crate::accounting::moment::log_moment(&pair, 1.0 + lambda);
                let found = grid.log_moment(lambda);
                let most = exact + lambda * (lambda + 1.0) * grid.step * grid.step / 8.0;
                assert!(found <= most * (1.0 + 1e-9), "{pair:?} {lambda}: {found} {exact} {most}");
                // What counts as infinite is missing.
                let mild = pair.sigma >= 1.0 && lambda <= 1.0;
                assert!(found > exact * (1.0 - 1e-9) - 1e-12 || !mild, "{pair:?} {lambda}: {found} {exact}");
            }
        }
    }
}
