//! The report as one HTML file. The template escapes every value, the page forbids itself scripts and everything from
//! outside, and characters that could command a terminal or turn text around are replaced.

use askama::Template;
use semisam_shared::{ids::UnixMillis, plan::outlook::Weight};

use super::{Cell, Happening, Hospital, Outcome, Report, Round, Step, Timeline, chart::Chart};
use crate::verify::{Finding, Kind};

/// The page was not made.
#[derive(Debug, thiserror::Error)]
#[error("the page could not be made: {0}")]
pub struct PageError(#[from] askama::Error);

/// How many findings of one kind the page shows; the document has all.
const FINDINGS_AT_MOST: usize = 40;

/// About how many rows of a table the page shows; the document has all.
const ROWS_AT_MOST: usize = 200;

const STYLE: &str = include_str!("../../templates/report.css");

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    style: &'static str,
    hospitals: Vec<Shown<'a>>,
    head: Head,
    groups: Vec<Group<'a>>,
}

/// Findings that mean the same.
struct Group<'a> {
    kind: Kind,
    findings: Vec<&'a Finding>,
    /// How many more there are.
    more: usize,
}

/// Text, or what stood between backticks.
struct Part<'a> {
    code: bool,
    text: &'a str,
}

/// A hospital and its drawing.
struct Shown<'a> {
    hospital: &'a Hospital,
    /// The reservations that the page lists.
    steps: Vec<&'a Step>,
    chart: Option<Chart>,
    /// How much of the budget is spent, in hundredths.
    used: Option<f64>,
    number: usize,
}

/// What stands at the top.
struct Head {
    class: &'static str,
    title: &'static str,
    sentence: String,
    names: String,
    from: String,
    to: String,
    highest: String,
    abandoned: u64,
    refused: u64,
}

pub(super) fn render(report: &Report) -> Result<String, PageError> {
    let hospitals = report.hospitals.iter().enumerate().map(|(index, hospital)| Shown {
        hospital,
        steps: thinned(&hospital.steps, |step| step.outcome != Outcome::Accepted),
        chart: Chart::of(hospital),
        used: hospital
            .privacy_budget
            .filter(|budget| *budget > 0.0)
            .map(|budget| (hospital.privacy_loss.add_remove / budget * 100.0).clamp(0.0, 100.0).round()),
        number: index + 1,
    });
    let (hospitals, head, groups) = (hospitals.collect(), Head::of(report), groups(report));
    let page = Page { report, style: STYLE, hospitals, head, groups };
    Ok(page.render()?.chars().map(harmless).collect())
}

/// All of a short list; of a long one some, evenly, and what stands out, as far as there is room.
fn thinned<T>(list: &[T], stands_out: impl Fn(&T) -> bool) -> Vec<&T> {
    let stride = list.len().div_ceil(ROWS_AT_MOST / 2).max(1);
    let mut room = ROWS_AT_MOST / 2;
    let short = list.len() <= ROWS_AT_MOST;
    let mut shown = Vec::new();
    for (index, one) in list.iter().enumerate() {
        let out = !short && room > 0 && stands_out(one);
        room -= usize::from(out);
        if short || out || index.is_multiple_of(stride) || index + 1 == list.len() {
            shown.push(one);
        }
    }
    shown
}

/// What the page lists of a federation's rounds.
fn rounds(timeline: &Timeline) -> Vec<&Round> {
    let irregular = |cell: &Cell| !cell.accepted || cell.abandoned > 0 || cell.refused > 0;
    thinned(&timeline.rounds, |round| round.cells.iter().any(irregular) || !round.recomputed)
}

/// What the page lists of what else happened.
fn happenings(timeline: &Timeline) -> Vec<&Happening> {
    thinned(&timeline.happenings, |_| false)
}

fn groups(report: &Report) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for explained in &report.findings {
        let finding = &explained.finding;
        let place = groups.iter().position(|group| group.kind == finding.kind).unwrap_or_else(|| {
            groups.push(Group { kind: finding.kind, findings: vec![], more: 0 });
            groups.len() - 1
        });
        let group = &mut groups[place];
        match group.findings.len() < FINDINGS_AT_MOST {
            true => group.findings.push(finding),
            false => group.more += 1,
        }
    }
    groups
}

/// The parts of a message in which names and paths stand between backticks.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> =
        text.split('`').enumerate().map(|(index, text)| Part { code: index % 2 == 1, text }).collect();
    // A backtick without its other half was no mark: what follows it is text.
    if parts.len().is_multiple_of(2)
        && let Some(last) = parts.last_mut()
    {
        last.code = false;
    }
    parts
}

/// Control characters and marks of direction make a name look like another, and have no place in a report.
fn harmless(c: char) -> char {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if turns || (c.is_control() && c != '\n') { char::REPLACEMENT_CHARACTER } else { c }
}

impl Head {
    fn of(report: &Report) -> Self {
        let (class, title) = match (report.is_sound(), report.complete) {
            (true, true) => ("sound", "Sound"),
            (true, false) => ("partly", "Sound, as far as it goes"),
            (false, _) => ("unsound", "Unsound"),
        };
        let names: Vec<&str> = report.timelines.iter().map(|timeline| timeline.name.as_str()).collect();
        let moments = |of: fn(&super::Source) -> Option<UnixMillis>| report.sources.iter().filter_map(of);
        let highest = report.hospitals.iter().map(|hospital| hospital.privacy_loss.add_remove).fold(0.0, f64::max);
        let at_least = if report.hospitals.iter().any(|hospital| hospital.spent_at_least) { "≥ " } else { "" };
        Self {
            class,
            title,
            sentence: sentence(report),
            names: if names.is_empty() { "logs of hospitals".to_owned() } else { names.join(", ") },
            from: moments(|source| source.from).min().map_or_else(|| "?".into(), |at| moment(&at)),
            to: moments(|source| source.to).max().map_or_else(|| "?".into(), |at| moment(&at)),
            highest: format!("{at_least}{}", epsilon(&highest)),
            abandoned: report.hospitals.iter().map(|hospital| hospital.privacy_loss.abandoned).sum(),
            refused: report.hospitals.iter().map(|hospital| hospital.privacy_loss.refused).sum(),
        }
    }
}

fn sentence(report: &Report) -> String {
    if !report.is_sound() {
        let count = report.findings.len();
        let (noun, verb) = if count == 1 { ("thing", "is") } else { ("things", "are") };
        return format!(
            "Do not rely on these logs, nor on the models that they speak of, before what is listed under Findings is \
             explained: {count} {noun} that an honest party does not leave behind {verb} in this folder."
        );
    }
    let common = "every record is signed by its owner and none is missing between others; every release was paid for before it \
                  was made; no hospital spent more than its own policy allows";
    if report.complete {
        return format!(
            "In everything that was checked, {common}; what one party says was sent, the other says it received; and every \
             published model follows, bit for bit, from the updates of its round."
        );
    }
    format!(
        "In what is here, {common}. But something that the logs speak of was not here, so this report does not cover all: see \
         What could not be checked."
    )
}

impl Shown<'_> {
    /// Before a figure that may be larger in truth.
    fn at_least(&self) -> &'static str {
        if self.hospital.spent_at_least { "at least " } else { "" }
    }

    /// Before a figure that may be smaller in truth.
    fn at_most(&self) -> &'static str {
        if self.hospital.spent_at_least { "at most " } else { "" }
    }

    fn guess(&self) -> String {
        self.hospital.best_guess.map_or_else(|| "?".into(), |share| format!("{:.0}", (share * 100.0).ceil()))
    }
}

/// Three decimals, rounded up.
fn epsilon(value: &f64) -> String {
    if !value.is_finite() {
        return "without bound".into();
    }
    let thousandths = (value * 1e3).ceil();
    let up = if thousandths / 1e3 < *value { (thousandths + 1.0) / 1e3 } else { thousandths / 1e3 };
    format!("{up:.3}")
}

/// Three decimals, rounded down.
fn left(value: &f64) -> String {
    format!("{:.3}", (value * 1e3).floor() / 1e3)
}

/// Minutes are enough for people.
fn moment(at: &UnixMillis) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) if text.ends_with('Z') => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// The same in a column that says UTC above.
fn stamp(at: &UnixMillis) -> String {
    moment(at).trim_end_matches(" UTC").to_owned()
}

fn outcome(step: &Step) -> &'static str {
    match step.outcome {
        Outcome::Accepted => "accepted",
        Outcome::AcceptedUnheard => "accepted; the receipt never arrived",
        Outcome::Committed => "made; no word that it arrived",
        Outcome::Abandoned => "lost; stays paid for",
        Outcome::Open => "neither made nor given up",
    }
}

fn cell(cell: &Cell) -> String {
    let mut words = Vec::new();
    words.push(match (cell.accepted, cell.refused) {
        (true, _) => "✓ in".to_owned(),
        (false, 0) => "– absent".to_owned(),
        (false, _) => "✗ refused".to_owned(),
    });
    if cell.abandoned > 0 {
        words.push(format!("{} lost", cell.abandoned));
    }
    if cell.accepted && cell.refused > 0 {
        words.push(format!("{} refused", cell.refused));
    }
    words.join(", ")
}

/// The beginning of a sentence.
fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn weight(weight: &Weight) -> &'static str {
    match weight {
        Weight::Pointless => "Little to be gained",
        Weight::Weak => "Weak protection",
        Weight::Mind => "To bear in mind",
    }
}
