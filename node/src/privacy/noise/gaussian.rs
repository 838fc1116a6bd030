//! An exact sampler of the discrete Gaussian whose sigma is a power of two: integers alone, two random words a draw.
//!
//! # The distribution
//! For sigma = 2^s: P(y) proportional to exp(-y² / 2 sigma²) on all integers y, the discrete Gaussian of Canonne, Kamath and
//! Steinke (2020, arXiv 2004.00010), whose theorem 14 is what a release is charged for.
//!
//! # The algorithm
//! The magnitude is written y = h w + j with w = 2^(s-m) and 0 ≤ j < w (m = 4, or s where that is smaller), because
//!
//! ```text
//!   y² / 2^(2s+1)  =  h² / 2^(2m+1)  +  j (2 h w + j) / 2^(2s+1)
//! ```
//! 1. h with probability proportional to exp(-h² / 2^(2m+1)), exactly ([`super::steps`]);
//! 2. j uniform, a sign uniform;
//! 3. accepted with probability exp(-n / 2^(2s+1)), n = j (2 h w + j), else start again;
//! 4. minus zero starts again, or zero would come twice as often.
//!
//! An attempt ends in (h, j) with a probability proportional to the product of 1 and 3, which is exp(-y² / 2 sigma²); rejection
//! leaves the proportion as it is. This is Karney's decomposition (2016, arXiv 1303.6257, algorithm D) with sixteen steps a
//! standard deviation instead of one, so that 97.6 % of all attempts succeed instead of 71 %.
//!
//! # Why nothing is rounded
//! Step 1 is exact. Step 2 takes bits. Step 3 is von Neumann's comparison as CKS20 state it (their algorithm 1): for k = 1,
//! 2, … toss a coin that succeeds with probability gamma / k until one fails; accept if k is then odd. That happens with
//! probability sum of (-gamma)^k / k! = exp(-gamma), for gamma ≤ 1. The first coin compares 2s + 1 bits with n, which is
//! the whole of gamma; coin k is a uniform integer below k that must be 0, and another such comparison. Where gamma > 1
//! (only behind step 255) exp(-gamma) is the product of whole factors exp(-1) and the rest. All are integers, compared
//! exactly; the only assumption is that the words are uniform.
//!
//! # Time
//! How long a draw takes depends on what is drawn, as with every sampler of this kind. So a release draws its noise before it
//! looks at any contribution (spec/privacy.md, P16).

use super::{steps::Steps, stream::Stream};

/// Steps of a standard deviation are at most 2^4.
const FINEST: u32 = 4;

/// The largest s for which sign, j and the first coin fit into one word.
const LARGEST: u32 = 22;

/// The discrete Gaussian of scale 2^s.
#[derive(Debug)]
pub(super) struct Gaussian {
    s: u32,
    /// Bits of j.
    low: u32,
    steps: Steps,
}

impl Gaussian {
    /// That of scale `sigma`; none unless it is a power of two up to 2^22.
    pub(super) fn new(sigma: u64) -> Option<Self> {
        Self::with_words_of(sigma, u64::BITS)
    }

    /// The same distribution, with a table of `bits` bits: a short one is refined more often.
    pub(super) fn with_words_of(sigma: u64, bits: u32) -> Option<Self> {
        let s = sigma.trailing_zeros();
        let m = s.min(FINEST);
        (sigma.is_power_of_two() && s <= LARGEST).then(|| Self { s, low: s - m, steps: Steps::new(m, bits) })
    }

    /// One draw.
    pub(super) fn draw(&self, stream: &mut Stream) -> i64 {
        loop {
            let step = self.steps.draw(stream);
            let word = stream.word();
            // From the least bit on: the sign, j; from the most: the first coin. Together at most 3 s + 2 - m ≤ 64 bits.
            let negative = word & 1 == 1;
            let rest = (word >> 1) & ((1 << self.low) - 1);
            let coin = word >> (u64::BITS - self.digits());
            let magnitude = (step << self.low) + rest;
            let numerator = rest * ((step << (self.low + 1)) + rest);
            let accepted = coin >= numerator || self.accepted(numerator, stream);
            if accepted && !(magnitude == 0 && negative) {
                return if negative { -(magnitude as i64) } else { magnitude as i64 };
            }
        }
    }

    /// Binary digits of gamma.
    fn digits(&self) -> u32 {
        2 * self.s + 1
    }

    /// The rest of step 3, where the first coin succeeded. For gamma > 1 the coin told nothing.
    #[cold]
    fn accepted(&self, numerator: u64, stream: &mut Stream) -> bool {
        let whole = numerator >> self.digits();
        if whole == 0 {
            return self.alternating(numerator, 2, stream);
        }
        let one = 1 << self.digits();
        (0..whole).all(|_| self.alternating(one, 1, stream)) && self.alternating(numerator - whole * one, 1, stream)
    }

    /// Whether, from coin `k` on, an odd one is the first to fail.
    fn alternating(&self, numerator: u64, mut k: u64, stream: &mut Stream) -> bool {
        while stream.below(k) == 0 && stream.word() >> (u64::BITS - self.digits()) < numerator {
            k += 1;
        }
        k % 2 == 1
    }
}

#[cfg(test)]
mod tests;
