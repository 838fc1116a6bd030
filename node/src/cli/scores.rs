//! What commands print of scores: of a case and of all cases, of everything that is not background and of each class.
//!
//! A class that a case has neither in the truth nor in the prediction has no scores there and counts in no mean; so the mean
//! of classes is not flattered by organs that are not in the scan.

use serde_json::{Map, Value, json};

use super::{data::scores_json, masks::ClassArgs};
use crate::data::metrics::Scores;

/// Scores of a case.
#[derive(Clone, Debug)]
pub struct CaseScores {
    /// Of everything that is not background.
    pub all: Scores,
    /// Of each class from 1 on, where the case has it. Of a student with one class there are none: it would be the same.
    pub classes: Vec<Option<Scores>>,
}

/// A case, by the names that the scores have everywhere; distances are null where undefined.
pub fn line(case: &str, scores: &CaseScores, classes: &ClassArgs) -> Map<String, Value> {
    let mut line = scores_json(&scores.all);
    line.insert("case".to_owned(), json!(case));
    let of_class = |of_case: &Option<Scores>| of_case.as_ref().map_or_else(nothing, scores_json);
    add_classes(&mut line, scores.classes.iter().map(of_class), classes);
    line
}

/// Means over cases; distances over those where they are defined, with how many are not.
pub fn mean(all: &[CaseScores], classes: &ClassArgs) -> Map<String, Value> {
    let mut line = mean_of(all.iter().map(|case| &case.all));
    line.insert("case".to_owned(), json!("mean"));
    let count = all.first().map_or(0, |case| case.classes.len());
    let of_class = |class: usize| mean_of(all.iter().filter_map(move |case| case.classes[class].as_ref()));
    add_classes(&mut line, (0..count).map(of_class), classes);
    line
}

/// A line for a person, and one for each class.
pub fn words(line: &Map<String, Value>) -> String {
    let case = line.get("case").and_then(Value::as_str).unwrap_or_default();
    let mut words = numbers(case, line);
    let classes = line.get("classes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    for class in classes {
        let name = match (&class["class"], &class["value"]) {
            (class, value) if class == value => format!("  class {class}"),
            (class, value) => format!("  class {class} (value {value})"),
        };
        words = format!("{words}\n{}", numbers(&name, class));
    }
    match line.get("dice_of_classes").and_then(Value::as_f64) {
        Some(dice) => format!("{words}\n{:<32} dice {dice:>6.3}", "  mean of classes"),
        None => words,
    }
}

fn numbers(name: &str, line: &Map<String, Value>) -> String {
    let number = |name: &str| line.get(name).and_then(Value::as_f64).map_or("-".to_owned(), |v| format!("{v:.3}"));
    let [dice, hd95, assd] = ["dice", "hd95_mm", "assd_mm"].map(number);
    format!("{name:<32} dice {dice:>6}  hd95 {hd95:>8} mm  assd {assd:>8} mm")
}

/// Adds the scores of each class, if there are any, and the mean Dice of the classes that have one.
fn add_classes(
    line: &mut Map<String, Value>,
    scores: impl ExactSizeIterator<Item = Map<String, Value>>,
    classes: &ClassArgs,
) {
    if scores.len() == 0 {
        return;
    }
    let named = (1_u8..).zip(scores).map(|(class, mut scores)| {
        scores.insert("class".to_owned(), json!(class));
        scores.insert("value".to_owned(), json!(classes.value_of(class)));
        scores
    });
    let named: Vec<Map<String, Value>> = named.collect();
    let dice = average(named.iter().filter_map(|scores| scores["dice"].as_f64()));
    line.insert("dice_of_classes".to_owned(), json!(dice));
    line.insert("classes".to_owned(), json!(named));
}

fn mean_of<'a>(all: impl Iterator<Item = &'a Scores> + Clone) -> Map<String, Value> {
    let columns: Vec<Map<String, Value>> = all.clone().map(scores_json).collect();
    let mut mean = nothing();
    for (name, value) in &mut mean {
        *value = json!(average(columns.iter().filter_map(|scores| scores[name].as_f64())));
    }
    mean.insert("cases".to_owned(), json!(columns.len()));
    mean.insert("undefined".to_owned(), json!(all.filter(|scores| scores.mm.is_none()).count()));
    mean
}

/// The names of all scores, without one.
fn nothing() -> Map<String, Value> {
    let mut names = scores_json(&Scores { dice: 0.0, jaccard: 0.0, vox: None, mm: None });
    names.values_mut().for_each(|value| *value = Value::Null);
    names
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{classes::ClassMap, grid::Grid, metrics, volume::LabelMap};

    fn case(prediction: &[u8], truth: &[u8]) -> CaseScores {
        let [prediction, truth] = [prediction, truth].map(|values| {
            let Grid { shape, affine } = Grid::centred([values.len(), 1, 1], [2.0; 3]);
            LabelMap { shape, affine, values: values.to_vec() }
        });
        let classes = metrics::score_classes(&prediction, &truth, 4).expect("one grid");
        CaseScores { all: metrics::score(&prediction, &truth).expect("one grid"), classes }
    }

    #[test]
    fn a_class_that_no_mask_has_counts_in_no_mean() {
        let map: ClassMap = "5=1,37=2,90=3".parse().expect("a map");
        let args = ClassArgs { map: Some(map) };
        // class 1 is found, class 2 is missed, class 3 is in the second case alone
        let cases = [case(&[1, 1, 0, 0], &[1, 1, 2, 0]), case(&[1, 0, 3, 3], &[1, 1, 3, 3])];
        let first = line("first", &cases[0], &args);
        let of = |line: &Map<String, Value>, class: usize, name: &str| line["classes"][class - 1][name].clone();
        assert_eq!(
            (of(&first, 1, "dice"), of(&first, 2, "dice"), of(&first, 3, "dice")),
            (1.0.into(), 0.0.into(), Value::Null)
        );
        assert_eq!(
            (of(&first, 3, "value"), of(&first, 3, "class"), of(&first, 2, "hd_mm")),
            (90.into(), 3.into(), Value::Null)
        );
        assert_eq!(first["dice_of_classes"], 0.5);

        let mean = mean(&cases, &args);
        assert_eq!((&mean["cases"], &mean["undefined"], &mean["case"]), (&2.into(), &0.into(), &"mean".into()));
        let dice = [1, 2, 3].map(|class| of(&mean, class, "dice").as_f64().expect("a score"));
        assert!((dice[0] - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12 && dice[1..] == [0.0, 1.0], "{dice:?}");
        assert_eq!(
            (of(&mean, 2, "cases"), of(&mean, 2, "undefined"), of(&mean, 3, "cases")),
            (1.into(), 1.into(), 1.into())
        );
        assert!((mean["dice_of_classes"].as_f64().expect("a score") - dice.iter().sum::<f64>() / 3.0).abs() < 1e-12);
        let words = words(&mean);
        assert!(words.contains("class 3 (value 90)") && words.lines().count() == 5, "{words}");
    }

    #[test]
    fn one_class_is_one_line() {
        let one = CaseScores { classes: Vec::new(), ..case(&[1, 1], &[1, 0]) };
        let line = line("one", &one, &ClassArgs::default());
        assert!(!line.contains_key("classes") && !line.contains_key("dice_of_classes"));
        assert_eq!(words(&line).lines().count(), 1);
    }
}
