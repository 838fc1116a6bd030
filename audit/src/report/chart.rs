//! Epsilon over releases, as a drawing that needs no library and no colour: lines differ by dashes, points by shape.

use super::{Hospital, Outcome, Step};

/// Extents of the drawing, in its own units.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 310.0;
/// Room for numbers on the left and on the right, above and below.
const LEFT: f64 = 40.0;
const RIGHT: f64 = 118.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// The least distance of two words.
const LINE: f64 = 18.0;
/// How many releases are drawn.
const POINTS_AT_MOST: usize = 120;

/// A curve.
pub(super) struct Line {
    /// Which style.
    pub(super) class: &'static str,
    /// `x,y` pairs.
    pub(super) points: String,
    /// What stands at its end.
    pub(super) label: &'static str,
    /// Where.
    pub(super) label_y: f64,
    end_y: f64,
}

/// A point of the curve that is charged.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// The release was lost.
    pub(super) lost: bool,
    /// What it is, for a pointer and a screen reader.
    pub(super) title: String,
}

/// A number beside an axis.
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) text: String,
}

/// Everything that is drawn.
pub(super) struct Chart {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) label_x: f64,
    pub(super) bottom: f64,
    pub(super) lines: Vec<Line>,
    pub(super) points: Vec<Point>,
    pub(super) rows: Vec<Tick>,
    pub(super) columns: Vec<Tick>,
    /// Height of the ceiling, if it is in sight.
    pub(super) ceiling: Option<Tick>,
    /// In words.
    pub(super) title: String,
}

struct Scale {
    count: usize,
    highest: f64,
}

impl Scale {
    fn x(&self, index: usize) -> f64 {
        let share = if self.count > 1 { index as f64 / (self.count - 1) as f64 } else { 0.5 };
        LEFT + 12.0 + share * (WIDTH - LEFT - RIGHT - 24.0)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value / self.highest).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// One digit after the point is enough on paper.
fn short(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Chart {
    /// The chart of a hospital; none if it has released nothing.
    pub(super) fn of(hospital: &Hospital) -> Option<Self> {
        let all = &hospital.steps;
        let last = all.last()?;
        // A line needs no more points than paper has dots.
        let stride = all.len().div_ceil(POINTS_AT_MOST).max(1);
        let kept = |index: usize, step: &Step| {
            index.is_multiple_of(stride) || index + 1 == all.len() || step.eps_pld.is_some()
        };
        let steps: Vec<(usize, &Step)> = all.iter().enumerate().filter(|(index, step)| kept(*index, step)).collect();
        let ceiling = hospital.privacy_budget.unwrap_or(0.0);
        let highest = last.eps_zcdp.replace_one.max(ceiling);
        if !highest.is_finite() || highest <= 0.0 {
            return None;
        }
        let step = tick_step(highest);
        let scale = Scale { count: all.len(), highest: (highest / step).ceil() * step };
        let rows = (0..).map(|row| f64::from(row) * step).take_while(|value| *value <= scale.highest * 1.000_1);
        let rows = rows.map(|value| Tick { at: short(scale.y(value)), text: format_tick(value, step) }).collect();
        let each = all.len().div_ceil(12).max(1);
        let columns = all.iter().enumerate().filter(|(index, _)| index.is_multiple_of(each));
        let columns =
            columns.map(|(index, step)| Tick { at: short(scale.x(index)), text: step.round.to_string() }).collect();
        let ceiling = (ceiling > 0.0).then(|| Tick { at: short(scale.y(ceiling)), text: format!("ceiling {ceiling}") });
        let mut lines = lines(&steps, &scale);
        spread(&mut lines, ceiling.as_ref().map(|tick| tick.at));
        Some(Self {
            width: WIDTH,
            height: HEIGHT,
            left: LEFT,
            right: WIDTH - RIGHT,
            label_x: WIDTH - RIGHT + 6.0,
            bottom: HEIGHT - BOTTOM,
            lines,
            points: steps.iter().map(|(index, step)| point(*index, step, &scale)).collect(),
            rows,
            columns,
            ceiling,
            title: format!(
                "Epsilon after each of {} reservations, rising to {} (add/remove) and {} (replace-one).",
                all.len(),
                last.eps_zcdp.add_remove,
                last.eps_zcdp.replace_one
            ),
        })
    }
}

/// Style, word, and the figure of a step.
type Curve = (&'static str, &'static str, fn(&Step) -> Option<f64>);

fn lines(steps: &[(usize, &Step)], scale: &Scale) -> Vec<Line> {
    let curves: [Curve; 4] = [
        ("charged", "add/remove", |step| Some(step.eps_zcdp.add_remove)),
        ("least", "… by PLD", |step| step.eps_pld.map(|both| both.add_remove)),
        ("other", "replace-one", |step| Some(step.eps_zcdp.replace_one)),
        ("other-least", "… by PLD", |step| step.eps_pld.map(|both| both.replace_one)),
    ];
    let curve = |(class, label, of): Curve| {
        let places: Vec<(f64, f64)> = steps
            .iter()
            .filter_map(|(index, step)| Some((short(scale.x(*index)), short(scale.y(of(step)?)))))
            .collect();
        let end_y = places.last()?.1;
        let points = places.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ");
        Some(Line { class, points, label, label_y: end_y, end_y })
    };
    curves.into_iter().filter_map(curve).collect()
}

/// Moves the words apart that would stand on each other or on the word of the ceiling.
fn spread(lines: &mut [Line], ceiling: Option<f64>) {
    lines.sort_by(|one, two| one.end_y.total_cmp(&two.end_y));
    let mut above = TOP - LINE + 4.0;
    for line in lines.iter_mut() {
        line.label_y = line.end_y.max(above + LINE);
        if let Some(taken) = ceiling.filter(|taken| (line.label_y - taken).abs() < LINE) {
            line.label_y = taken + if line.end_y < taken && above + LINE < taken - LINE { -LINE } else { LINE };
        }
        above = line.label_y;
    }
}

fn point(index: usize, step: &Step, scale: &Scale) -> Point {
    let lost = step.outcome == Outcome::Abandoned;
    let what = if lost { "lost, and paid for all the same" } else { "released" };
    Point {
        x: short(scale.x(index)),
        y: short(scale.y(step.eps_zcdp.add_remove)),
        lost,
        title: format!("round {}: {what}; epsilon {} (add/remove)", step.round, step.eps_zcdp.add_remove),
    }
}

/// A round number that divides `highest` into four to ten.
fn tick_step(highest: f64) -> f64 {
    let rough = highest / 5.0;
    let magnitude = 10.0_f64.powf(rough.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| *digit * magnitude >= rough).unwrap_or(10.0);
    digit * magnitude
}

fn format_tick(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}
