//! A federation as an entry of the Differential Privacy Deployments Registry, so that a consortium can publish what it did
//! where others publish what they did.
//!
//! # Where names come from
//! Every field name below `deployment`, and every value of the fields `status`, `tier`, `data_product_type`,
//! `data_product_sector`, `variant_name`, `model_name`, `release_type` and `access_type`, is that of the registry's schema
//! (`schemas/deployments-schema.yaml` of github.com/opendp/deployments-registry-data, as of July 2026), which carries out
//! the hierarchy of Nanayakkara, Ghazi, Vadhan (arXiv 2509.13509). The registry's `privacy_unit` is the `unit of privacy` of
//! NIST SP 800-226, its `privacy_parameters` are that guideline's epsilon and delta, its `deployment_model` that
//! guideline's trust model.
//!
//! What logs do not tell (region, intended use, whether patients were added on the way) is left for the consortium to fill
//! in: the entry is a draft.

use semisam_shared::{ids::Digest, plan::Unit};
use serde::Serialize;

use super::{Hospital, words};
use crate::verify::{Examined, JournalBook};

/// What the consortium must fill in.
const TO_FILL_IN: &str = "(to be filled in by the consortium)";

/// An entry of the registry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The stable part of its address.
    pub url_slug: String,
    /// Approval status: always a draft here.
    pub status: &'static str,
    /// How complete the description is: 3 of 3.
    pub tier: u8,
    /// The description.
    pub deployment: Deployment,
}

/// What was deployed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deployment {
    /// Who made what.
    pub basic: Basic,
    /// Which differential privacy.
    pub dp_variant: Variant,
    /// Of whom, and how much.
    pub privacy_loss: PrivacyLoss,
    /// Who must be trusted.
    pub deployment_model: Model,
    /// How losses add up.
    pub accounting: Accounting,
    /// How it was made.
    pub implementation: Implementation,
    /// Who wrote this.
    pub administrative: Administrative,
}

/// Who made what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Basic {
    /// The plan's name.
    pub name: String,
    /// The hospitals.
    pub data_curators: Vec<String>,
    /// To be filled in.
    pub intended_use: String,
    /// From the registry's list.
    pub data_product_type: &'static str,
    /// To be filled in.
    pub data_product_region: &'static str,
    /// What the product is.
    pub description: String,
    /// When the first model was published, as YYYY-MM-DD.
    pub publication_date: String,
    /// From the registry's list.
    pub data_product_sector: &'static str,
}

/// Which differential privacy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// From the registry's list.
    pub variant_name: &'static str,
    /// Which data sets are meant.
    pub data_domain: &'static str,
    /// What has no noise.
    pub unprotected_quantities: &'static str,
}

/// Of whom, and how much.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrivacyLoss {
    /// Patient or hospital.
    pub privacy_unit: &'static str,
    /// What neighbours are.
    pub privacy_unit_details: &'static str,
    /// The largest of all hospitals.
    pub privacy_parameters: Parameters,
    /// Each hospital, in both relations.
    pub privacy_parameters_details: String,
}

/// Add/remove.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parameters {
    /// At `delta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// The policy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// zCDP.
    pub rho: f64,
}

/// Who must be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Model {
    /// From the registry's list.
    pub model_name: &'static str,
    /// Where the noise is added.
    pub model_name_details: &'static str,
    /// Who sees what.
    pub actors: &'static str,
    /// From the registry's list.
    pub release_type: &'static str,
    /// How many.
    pub release_type_details: String,
    /// From the registry's list.
    pub access_type: &'static str,
}

/// How losses add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// What happens after the noise.
    pub post_processing: &'static str,
    /// How losses add up.
    pub composition: &'static str,
}

/// How it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Implementation {
    /// What was looked at before.
    pub preprocessing_and_hyperparameter_tuning: &'static str,
    /// The mechanism.
    pub mechanisms: String,
    /// Why.
    pub justification: &'static str,
}

/// Who wrote this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Administrative {
    /// What is not covered.
    pub notes: String,
    /// The program; the consortium puts its own people there.
    pub registry_authors: Vec<&'static str>,
}

/// An entry for each journal that has a beginning and at least one hospital that spent something on it.
pub(super) fn entries(examined: &Examined, hospitals: &[Hospital]) -> Vec<Entry> {
    examined.journals.iter().filter_map(|journal| entry(journal, hospitals)).collect()
}

fn entry(journal: &JournalBook, hospitals: &[Hospital]) -> Option<Entry> {
    let charter = journal.charter()?;
    let plan = &charter.plan.plan;
    let own = |hospital: &&Hospital| hospital.steps.iter().any(|step| step.plan == charter.digest);
    let members: Vec<&Hospital> = hospitals.iter().filter(own).collect();
    let published = journal.log.records.iter().find(|record| Some(record.seq) == first_closing(journal));
    Some(Entry {
        url_slug: slug(&plan.name, &charter.digest.short()),
        status: "Draft",
        tier: 3,
        deployment: Deployment {
            basic: Basic {
                name: plan.name.clone(),
                data_curators: journal.state.members.values().map(|member| member.name.clone()).collect(),
                intended_use: format!("Segmentation of medical images {TO_FILL_IN}"),
                data_product_type: "Machine learning model",
                data_product_region: TO_FILL_IN,
                description: words::plan(plan).join(" "),
                publication_date: published.map_or_else(String::new, |record| date(&record.at.to_string())),
                data_product_sector: "Healthcare",
            },
            dp_variant: Variant {
                variant_name: "Zero-concentrated DP",
                data_domain: "All sets of patients that a hospital may have, each with any number of scans, labelled or not.",
                unprotected_quantities: "Which hospitals take part, and in which rounds. Numbers of patients are not released.",
            },
            privacy_loss: privacy_loss(plan.privacy.unit, &members)?,
            deployment_model: model(plan.rounds, journal.state.closed.len()),
            accounting: Accounting {
                post_processing: "Averaging, server momentum and publishing work on noised sums alone.",
                composition: "Sequential, by zCDP: the costs of all releases of a cohort add up over all plans, lost ones \
                              included. Checked with Renyi differential privacy and privacy loss distributions.",
            },
            implementation: Implementation {
                preprocessing_and_hyperparameter_tuning: "Clip norm, release space and starting model are fixed in the signed \
                                                          plan before round 1. How they were chosen stands in no log: the \
                                                          consortium says whether private data were used for it.",
                mechanisms: mechanisms(reservations(&members, charter.digest)),
                justification: TO_FILL_IN,
            },
            administrative: Administrative {
                notes: words::NOT_COVERED.join(" "),
                registry_authors: vec![super::CHECKED_BY],
            },
        },
    })
}

fn first_closing(journal: &JournalBook) -> Option<u64> {
    journal.state.closed.first().and_then(|round| journal.closing(round.round))
}

fn reservations(members: &[&Hospital], plan: Digest) -> usize {
    members.iter().flat_map(|hospital| &hospital.steps).filter(|step| step.plan == plan).count()
}

fn mechanisms(reservations: usize) -> String {
    format!(
        "{}; {reservations} reservations. Each patient's contribution is clipped to an L2 norm in integers, summed, and one \
         exact discrete Gaussian is added for each number: no floating-point noise. Randomness comes from the operating \
         system, fresh for each release. A ledger is charged and on disk before anything is noised.",
        semisam_shared::ledger::MECHANISM
    )
}

fn privacy_loss(unit: Unit, members: &[&Hospital]) -> Option<PrivacyLoss> {
    let worst =
        members.iter().max_by(|one, two| one.privacy_loss.add_remove.total_cmp(&two.privacy_loss.add_remove))?;
    let details = members.iter().map(|hospital| {
        let spent = &hospital.privacy_loss;
        let delta = spent.delta.map_or_else(|| "none".to_owned(), |delta| delta.to_string());
        format!(
            "{}: epsilon {} (add/remove), {} (replace-one) at delta {delta}, rho {}.",
            hospital.name, spent.add_remove, spent.replace_one, hospital.rho
        )
    });
    let (privacy_unit, privacy_unit_details) = match unit {
        Unit::Patient => (
            "Patient",
            "All scans of one patient at one hospital. Neighbours: the patient's contribution is zeroed out (add/remove); beside \
             it, the patient is exchanged for another (replace-one). A patient at two hospitals is two units.",
        ),
        Unit::Hospital => (
            "Hospital",
            "All patients of one hospital. Neighbours: the hospital's contribution is zeroed out (add/remove); beside it, the \
             hospital is exchanged for another (replace-one).",
        ),
    };
    Some(PrivacyLoss {
        privacy_unit,
        privacy_unit_details,
        privacy_parameters: Parameters {
            epsilon: Some(worst.privacy_loss.add_remove).filter(|epsilon| epsilon.is_finite()),
            delta: worst.privacy_loss.delta,
            rho: worst.rho,
        },
        privacy_parameters_details: details.collect::<Vec<_>>().join(" "),
    })
}

fn model(planned: u32, closed: usize) -> Model {
    Model {
        model_name: "Federated",
        model_name_details: "Each hospital adds the whole noise before anything leaves it.",
        actors: "Hospitals see their own scans and the published models. The coordinator sees noised sums and which hospital \
                 sent them; it is not trusted. Readers of the model see the models. An auditor sees signed logs, in which there \
                 is nothing private.",
        release_type: "Many releases",
        release_type_details: format!(
            "{closed} of {planned} rounds, one release of each hospital in each. The budget never comes back; the hospital's \
             policy caps epsilon (add/remove) over all plans."
        ),
        access_type: "Non-interactive",
    }
}

/// The first ten characters of an RFC 3339 moment.
fn date(moment: &str) -> String {
    moment.chars().take(10).collect()
}

/// Lower-case words and a digest.
fn slug(name: &str, digest: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let words: String = name.chars().take(60).map(plain).collect();
    let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
    [words.join("-"), digest.to_owned()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
