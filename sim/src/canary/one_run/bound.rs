//! From guesses to a lower bound of epsilon (arXiv 2305.08846, theorem 5.2; spec/privacy.md, section 13).
//!
//! Of m canaries r are guessed, v rightly. Under (epsilon, delta) this, or better, has at most the chance
//! `P[B >= v] + 2 m delta max over i of P[v - i <= B < v] / i` with B binomial of r and e^epsilon / (1 + e^epsilon).
//! Every epsilon for which that is below the error that is allowed is refuted, and with it every smaller one.

/// The chance with which a bound may be above the truth is 1 minus this.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// Shares of the canaries that are guessed: few sure guesses or many unsure ones. All are tried, each with its part of the
/// error (Bonferroni).
const FRACTIONS: [f64; 4] = [0.02, 0.05, 0.2, 1.0];

/// The best bound of all fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bound {
    /// Epsilon is above this with probability [`CONFIDENCE`].
    pub(crate) epsilon: f64,
    /// Guesses that gave it.
    pub(crate) guesses: usize,
    /// How many of them were right.
    pub(crate) right: usize,
}

/// The bound from scores, each with whether its canary was in: the highest are guessed to be in, the lowest to be out.
pub(crate) fn epsilon_lower_bound(scored: &mut [(f64, bool)], delta: f64) -> Bound {
    scored.sort_by(|(one, _), (two, _)| two.total_cmp(one));
    let canaries = scored.len();
    let factorials = Factorials::up_to(canaries);
    let mut best = Bound::default();
    for half in halves(canaries) {
        let inside = scored[..half].iter().filter(|(_, inside)| *inside).count();
        let outside = scored[canaries - half..].iter().filter(|(_, inside)| !inside).count();
        let (guesses, right) = (2 * half, inside + outside);
        let epsilon = refuted(&factorials, (canaries, guesses, right), delta);
        if epsilon > best.epsilon || best.guesses == 0 {
            best = Bound { epsilon, guesses, right };
        }
    }
    best
}

/// The bound if every guess is right.
pub(crate) fn most(canaries: usize, delta: f64) -> f64 {
    let factorials = Factorials::up_to(canaries);
    halves(canaries).map(|half| refuted(&factorials, (canaries, 2 * half, 2 * half), delta)).fold(0.0, f64::max)
}

/// How many are guessed to be in, and as many to be out, for each fraction.
fn halves(canaries: usize) -> impl Iterator<Item = usize> {
    FRACTIONS.into_iter().map(move |fraction| (fraction * canaries as f64 / 2.0) as usize).filter(|half| *half > 0)
}

/// The largest epsilon found that is refuted; 0 if none is. By bisection: the chance grows with epsilon but for its
/// part with delta, and whatever is answered was itself refuted, so a bend there can only make the answer too small.
fn refuted(factorials: &Factorials, (canaries, guesses, right): (usize, usize, usize), delta: f64) -> f64 {
    let error = (1.0 - CONFIDENCE) / FRACTIONS.len() as f64;
    let refutes = |epsilon| chance(factorials, (canaries, guesses, right), epsilon, delta) < error;
    if !refutes(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 64.0);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        if refutes(middle) { low = middle } else { high = middle }
    }
    low
}

/// The chance that `right` of `guesses` guesses about `canaries` are right, or more, as (epsilon, delta) allows at most.
fn chance(factorials: &Factorials, (canaries, guesses, right): (usize, usize, usize), epsilon: f64, delta: f64) -> f64 {
    let at = |hits: usize| factorials.binomial(guesses, hits, epsilon);
    // From the mean outwards terms fall, so what underflows is below rounding of the rest.
    let above: f64 = (right..=guesses).map(at).sum();
    let (mut below, mut steepest) = (0.0, 0.0_f64);
    for missing in 1..=right {
        below += at(right - missing);
        steepest = steepest.max(below / missing as f64);
    }
    (above + 2.0 * canaries as f64 * delta * steepest).min(1.0)
}

/// Logarithms of factorials: binomial probabilities of tens of thousands neither overflow nor lose digits.
struct Factorials(Vec<f64>);

impl Factorials {
    fn up_to(largest: usize) -> Self {
        let logarithms = std::iter::once(0.0).chain((1..=largest).scan(0.0, |sum, number| {
            *sum += (number as f64).ln();
            Some(*sum)
        }));
        Self(logarithms.collect())
    }

    /// The chance of `hits` of `guesses` where each has the chance e^epsilon / (1 + e^epsilon).
    fn binomial(&self, guesses: usize, hits: usize, epsilon: f64) -> f64 {
        let hit = -(-epsilon).exp().ln_1p();
        let ways = self.0[guesses] - self.0[hits] - self.0[guesses - hits];
        (ways + guesses as f64 * hit - (guesses - hits) as f64 * epsilon).exp()
    }
}

#[cfg(test)]
mod tests;
