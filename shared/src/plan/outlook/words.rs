//! An outlook for people.

use std::fmt;

use super::{BothWays, Costs, Outlook, Weight};
use crate::plan::Unit;

/// Rounded up at the third decimal.
fn up(value: f64) -> f64 {
    let thousandths = (value * 1e3).ceil();
    if thousandths / 1e3 < value { (thousandths + 1.0) / 1e3 } else { thousandths / 1e3 }
}

fn both(epsilon: BothWays) -> String {
    format!("{:>9.3}  {:>11.3}", up(epsilon.add_remove), up(epsilon.replace_one))
}

fn costs(f: &mut fmt::Formatter<'_>, head: &str, costs: &Costs) -> fmt::Result {
    writeln!(f, "{head:<28}add/remove  replace-one")?;
    writeln!(f, "  zCDP, what a ledger charges {}", both(costs.eps_zcdp))?;
    writeln!(f, "  RDP                         {}", both(costs.eps_rdp))?;
    writeln!(f, "  PLD, the smallest           {}", both(costs.eps_pld))
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: String =
            self.name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        match (self.digest, self.signed_by) {
            (Some(digest), Some(key)) => writeln!(f, "plan {name}, digest {digest}, signed by key {key}")?,
            (Some(digest), None) => writeln!(f, "plan {name}, digest {digest}, not signed")?,
            (None, _) => writeln!(f, "plan {name}, a draft without digests")?,
        }
        let unit = match self.unit {
            Unit::Patient => "one patient of a hospital, all scans together",
            Unit::Hospital => "a hospital as a whole, which also covers each of its patients",
        };
        writeln!(f, "protected: {unit}")?;
        writeln!(
            f,
            "{} rounds of {} numbers a site; clip norm {}, noise multiplier z = {}\n",
            self.rounds, self.coordinates, self.clip_norm, self.noise_multiplier
        )?;
        writeln!(f, "epsilon at delta {}, rounded up", self.delta)?;
        costs(f, "one round", &self.one_round)?;
        costs(f, &format!("all {} rounds", self.rounds), &self.all_rounds)?;
        writeln!(
            f,
            "after all rounds somebody who sees everything and knows all but whether one {} took part\nguesses that rightly \
             at most {:.0} times in 100; a coin does 50 times\n",
            if self.unit == Unit::Patient { "patient" } else { "hospital" },
            (self.all_rounds.best_guess * 100.0).ceil()
        )?;
        let noise = &self.noise_to_signal;
        writeln!(
            f,
            "noise to signal of a round, at best: {:.2} in what one site of {} patients sends, {:.2} in the average of {} \
             sites\n(the signal can be no longer than that; a fifth to a third of it is usual)",
            noise.one_site, noise.patients, noise.average, noise.sites
        )?;
        self.judgement(f)?;
        for advice in &self.advice {
            let word = match advice.weight {
                Weight::Pointless => "NOT WORTH IT",
                Weight::Weak => "WEAK PROTECTION",
                Weight::Mind => "mind",
            };
            writeln!(f, "\n{word}: {}.\n  Why: {}.", advice.says, advice.because)?;
        }
        Ok(())
    }
}

impl Outlook {
    fn judgement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(policy) = &self.policy else {
            return writeln!(f, "\npolicy: none was given");
        };
        if policy.spent.add_remove > 0.0 {
            writeln!(f, "\nspent before: epsilon {:.3} (add/remove)", up(policy.spent.add_remove))?;
        }
        let (word, rest) = if policy.allowed { ("allowed", "") } else { ("REFUSED", ", because of:") };
        writeln!(
            f,
            "\npolicy: {word}; after all rounds epsilon {:.3} (add/remove) of {} at delta {}{rest}",
            up(policy.after_all_rounds.add_remove),
            policy.epsilon_max,
            policy.delta
        )?;
        for objection in &policy.objections {
            writeln!(f, "  `{}`: {}", objection.rule, objection.problem)?;
        }
        Ok(())
    }
}
