//! What logs cannot say for themselves, in words.

use semisam_shared::plan::{Method, Plan, ReleaseSpace, Unit};

/// Whom a patient has to trust.
pub(super) const TRUST_MODEL: &str = "Local noise: each hospital adds the whole noise before anything leaves it, so that a \
    patient trusts their own hospital and nobody else: neither the coordinator, nor the other hospitals, nor who reads the \
    model.";

/// What no log can show.
pub(super) const NOT_COVERED: [&str; 6] = [
    "Whether the keys in this report belong to those whose names stand beside them. Compare them by telephone.",
    "The end of a log that no other party has heard of: whoever holds all files can cut off what came after the last receipt.",
    "Whether a hospital has as many patients as its policy demands. That number is private and stands in no log; the node \
     refuses to release for fewer.",
    "Whether the programs that ran are the published ones, and drew their noise as they say. The records prove what was \
     charged and sent, not what happened inside a machine.",
    "Patients who were seen at two hospitals: they spent both budgets, and nobody links them.",
    "The law. Noise of this kind limits what can be learnt about a patient; it does not by itself make a model anonymous.",
];

/// Four digits where a number has very many.
fn short(value: f64) -> String {
    let text = value.to_string();
    if text.len() > 8 { format!("about {value:.3e}") } else { text }
}

/// What `plan` does, one sentence each.
pub(super) fn plan(plan: &Plan) -> Vec<String> {
    let (training, privacy) = (&plan.training, &plan.privacy);
    let method = match training.method {
        Method::Supervised => "from labelled scans alone",
        Method::MeanTeacher => "from labelled scans, and from agreement with the last published model on all scans",
        Method::UaMt => {
            "from labelled scans, and from agreement with the last published model wherever that is certain on unlabelled ones"
        }
        Method::Semisam | Method::SemisamPlus => {
            "from labelled scans, from agreement with the last published model, and from the masks that frozen public networks \
             draw on unlabelled scans"
        }
    };
    let unit = match privacy.unit {
        Unit::Patient => {
            "Protected is each patient of a hospital with all scans together: each patient's contribution is limited by itself"
        }
        Unit::Hospital => {
            "Protected is each hospital as a whole: its contribution is limited once, and each of its patients is covered by that"
        }
    };
    let released = match &privacy.release {
        ReleaseSpace::All { coordinates } => format!("all {coordinates} weights of the network"),
        ReleaseSpace::Tensors { names, coordinates } => format!("{coordinates} weights ({} tensors)", names.len()),
        ReleaseSpace::Basis { coordinates, .. } => {
            format!("{coordinates} numbers: how far to go in directions that were computed from synthetic scans")
        }
    };
    vec![
        format!(
            "{} rounds of training one segmentation network; a round closes once {} hospitals have contributed and the others \
             are done or {} seconds have passed.",
            plan.rounds, plan.quorum, plan.round_seconds
        ),
        format!(
            "In each round a hospital starts from the published model for each of its patients alone, takes {} steps {method}.",
            training.local_steps
        ),
        format!("{unit} to a length (L2 norm) of {}.", short(privacy.clip_norm.get())),
        format!(
            "To the sum over its patients the hospital adds Gaussian noise, {} times as large as the most that one patient can \
             contribute, and sends {released}. Nothing else leaves it.",
            privacy.noise_multiplier
        ),
        format!(
            "The sum is divided by {}, a public number, and not by the true number of patients, which stays private.",
            privacy.expected_patients
        ),
    ]
}
