//! `epsilon --mechanism swor-gaussian`: batches of fixed size, for those who must judge somebody else's training.
//!
//! There is one accountant for them, RDP, and one relation, the exchange. What has no figure says why, in its place.

use std::io::{self, Write};

use semisam_shared::accounting::{Adjacency, Failed, Releases, fixed_batch, fixed_batch::FixedBatches, rdp};
use serde::Serialize;

use super::{Failure, Format, Question, Relation, up};

/// Why an exchange alone has a figure.
const NO_ADD_REMOVE: &str = "add-remove hides how many units there are, and fixed batches need that to be public: ask for \
                             replace-one, which covers a unit that is zeroed out, too";

/// Why there is no PLD.
const NO_PLD: &str = "PLD is for Poisson sampling and full participation: no two distributions are known here that stand for \
                      all fixed batches";

/// Why there is no zCDP.
const NO_ZCDP: &str = "zCDP is for full participation";

/// What to think of it.
const NOTE: &str = "fixed batches cost more than Poisson sampling with the same q; no plan of this system draws any";

/// What has no figure is null and has a reason.
#[derive(Debug, Serialize)]
struct Cost {
    /// All digits, and never below the truth.
    eps_rdp: Option<f64>,
    /// The order that proves `eps_rdp`.
    rdp_order: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eps_rdp_reason: Option<&'static str>,
    eps_pld: Option<f64>,
    eps_pld_reason: &'static str,
    eps_zcdp: Option<f64>,
    eps_zcdp_reason: &'static str,
    note: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    poisson_eps_rdp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_participation: Option<Full>,
}

/// Everybody in every step, with as much noise beside the mean over those who take part.
#[derive(Clone, Copy, Debug, Serialize)]
struct Full {
    sigma: f64,
    eps_rdp: f64,
}

/// What has no figure is null and has a reason.
#[derive(Debug, Serialize)]
struct Noise {
    sigma_rdp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma_rdp_reason: Option<&'static str>,
    sigma_pld: Option<f64>,
    sigma_pld_reason: &'static str,
    sigma_zcdp: Option<f64>,
    sigma_zcdp_reason: &'static str,
    note: &'static str,
}

/// What `sigma` costs.
pub(super) fn cost(question: &Question, sigma: f64, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let cost = cost_of(question, sigma).map_err(super::no_answer)?;
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&cost)?)?,
        Format::Text => {
            writeln!(out, "epsilon at delta {}, {}, rounded up:", question.delta, question.adjacency.words())?;
            let order = cost.rdp_order.map(|order| format!("  (order {order})"));
            figures(out, cost.eps_rdp, &order.unwrap_or_default())?;
            if let Some(epsilon) = cost.poisson_eps_rdp {
                writeln!(out, "RDP of Poisson sampling with the same q and sigma: {:.3}", up(epsilon))?;
            }
            if let Some(Full { sigma, eps_rdp }) = cost.full_participation {
                let noise = format!("sigma {sigma}, which is as much noise for each who takes part");
                writeln!(out, "RDP of everybody in every step with {noise}: {:.3}", up(eps_rdp))?;
            }
        }
    }
    Ok(())
}

/// How much noise keeps to `target`.
pub(super) fn noise(question: &Question, target: f64, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let asked = (target, question.delta);
    let smallest = || fixed_batch::smallest_noise_multiplier(asked, question.steps, question.q);
    let known = question.adjacency == Relation::ReplaceOne;
    let noise = Noise {
        sigma_rdp: known.then(smallest).transpose().map_err(super::no_answer)?,
        sigma_rdp_reason: (!known).then_some(NO_ADD_REMOVE),
        sigma_pld: None,
        sigma_pld_reason: NO_PLD,
        sigma_zcdp: None,
        sigma_zcdp_reason: NO_ZCDP,
        note: NOTE,
    };
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&noise)?)?,
        Format::Text => {
            let head = question.adjacency.words();
            writeln!(out, "sigma for epsilon {target} at delta {}, {head}, rounded up:", question.delta)?;
            figures(out, noise.sigma_rdp, "")?;
        }
    }
    Ok(())
}

/// The figure of each accountant, or why there is none, and what to think of it.
fn figures(out: &mut dyn Write, rdp: Option<f64>, order: &str) -> io::Result<()> {
    writeln!(out, "PLD   none: {NO_PLD}")?;
    match rdp {
        Some(figure) => writeln!(out, "RDP   {:.3}{order}", up(figure))?,
        None => writeln!(out, "RDP   none: {NO_ADD_REMOVE}")?,
    }
    writeln!(out, "zCDP  none: {NO_ZCDP}")?;
    writeln!(out, "note: {NOTE}")
}

fn cost_of(question: &Question, sigma: f64) -> Result<Cost, Failed> {
    let (q, steps, delta) = (question.q, question.steps, question.delta);
    let known = question.adjacency == Relation::ReplaceOne;
    let exchange = |releases| rdp::epsilon(&[releases], delta, Adjacency::ReplaceOne).map(|found| found.epsilon);
    let renyi = known.then(|| FixedBatches::new(q, sigma, steps)?.epsilon(delta)).transpose()?;
    let poisson = known.then(|| exchange(Releases::new(q, sigma, steps)?)).transpose()?;
    // So much noise may be out of range.
    let full = Releases::new(1.0, sigma / q, steps).ok().filter(|_| known);
    let full = full.map(|full| Ok(Full { sigma: sigma / q, eps_rdp: exchange(full)? })).transpose()?;
    Ok(Cost {
        eps_rdp: renyi.map(|found| found.epsilon),
        rdp_order: renyi.map(|found| found.order),
        eps_rdp_reason: (!known).then_some(NO_ADD_REMOVE),
        eps_pld: None,
        eps_pld_reason: NO_PLD,
        eps_zcdp: None,
        eps_zcdp_reason: NO_ZCDP,
        note: NOTE,
        poisson_eps_rdp: poisson,
        full_participation: full,
    })
}
