//! Renyi differential privacy of sampled Gaussian releases: simple, quick, and a little too large.
//!
//! At every order the costs of releases add up; the order that gives the smallest epsilon is the answer. Every order is
//! a proof, so the list of spec/privacy.md, 7.2 can only make the answer too large, never too small.

use super::{Adjacency, Failed, Releases, check_delta, moment, pair::Pair};

/// Epsilon, and the order that proves it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Renyi {
    /// Epsilon.
    pub epsilon: f64,
    /// The best order of the list.
    pub order: f64,
}

/// The orders that are tried: 1.1 to 10.9 in steps of 0.1, 11 to 64, then fewer and fewer up to 1024.
pub fn orders() -> impl Iterator<Item = f64> {
    let tenths = (11..=109).map(|tenth| f64::from(tenth) / 10.0);
    let whole = (11..=64).chain([80, 96, 128, 160, 192, 256, 512, 1024]);
    tenths.chain(whole.map(f64::from))
}

/// What one of `releases` costs at `order`, an order above 1: a Renyi divergence, rounded up.
///
/// # Privacy
/// Neighbours: `adjacency`. Add/remove takes the worse of both directions. Whole orders of add/remove in closed form
/// (Mironov, Talwar, Zhang 2019, arXiv 1908.10530), the others by quadrature of the dominating pair.
pub fn cost(releases: &Releases, adjacency: Adjacency, order: f64) -> f64 {
    let whole = (2.0..=65_536.0).contains(&order) && order.fract() == 0.0;
    let log_moment = if whole && releases.sampling < 1.0 && adjacency == Adjacency::AddRemove {
        moment::log_moment_of_whole_order(releases.sampling, releases.noise_multiplier, order as u32)
    } else {
        let pairs = Pair::directions(releases, adjacency);
        pairs.iter().map(|pair| moment::log_moment(pair, order)).fold(0.0, f64::max)
    };
    log_moment / (order - 1.0) * (1.0 + 4.0 * f64::EPSILON)
}

/// Epsilon of everything in `releases` together at `delta`.
///
/// # Privacy
/// Neighbours: `adjacency`. (epsilon, delta) with epsilon = min over orders of cost + ln(1 - 1/order) -
/// ln(delta order) / (order - 1) (Balle et al. 2020, arXiv 1905.09982, theorem 21; Canonne, Kamath, Steinke 2020), and
/// epsilon = 0 where the total variation is at most delta (Bretagnolle, Huber: it is at most sqrt(1 - exp(-cost))).
///
/// # Errors
/// If `delta` is not between 0 and 1.
pub fn epsilon(releases: &[Releases], delta: f64, adjacency: Adjacency) -> Result<Renyi, Failed> {
    check_delta(delta)?;
    if releases.iter().all(|some| some.count == 0) {
        return Ok(Renyi { epsilon: 0.0, order: f64::INFINITY });
    }
    let cost_of = |some: &Releases, order| some.count as f64 * cost(some, adjacency, order);
    Ok(best(delta, |order| releases.iter().map(|some| cost_of(some, order)).sum()))
}

/// The smallest epsilon at `delta` that an order gives, `total` being the Renyi divergence of everything at an order.
pub(super) fn best(delta: f64, total: impl Fn(f64) -> f64) -> Renyi {
    let mut best = Renyi { epsilon: f64::INFINITY, order: f64::INFINITY };
    for order in orders() {
        let total = total(order);
        let epsilon = if -libm::expm1(-total) < delta * delta { 0.0 } else { convert(total, order, delta) };
        if epsilon < best.epsilon {
            best = Renyi { epsilon, order };
        }
    }
    best
}

/// Epsilon at `delta` of a Renyi divergence of `total` at `order`, rounded up and not below 0.
pub(super) fn convert(total: f64, order: f64, delta: f64) -> f64 {
    let above = order - 1.0;
    let terms = [total, libm::log1p(-1.0 / order), -(delta.ln() + order.ln()) / above];
    let size: f64 = terms.iter().map(|term| term.abs()).sum();
    (terms.iter().sum::<f64>() + size * 8.0 * f64::EPSILON).max(0.0)
}

#[cfg(test)]
mod tests;
