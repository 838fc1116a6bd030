//! The noise of a release: an exact discrete Gaussian on the integers, and opendp's word on what it costs.
//!
//! # Two samplers behind one door
//! opendp is the reference: its privacy map prices every release beside our own accountant ([`check_cost`]), and its draws are
//! what ours are tested against. What is released is drawn by our own exact sampler ([`gaussian`]), at every length,
//! because opendp's cannot keep the rule of spec/privacy.md, section 9: built without OpenSSL it takes its bits from a
//! generator of its own, which can be neither bound to a release nor wiped. Ours also takes a hundredth of the time and a
//! few pages of memory.
//!
//! In reading order: [`stream`] is the key of one release and its random words, [`steps`] a table of the Gaussian that no
//! rounding touches, [`gaussian`] the sampler with its proof.
//!
//! The time that a draw takes depends on what is drawn, so it is drawn before any contribution is looked at.

use opendp::{
    core::Measurement, domains::AtomDomain, domains::VectorDomain, measurements::make_gaussian,
    measures::ZeroConcentratedDivergence, metrics::L2Distance,
};
use rayon::prelude::*;
use semisam_shared::accounting::Rho;
use zeroize::Zeroizing;

mod gaussian;
mod steps;
mod stream;

use gaussian::Gaussian;
use stream::Key;
pub use stream::Purpose;

/// What the COMMIT record says about the noise.
pub const SOURCE: &str = "exact discrete Gaussian; getrandom+hkdf-sha256+chacha20 for this release alone";

/// How many coordinates have a nonce of their own. opendp keeps about 46 bytes for each that it draws at once.
const CHUNK: usize = 16_384;

/// How much our cost may exceed opendp's.
const AGREEMENT: f64 = 1e-6;

/// Noise cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum NoiseError {
    /// opendp says no.
    #[error("opendp cannot price or draw this noise: {0}")]
    OpenDp(String),
    /// The two accountants differ.
    #[error("opendp charges rho {theirs} for a release that our accountant charges {ours}: do not release")]
    Cost {
        /// opendp's cost.
        theirs: f64,
        /// Ours.
        ours: f64,
    },
    /// Another scale than the sampler has.
    #[error("the noise scale {0} is not a power of two up to 2^22: the plan is of another version of this program")]
    Scale(u64),
    /// The system gives no entropy.
    #[error("the operating system gave no random bytes ({0}): nothing is released without them; start again")]
    Entropy(String),
    /// HKDF failed, which it does not do for a key of 32 bytes.
    #[error("no key could be derived for this release: nothing is released without one; report this")]
    Derivation,
}

type Reference = Measurement<VectorDomain<AtomDomain<i64>>, L2Distance<f64>, ZeroConcentratedDivergence, Vec<i64>>;

fn reference(size: Option<usize>, sigma: u64) -> Result<Reference, NoiseError> {
    let domain = VectorDomain::new(AtomDomain::<i64>::default());
    let domain = match size {
        Some(size) => domain.with_size(size),
        None => domain,
    };
    make_gaussian(domain, L2Distance::default(), sigma as f64, None).map_err(refused)
}

fn refused(error: opendp::error::Error) -> NoiseError {
    NoiseError::OpenDp(error.to_string())
}

/// What opendp charges for one release of `coordinates` integers: its privacy map, evaluated once at full size.
///
/// # Privacy
/// Neighbours at L2 distance `sensitivity`; rho-zCDP.
///
/// # Errors
/// If opendp does not know, or its cost is above ours or more than a millionth below it.
pub fn check_cost(coordinates: usize, sensitivity: u64, sigma: u64) -> Result<Rho, NoiseError> {
    let ours = Rho::of_release(sensitivity, sigma);
    let theirs = reference(Some(coordinates), sigma)?.map(&(sensitivity as f64)).map_err(refused)?;
    if theirs <= ours.value() && ours.value() <= theirs * (1.0 + AGREEMENT) {
        return Ok(ours);
    }
    Err(NoiseError::Cost { theirs, ours: ours.value() })
}

/// Noise that was drawn and not used yet. Nothing else makes one, and contributions are summed only into one
/// ([`super::clip::Clip::noised`]): so the time of a draw cannot depend on them, and no sum exists without noise.
pub struct Noise(Zeroizing<Vec<i64>>);

impl Noise {
    /// One for each coordinate.
    pub(super) fn into_values(self) -> Zeroizing<Vec<i64>> {
        self.0
    }
}

/// `coordinates` independent draws of the discrete Gaussian with scale `sigma`, a power of two, under a key that is made
/// for `purpose` and wiped when this returns. Needs the vector, and a few KiB a thread.
///
/// # Privacy
/// Added to integers of L2 sensitivity s, the result is (s² / 2 sigma²)-zCDP, whatever the number of coordinates and
/// however they are split for drawing, since they are independent (Canonne, Kamath, Steinke 2020, theorem 14). The
/// answer depends on no data. Nothing is rounded ([`gaussian`]); what is assumed is that ChaCha20 under a fresh key cannot
/// be told from uniform words.
///
/// # Errors
/// If `sigma` is no power of two, or the operating system gives no entropy.
pub fn draw(coordinates: usize, sigma: u64, purpose: &Purpose) -> Result<Noise, NoiseError> {
    let gaussian = Gaussian::new(sigma).ok_or(NoiseError::Scale(sigma))?;
    let mut noise = Zeroizing::new(vec![0; coordinates]);
    fill(&mut noise, &gaussian, &Key::fresh(purpose)?);
    Ok(Noise(noise))
}

/// The same values for the same key, on however many threads.
fn fill(noise: &mut [i64], gaussian: &Gaussian, key: &Key) {
    noise.par_chunks_mut(CHUNK).enumerate().for_each(|(number, part)| {
        let mut stream = key.stream(number as u64);
        part.iter_mut().for_each(|value| *value = gaussian.draw(&mut stream));
    });
}

/// The same distribution drawn by opendp, for tests and measurements: it takes random bits of opendp's own, so nothing of
/// it may be released.
///
/// # Errors
/// If opendp fails.
pub fn draw_reference(coordinates: usize, sigma: u64) -> Result<Vec<i64>, NoiseError> {
    let mut noise = vec![0; coordinates];
    noise.par_chunks_mut(CHUNK).try_for_each(|part| {
        let drawn = reference(None, sigma)?.invoke(&vec![0; part.len()]).map_err(refused)?;
        if drawn.len() != part.len() {
            return Err(NoiseError::OpenDp(format!("{} draws instead of {}", drawn.len(), part.len())));
        }
        part.copy_from_slice(&drawn);
        Ok(())
    })?;
    Ok(noise)
}

#[cfg(test)]
mod tests;
