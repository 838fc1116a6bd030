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

impl Policy {
    /// What about `plan` this policy does not allow, one sentence each; empty if the plan is within policy.
    pub fn objections(&self, plan: &Plan) -> Vec<String> {
        let privacy = &plan.privacy;
        let mut objections = Vec::new();
        if privacy.noise_multiplier < self.noise_multiplier_min {
            objections.push(format!(
                "its noise multiplier {} is below the policy's floor of {}",
                privacy.noise_multiplier, self.noise_multiplier_min
            ));
        }
        if privacy.delta > self.delta {
            objections.push(format!("its delta {} is above the policy's {}", privacy.delta, self.delta));
        }
        if plan.rounds > self.rounds_max {
            objections.push(format!("its {} rounds exceed the policy's {}", plan.rounds, self.rounds_max));
        }
        if !self.architectures.is_empty() && !self.architectures.contains(&plan.student.architecture) {
            objections.push(format!("its architecture {} is not on the policy's list", plan.student.architecture));
        }
        let whole = self.epsilon(plan.rho_in_all());
        if whole > self.epsilon_max.get() {
            objections.push(format!(
                "all its rounds together would spend epsilon {whole:.3}, more than the policy's {}",
                self.epsilon_max
            ));
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
    }
}
