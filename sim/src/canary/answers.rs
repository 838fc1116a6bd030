//! Questions that are asked twice. The same one must get the same bytes, also after a restart: fresh noise for it would be
//! a second release that nobody paid for. Another one, about the same patients, must get fresh noise: noise that is used
//! again cancels in the difference, and leaves the bare difference of the data.

use semisam_shared::{fold::add_update, plan::SIGMA};

use super::{CanaryError, Found, Options, cohort::Cohort, hospital};

/// How the chance of a false alarm about fresh noise is bounded: exp(-18.42) < 1.01e-8.
const EXPONENT: f64 = 18.42;

/// What two questions about the same patients told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answers {
    /// Whether a question that is asked again gets the same bytes, before and after a restart.
    pub(crate) same_bytes: bool,
    /// Mean squared difference of two rounds in units of 2 sigma²: 1 for independent noise, 0 for the same.
    pub(crate) variance: f64,
    /// Below this the noise is too small, or partly the same.
    pub(crate) least: f64,
}

/// Asks.
pub(crate) fn examine(options: &Options, cohort: &Cohort, found: &Found<'_>) -> Result<Answers, CanaryError> {
    let mut mechanism = found("answers", hospital::plan(options, 2))?;
    let first = mechanism.answer(1, &cohort.patients)?;
    let mut same_bytes = mechanism.answer(1, &cohort.patients)? == first;
    mechanism.restart()?;
    same_bytes &= mechanism.answer(1, &cohort.patients)? == first;
    let second = mechanism.answer(2, &cohort.patients)?;
    let [mut one, mut two] = [vec![0_i64; options.coordinates], vec![0_i64; options.coordinates]];
    add_update(&mut one, &first)?;
    add_update(&mut two, &second)?;
    let squares = one.iter().zip(&two).map(|(one, two)| ((one - two) as f64 / SIGMA as f64).powi(2));
    let variance = squares.sum::<f64>() / (2 * options.coordinates) as f64;
    Ok(Answers { same_bytes, variance, least: least(options.coordinates) })
}

/// How small the mean of as many squared normals can be but with a chance of exp(-[`EXPONENT`]): Laurent and Massart
/// 2000, lemma 1. The noise is a discrete Gaussian of scale 2^20, which differs from a normal by far less.
fn least(coordinates: usize) -> f64 {
    1.0 - 2.0 * (EXPONENT / coordinates as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::least;

    #[test]
    fn the_limit_lies_between_noise_that_is_fresh_and_noise_that_is_partly_the_same() {
        assert!((least(20_000) - 0.939_304).abs() < 1e-6, "{}", least(20_000));
        assert!((least(1000) - 0.728_559).abs() < 1e-6, "{}", least(1000));
    }
}
