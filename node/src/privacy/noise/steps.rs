//! Which step of the half line a discrete Gaussian falls on, drawn exactly from a table of 64-bit words.
//!
//! The half line 0, 1, 2, … is cut into steps of sigma / 2^m integers. Step h is drawn with probability proportional to
//! f(h) = exp(-h² / 2^(2m+1)), the Gaussian at the step's beginning; [`super::gaussian`] does the rest.
//!
//! # Why the draw is exact
//! Let G(h) = f(0) + … + f(h), and S an integer with S · G(∞) ≤ 2^b, where b is the number of bits of the first word. Let
//! U be uniform on the reals of [0, 2^b): its integer part is the word, and as many binary digits behind it as are asked for
//! come from further words. The step is the first h with U < S · G(h), and where there is none, U is thrown away and drawn
//! anew. That is inversion, so step h has probability f(h) / G(∞), whatever S is.
//!
//! No digit of G is ever rounded. The table holds the integer parts c(h) of S · G(h), each proved: bounds from below and from
//! above, by integer arithmetic of a hundred digits and more, have that same integer part. A word below c(h) is below S ·
//! G(h) whatever digits follow; a word above c(h) is above. Only a word that equals an entry of the table, or lies behind
//! its end, leaves it open (about 2^-56 of all). Then [`Steps::refined`] takes further words, one at a time, and bounds
//! with 64 more binary digits each time, until every comparison is decided. U equals a bound with probability zero, so
//! this ends with probability one, and nothing was approximated on the way.
//!
//! # The bounds
//! * exp(-x) for x = 2^-(2m+1): the alternating Taylor series, whose terms fall, so that the first one left out bounds the
//!   rest; each term is rounded down and is at most two units too small.
//! * f(h+1) = f(h) · exp(-(2h+1) x), and exp(-(2h+3) x) = exp(-(2h+1) x) · exp(-x)²: products rounded down for the lower
//!   bound and up for the upper one.
//! * The rest behind h: f(h+1+j) ≤ f(h+1) · r^j with r = exp(-(h+1) / 2^(2m)). For h + 1 ≥ 2^m, r ≤ exp(-2^-m), and 1 / (1 -
//!   exp(-y)) ≤ 1 + 1/y, so the rest is at most (2^m + 1) · f(h+1).

use std::iter::successors;

use dashu_int::UBig;

use super::stream::Stream;

/// Binary digits that bounds have beyond those that are compared.
const GUARD: usize = 96;

/// How many leading bits of a word say where a search of the table begins.
const INDEX_BITS: u32 = 10;

/// The exact distribution of steps.
#[derive(Debug)]
pub(super) struct Steps {
    /// A standard deviation has 2^m steps.
    m: u32,
    /// Bits of the first word of a draw.
    bits: u32,
    scale: UBig,
    /// Integer parts of S · G(h).
    cells: Vec<u64>,
    /// For each beginning of a word, the first cell that is not below all words that begin so.
    index: Vec<u16>,
}

/// Bounds of f(h) and of G(h), in units of 2^-digits.
#[derive(Clone, Debug)]
struct Bounds {
    digits: usize,
    step: u64,
    /// Of f(h).
    density: [UBig; 2],
    /// Of G(h).
    sum: [UBig; 2],
    /// Of exp(-(2h + 1) x).
    ratio: [UBig; 2],
    /// Of exp(-2x).
    square: [UBig; 2],
}

impl Bounds {
    /// Those of step 0, where a standard deviation has 2^m steps.
    fn first(m: u32, digits: usize) -> Self {
        let one = UBig::ONE << digits;
        let shift = 2 * m as usize + 1;
        let (mut term, mut sum, mut terms) = (one.clone(), [UBig::ZERO, UBig::ZERO], 0_u32);
        while term > UBig::ZERO {
            sum[terms as usize % 2] += &term;
            terms += 1;
            term = (term / terms) >> shift;
        }
        // Each of the terms, and the rest, is off by at most two units.
        let error = UBig::from(2 * terms + 2);
        let [added, taken] = sum;
        let middle = added - taken;
        let ratio = [&middle - &error, middle + error];
        let square = times(&ratio, &ratio, digits);
        Self { digits, step: 0, density: [one.clone(), one.clone()], sum: [one.clone(), one], ratio, square }
    }

    fn next(&self) -> Self {
        let density = times(&self.density, &self.ratio, self.digits);
        let sum = [&self.sum[0] + &density[0], &self.sum[1] + &density[1]];
        let ratio = times(&self.ratio, &self.square, self.digits);
        Self { step: self.step + 1, density, sum, ratio, square: self.square.clone(), ..*self }
    }

    /// An upper bound of everything behind this step; none where the argument of the file's head does not hold yet.
    fn rest(&self, m: u32) -> Option<UBig> {
        let next = &times(&self.density, &self.ratio, self.digits)[1];
        (self.step + 1 >= 1 << m).then(|| next * UBig::from((1_u64 << m) + 1))
    }
}

/// Bounds of a product.
fn times(a: &[UBig; 2], b: &[UBig; 2], digits: usize) -> [UBig; 2] {
    [(&a[0] * &b[0]) >> digits, ((&a[1] * &b[1]) >> digits) + UBig::ONE]
}

impl Steps {
    /// The table for 2^m steps a standard deviation and first words of `bits` bits.
    pub(super) fn new(m: u32, bits: u32) -> Self {
        let mut digits = bits as usize + GUARD;
        loop {
            if let Some(steps) = Self::proved(m, bits, digits) {
                return steps;
            }
            digits += 64;
        }
    }

    /// The table, if so many digits prove all integer parts.
    fn proved(m: u32, bits: u32, digits: usize) -> Option<Self> {
        let mut bounds = successors(Some(Bounds::first(m, digits)), |bounds| Some(bounds.next()));
        let total = bounds.find_map(|bounds| {
            let rest = bounds.rest(m).filter(|rest| (rest >> digits.saturating_sub(bits as usize + 8)).is_zero())?;
            Some(&bounds.sum[1] + rest)
        })?;
        let scale = (UBig::ONE << (bits as usize + digits)) / total;
        let mut cells = Vec::new();
        for bounds in successors(Some(Bounds::first(m, digits)), |bounds| Some(bounds.next())) {
            let [low, high] = bounds.sum.each_ref().map(|sum| (sum * &scale) >> digits);
            if low != high {
                return None;
            }
            cells.push(u64::try_from(low).ok()?);
            // Behind a rest of less than one unit there are no further words to tell apart.
            if bounds.rest(m).is_some_and(|rest| ((rest * &scale) >> digits).is_zero()) {
                break;
            }
        }
        let beginnings = 0..1_u64 << INDEX_BITS.min(bits);
        let width = bits - INDEX_BITS.min(bits);
        let index = beginnings.map(|top| cells.partition_point(|cell| *cell < top << width) as u16).collect();
        Some(Self { m, bits, scale, cells, index })
    }

    /// One step.
    pub(super) fn draw(&self, stream: &mut Stream) -> u64 {
        loop {
            let word = stream.word() >> (64 - self.bits);
            let mut step = usize::from(self.index[(word >> (self.bits - INDEX_BITS.min(self.bits))) as usize]);
            while self.cells.get(step).is_some_and(|cell| *cell < word) {
                step += 1;
            }
            match self.cells.get(step) {
                Some(cell) if *cell != word => return step as u64,
                _ => {
                    if let Some(step) = self.refined(word, stream) {
                        return step;
                    }
                }
            }
        }
    }

    /// The step of a first word that does not decide by itself; none where U lies behind all steps.
    #[cold]
    fn refined(&self, word: u64, stream: &mut Stream) -> Option<u64> {
        let (mut drawn, mut digits) = (UBig::from(word), 0);
        loop {
            drawn = (drawn << 64_usize) + UBig::from(stream.word());
            digits += 64;
            if let Some(decided) = self.decided(&drawn, digits) {
                return decided;
            }
        }
    }

    /// The step, given `digits` binary digits of U behind the point: `Some(None)` where U lies behind all steps, and `None`
    /// where these digits leave it open.
    fn decided(&self, drawn: &UBig, digits: usize) -> Option<Option<u64>> {
        let precision = self.bits as usize + digits + GUARD;
        let up = precision - digits;
        // U is at least the first and less than the second.
        let (least, most) = (drawn << up, (drawn + UBig::ONE) << up);
        let mut bounds = Bounds::first(self.m, precision);
        loop {
            let [low, high] = bounds.sum.each_ref().map(|sum| sum * &self.scale);
            if most <= low {
                return Some(Some(bounds.step));
            }
            if least < high {
                return None;
            }
            if let Some(rest) = bounds.rest(self.m).map(|rest| rest * &self.scale) {
                if least >= high + &rest {
                    return Some(None);
                }
                // No later step can decide what is this near to the end.
                if (rest >> up).is_zero() {
                    return None;
                }
            }
            bounds = bounds.next();
        }
    }
}

#[cfg(test)]
mod tests;
