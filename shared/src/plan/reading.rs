//! A plan from a file, whatever its state: as people write it (TOML, in which digests are left out because they are computed
//! when the consortium signs), as canonical JSON, or signed. For questions that are asked before anybody trains.

use serde_json::{Map, Value, json};

use super::{Plan, PlanError, SignedPlan};
use crate::ids::{Digest, PublicKey};

/// The text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum ReadPlanError {
    /// Neither TOML nor JSON, or not a plan's fields.
    #[error("it does not read as a plan (deploy/plan.toml is a sample): {0}")]
    Text(String),
    /// The length of what is released is not written, and follows from files that are not here.
    #[error(
        "`privacy.release.coordinates` is not written in it: say with `--coordinates` how many numbers a site releases \
         each round (all weights, those of the named tensors, or the rows of the basis)"
    )]
    NoCoordinates,
    /// It is written, and another number was given.
    #[error("`--coordinates` is {given}, but the plan says {written}: leave the option out")]
    OtherCoordinates {
        /// On the command line.
        given: u64,
        /// In the plan.
        written: u64,
    },
    /// A field is out of range, or the signature is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// A plan and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPlan {
    /// The plan. Digests that were not written are zero.
    pub plan: Plan,
    /// The key that signed it, if it is signed; whether that is the consortium's only its owner can say.
    pub signed_by: Option<PublicKey>,
    /// Whether digests are missing, so that it has no digest of its own yet.
    pub draft: bool,
}

impl ReadPlan {
    /// Reads `text`; `coordinates` is for drafts that leave it out.
    ///
    /// # Errors
    /// What is wrong with the text, a field or the signature.
    pub fn parse(text: &str, coordinates: Option<u64>) -> Result<Self, ReadPlanError> {
        let problem = |error: &dyn std::fmt::Display| ReadPlanError::Text(error.to_string());
        let mut value: Value = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text).map_err(|error| problem(&error))?,
            false => toml::from_str(text).map_err(|error| problem(&error))?,
        };
        if value.get("signature").is_some() {
            let signed: SignedPlan = serde_json::from_value(value).map_err(|error| problem(&error))?;
            signed.verify(signed.key)?;
            same_coordinates(coordinates, signed.plan.privacy.release.coordinates())?;
            return Ok(Self { plan: signed.plan, signed_by: Some(signed.key), draft: false });
        }
        let draft = complete(&mut value, coordinates)?;
        let plan: Plan = serde_json::from_value(value).map_err(|error| problem(&error))?;
        plan.check()?;
        same_coordinates(coordinates, plan.privacy.release.coordinates())?;
        Ok(Self { plan, signed_by: None, draft })
    }
}

fn same_coordinates(given: Option<u64>, written: u64) -> Result<(), ReadPlanError> {
    match given.filter(|given| *given != written) {
        Some(given) => Err(ReadPlanError::OtherCoordinates { given, written }),
        None => Ok(()),
    }
}

/// Fills in what a draft leaves out; answers whether there was anything.
fn complete(value: &mut Value, coordinates: Option<u64>) -> Result<bool, ReadPlanError> {
    fn table<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
        path.iter().try_fold(value, |value, key| value.get_mut(key))?.as_object_mut()
    }
    let mut draft = false;
    let mut fill = |table: Option<&mut Map<String, Value>>, key: &str| {
        if let Some(table) = table.filter(|table| !table.contains_key(key)) {
            table.insert(key.into(), json!(Digest::ZERO));
            draft = true;
        }
    };
    fill(table(value, &[]), "initial_model");
    fill(table(value, &["student"]), "architecture");
    let Some(release) = table(value, &["privacy", "release"]) else { return Ok(draft) };
    if !release.contains_key("coordinates") {
        release.insert("coordinates".into(), json!(coordinates.ok_or(ReadPlanError::NoCoordinates)?));
    }
    if release.get("space").and_then(Value::as_str) == Some("basis") {
        fill(Some(release), "basis");
    }
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::tests::example, signing::SigningKey};

    const SAMPLE: &str = include_str!("../../../deploy/plan.toml");

    #[test]
    fn a_draft_a_plan_and_a_signed_plan_are_read() {
        let draft = ReadPlan::parse(SAMPLE, Some(32)).expect("the sample");
        assert!(draft.draft && draft.signed_by.is_none() && draft.plan.privacy.release.coordinates() == 32);
        assert_eq!(draft.plan.student.architecture, Digest::ZERO);
        let json = serde_json::to_string(&example()).expect("json");
        let whole = ReadPlan::parse(&json, None).expect("a plan");
        assert_eq!(whole, ReadPlan { plan: example(), signed_by: None, draft: false });
        let key = SigningKey::generate().expect("entropy");
        let signed = SignedPlan::sign(example(), &key).expect("sound");
        let json = serde_json::to_string(&signed).expect("json");
        assert_eq!(ReadPlan::parse(&json, Some(32)).expect("signed").signed_by, Some(key.public()));
        let changed = json.replace("\"rounds\":10", "\"rounds\":11");
        assert!(matches!(ReadPlan::parse(&changed, None), Err(ReadPlanError::Plan(PlanError::Signature(_)))));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str, coordinates| ReadPlan::parse(text, coordinates).expect_err("wrong").to_string();
        assert!(error(SAMPLE, None).contains("`--coordinates`"));
        assert!(error(&SAMPLE.replace("rounds = 4 ", "rounds = 0 "), Some(32)).contains("`rounds`"));
        assert!(error(&SAMPLE.replace("quorum", "quorom"), Some(32)).contains("quorom"));
        assert!(error("", None).contains("plan.toml"));
        assert!(error("{", None).contains("plan.toml"));
        assert!(error("= 1", None).contains("plan.toml"));
        let json = serde_json::to_string(&example()).expect("json");
        assert!(error(&json, Some(33)).contains("the plan says 32"));
    }
}
