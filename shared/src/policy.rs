//! The hospital's policy: floors and ceilings that no plan may cross, whatever the consortium signs.

use serde::{Deserialize, Serialize};

use crate::{
    accounting::{Adjacency, Rho},
    decimal::Decimal,
    ids::Digest,
    plan::Plan,
};

/// What a hospital allows. Written by its data protection officer, recorded in its ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The most that may ever be spent on this cohort over all plans: epsilon of the add/remove relation.
    pub epsilon_max: Decimal,
    /// The delta at which that epsilon holds, and the largest that a plan may name.
    pub delta: Decimal,
    /// The least noise multiplier that a plan may have.
    pub noise_multiplier_min: Decimal,
    /// How many patients this site must have before it takes part.
    pub patients_min: u32,
    /// The most rounds that a plan may have.
    pub rounds_max: u32,
    /// Architectures that may be trained; empty allows every one.
    #[serde(default)]
    pub architectures: Vec<Digest>,
}

/// What a policy does not allow about a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Objection {
    /// The field of the policy that says no.
    pub rule: &'static str,
    /// What is against it, as the rest of a sentence about the plan.
    pub problem: String,
}

/// The text of a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It does not read as a policy.
    #[error("it does not read as a policy (deploy/policy.toml is a sample): {0}")]
    Text(String),
    /// A number is out of range.
    #[error("`{0}`")]
    Range(&'static str),
}

impl Policy {
    /// Reads a policy as people write it (TOML) or as a report shows it (JSON).
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let read = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text).map_err(|error| error.to_string()),
            false => toml::from_str(text).map_err(|error| error.to_string()),
        };
        let policy: Self = read.map_err(PolicyError::Text)?;
        let (delta, epsilon) = (policy.delta.get(), policy.epsilon_max.get());
        match () {
            () if !(delta > 0.0 && delta <= 1e-2) => Err(PolicyError::Range("delta` must be above 0 and at most 0.01")),
            () if epsilon.is_nan() || epsilon <= 0.0 => Err(PolicyError::Range("epsilon_max` must be above 0")),
            () => Ok(policy),
        }
    }

    /// What about `plan` this policy does not allow, one sentence each; empty if the plan is within policy.
    pub fn objections(&self, plan: &Plan) -> Vec<String> {
        self.judge(plan).into_iter().map(|objection| objection.problem).collect()
    }

    /// [`Policy::objections`], each with the rule that it comes from.
    pub fn judge(&self, plan: &Plan) -> Vec<Objection> {
        let privacy = &plan.privacy;
        let mut objections = Vec::new();
        let mut object = |rule, problem| objections.push(Objection { rule, problem });
        if privacy.noise_multiplier < self.noise_multiplier_min {
            object(
                "noise_multiplier_min",
                format!(
                    "its noise multiplier {} is below the policy's floor of {}",
                    privacy.noise_multiplier, self.noise_multiplier_min
                ),
            );
        }
        if privacy.delta > self.delta {
            object("delta", format!("its delta {} is above the policy's {}", privacy.delta, self.delta));
        }
        if plan.rounds > self.rounds_max {
            object("rounds_max", format!("its {} rounds exceed the policy's {}", plan.rounds, self.rounds_max));
        }
        if !self.architectures.is_empty() && !self.architectures.contains(&plan.student.architecture) {
            object(
                "architectures",
                format!("its architecture {} is not on the policy's list", plan.student.architecture),
            );
        }
        let whole = self.epsilon(plan.rho_in_all());
        if whole > self.epsilon_max.get() {
            object(
                "epsilon_max",
                format!(
                    "all its rounds together would spend epsilon {whole:.3}, more than the policy's {}",
                    self.epsilon_max
                ),
            );
        }
        objections
    }

    /// Epsilon (add/remove) of a cost at this policy's delta.
    pub fn epsilon(&self, rho: Rho) -> f64 {
        rho.epsilon(self.delta.get(), Adjacency::AddRemove)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_floor_and_ceiling_is_held() {
        let number = |value: f64| Decimal::new(value).expect("finite");
        let plan = crate::plan::tests::example();
        let policy = Policy {
            epsilon_max: number(10.0),
            delta: number(1e-5),
            noise_multiplier_min: number(1.0),
            patients_min: 5,
            rounds_max: 50,
            architectures: vec![plan.student.architecture],
        };
        assert!(policy.objections(&plan).is_empty());
        let objections = |change: fn(&mut Policy)| {
            let mut policy = policy.clone();
            change(&mut policy);
            policy.objections(&plan).join(" ")
        };
        assert!(objections(|p| p.epsilon_max = Decimal::new(1.0).expect("finite")).contains("epsilon"));
        assert!(objections(|p| p.delta = Decimal::new(1e-6).expect("finite")).contains("delta"));
        assert!(objections(|p| p.noise_multiplier_min = Decimal::new(9.0).expect("finite")).contains("floor"));
        assert!(objections(|p| p.rounds_max = 1).contains("rounds"));
        assert!(objections(|p| p.architectures = vec![Digest::ZERO]).contains("architecture"));
        let strict = Policy { epsilon_max: number(0.1), rounds_max: 1, ..policy.clone() };
        let rules: Vec<&str> = strict.judge(&plan).iter().map(|objection| objection.rule).collect();
        assert_eq!(rules, ["rounds_max", "epsilon_max"]);
    }

    #[test]
    fn the_sample_and_its_json_are_read_and_nonsense_is_not() {
        let sample = include_str!("../../deploy/policy.toml");
        let policy = Policy::parse(sample).expect("the sample");
        let json = serde_json::to_string(&policy).expect("json");
        assert_eq!(Policy::parse(&json).expect("json"), policy);
        let error = |text: &str| Policy::parse(text).expect_err("nonsense").to_string();
        assert!(error("").contains("missing field"));
        assert!(error(&sample.replace("rounds_max", "rounds_min")).contains("rounds_min"));
        assert!(error(&sample.replace("1e-5", "1.0")).contains("`delta`"));
        assert!(error(&sample.replace("epsilon_max = 10", "epsilon_max = -1")).contains("`epsilon_max`"));
    }
}
