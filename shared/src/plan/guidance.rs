//! What a plan says of generalists: which frozen networks are asked about scans without labels (spec/semisam.md, section 2).
//!
//! They are public and the same for every site: a plan names them by the digests of their files, so that a hospital's data
//! protection officer approves them with it (spec/privacy.md, P7).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Method;
use crate::{decimal::Decimal, ids::Digest};

/// Which frozen, public generalists guide students on scans without labels, and how far. Every site has the same files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// SHA-256 of their checkpoint files.
    pub generalists: Vec<Digest>,
    /// Weight of the agreement with them where they contradict the released model; where they agree with it, a tenth of that.
    pub weight: Decimal,
    /// Mean Dice between any two answers about an object below which none of them is believed; 0 believes all.
    pub consensus: Decimal,
    /// Their share in the map that is agreed with, at least; the rest is the released model's own.
    pub share: Decimal,
    /// Dice between their mask and the released model's below which they have more than that share, and from 0.15 less all
    /// of it; 0 leaves the share as it is.
    pub deference: Decimal,
    /// Dice with the released model's mask below which one of theirs is left out.
    pub agreement: Decimal,
    /// Probability from which the released model is sure enough to prompt them.
    pub confidence: Decimal,
}

impl Guidance {
    /// What is wrong with it for `method`.
    pub(super) fn problem(method: Method, guidance: Option<&Self>) -> Option<&'static str> {
        let Some(guidance) = guidance else {
            let missing = "`training.guidance` must name generalists for the methods semisam and semisam-plus";
            return method.asks_generalists().then_some(missing);
        };
        let between = |value: Decimal, low: f64, high: f64| value.get() >= low && value.get() <= high;
        let several: BTreeSet<&Digest> = guidance.generalists.iter().collect();
        let count = guidance.generalists.len();
        let rules = [
            (method.asks_generalists(), "`training.guidance` is for the methods semisam and semisam-plus alone"),
            (
                (1..=8).contains(&count) && several.len() == count,
                "`guidance.generalists` must be 1 to 8 different files",
            ),
            (count == 1 || method != Method::Semisam, "`guidance.generalists` must be one for the method semisam"),
            (between(guidance.weight, 0.0, 1e6), "`guidance.weight` must be 0 or more"),
            (between(guidance.consensus, 0.0, 1.0), "`guidance.consensus` must be 0 to 1"),
            (between(guidance.share, 0.0, 1.0), "`guidance.share` must be 0 to 1"),
            (between(guidance.deference, 0.0, 1.0), "`guidance.deference` must be 0 to 1"),
            (between(guidance.agreement, 0.0, 1.0), "`guidance.agreement` must be 0 to 1"),
            (between(guidance.confidence, 0.5, 1.0), "`guidance.confidence` must be 0.5 to 1"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map(|(_, problem)| problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        canonical::to_canonical,
        plan::{Plan, Training, tests::example},
    };

    #[test]
    fn generalists_are_fixed_by_digest_where_they_are_asked_and_nowhere_else() {
        let decimal = |value: f64| Decimal::new(value).expect("finite");
        let guidance = |generalists: &[&[u8]]| Guidance {
            generalists: generalists.iter().map(|bytes| Digest::of(bytes)).collect(),
            weight: decimal(0.05),
            consensus: decimal(0.75),
            share: decimal(0.5),
            deference: decimal(0.85),
            agreement: decimal(0.3),
            confidence: decimal(0.8),
        };
        let plan = |method, guidance: Option<Guidance>| {
            let mut plan = example();
            plan.training = Training { method, guidance, ..plan.training };
            plan
        };
        let one = || Some(guidance(&[b"one"]));
        for method in [Method::Semisam, Method::SemisamPlus] {
            assert!(plan(method, one()).check().is_ok());
            assert!(plan(method, None).check().expect_err("none").to_string().contains("training.guidance"));
        }
        for method in [Method::Supervised, Method::MeanTeacher, Method::UaMt] {
            assert!(plan(method, None).check().is_ok());
            assert!(plan(method, one()).check().expect_err("one").to_string().contains("alone"));
        }
        assert!(plan(Method::SemisamPlus, Some(guidance(&[b"one", b"two"]))).check().is_ok());
        assert!(plan(Method::Semisam, Some(guidance(&[b"one", b"two"]))).check().is_err());
        assert!(plan(Method::SemisamPlus, Some(guidance(&[b"one", b"one"]))).check().is_err());
        for (wrong, name) in [
            (Guidance { share: decimal(1.5), ..guidance(&[b"one"]) }, "guidance.share"),
            (Guidance { consensus: decimal(1.5), ..guidance(&[b"one"]) }, "guidance.consensus"),
            (Guidance { deference: decimal(-0.5), ..guidance(&[b"one"]) }, "guidance.deference"),
        ] {
            assert!(plan(Method::Semisam, Some(wrong)).check().expect_err(name).to_string().contains(name));
        }
        // another file is another plan, and a plan without generalists reads as it did before there were any
        let digest = |file: &[u8]| plan(Method::Semisam, Some(guidance(&[file]))).digest().expect("canonical");
        assert_ne!(digest(b"one"), digest(b"two"));
        let text = to_canonical(&example()).expect("canonical");
        assert!(!text.contains("guidance") && serde_json::from_str::<Plan>(&text).expect("a plan") == example());
    }
}
