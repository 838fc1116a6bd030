//! A table of a recipe while it is read: key by key, collecting every complaint with its line.
//!
//! A value that cannot be used is complained about once and read as the default, so that one slip does not hide the next.
//! What is left over when a table has been read is unknown.

use std::cell::RefCell;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draws::{Range, Triple};

/// Complaints about one text, each with its line.
pub(super) struct Complaints<'t> {
    text: &'t str,
    found: RefCell<Vec<(usize, String)>>,
}

impl<'t> Complaints<'t> {
    pub(super) fn about(text: &'t str) -> Self {
        Self { text, found: RefCell::default() }
    }

    /// Notes a complaint about what starts at a byte.
    pub(super) fn note(&self, at: usize, problem: String) {
        let line = self.text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        self.found.borrow_mut().push((line, problem));
    }

    /// All of them in the order of the lines.
    pub(super) fn into_lines(self) -> Vec<String> {
        let mut found = self.found.into_inner();
        found.sort();
        found.into_iter().map(|(line, problem)| format!("line {line}: {problem}")).collect()
    }
}

/// Least and most that a number may be.
pub(super) type Bounds = (f64, f64);

/// One table.
pub(super) struct Page<'t, 'c> {
    /// What people call it: `part `left atrium``.
    place: String,
    at: usize,
    values: BTreeMap<String, (usize, DeValue<'t>)>,
    known: Vec<&'static str>,
    complaints: &'c Complaints<'t>,
}

impl<'t, 'c> Page<'t, 'c> {
    pub(super) fn new(place: &str, at: usize, table: DeTable<'t>, complaints: &'c Complaints<'t>) -> Self {
        let values = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), (key.span().start, value.into_inner())))
            .collect();
        Self { place: place.to_owned(), at, values, known: Vec::new(), complaints }
    }

    /// Names the table by what it says about itself.
    pub(super) fn rename(&mut self, place: String) {
        self.place = place;
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Notes a complaint about the whole table.
    pub(super) fn complain(&self, problem: &str) {
        self.complaints.note(self.at, format!("{}: {problem}", self.place));
    }

    fn complain_at(&self, at: usize, key: &str, problem: &str) {
        self.complaints.note(at, format!("{}: `{key}`: {problem}", self.place));
    }

    fn take(&mut self, key: &'static str) -> Option<(usize, DeValue<'t>)> {
        self.known.push(key);
        self.values.remove(key)
    }

    /// A text, if it is there.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let (at, value) = self.take(key)?;
        match value.as_str() {
            Some(text) if !text.trim().is_empty() => Some(text.to_owned()),
            _ => {
                self.complain_at(at, key, "must be a text in quotation marks, not empty");
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &'static str) -> String {
        if !self.has(key) {
            self.complain(&format!("`{key}` is missing"));
        }
        self.text(key).unwrap_or_default()
    }

    /// One of several words; the default where it is not there.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let Some((at, value)) = self.take(key) else { return default };
        let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        found.map_or_else(
            || {
                let words = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
                self.complain_at(at, key, &format!("must be one of {words}"));
                default
            },
            |(_, meaning)| *meaning,
        )
    }

    /// The position of a name among those known so far, if the key is there. `kind` says what they are.
    pub(super) fn name(&mut self, key: &'static str, among: &[String], kind: &str) -> Option<usize> {
        let (at, value) = self.take(key)?;
        let found = value.as_str().and_then(|text| among.iter().position(|name| name == text));
        if found.is_none() {
            self.complain_at(at, key, &unknown_name(&value, among, kind));
        }
        found
    }

    /// The positions of several names.
    pub(super) fn names(&mut self, key: &'static str, among: &[String], kind: &str) -> Vec<usize> {
        let Some((at, value)) = self.take(key) else { return Vec::new() };
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            self.complain_at(at, key, "must be a list of names in quotation marks, not empty");
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items.iter().map(Spanned::get_ref) {
            match item.as_str().and_then(|text| among.iter().position(|name| name == text)) {
                Some(position) => found.push(position),
                None => self.complain_at(at, key, &unknown_name(item, among, kind)),
            }
        }
        found
    }

    /// A list of different texts.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        let Some((at, value)) = self.take(key) else { return Vec::new() };
        let texts: Option<Vec<String>> = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect());
        let sound = |texts: &Vec<String>| {
            let different: std::collections::BTreeSet<_> = texts.iter().collect();
            different.len() == texts.len() && !texts.is_empty() && texts.iter().all(|text| !text.trim().is_empty())
        };
        texts.filter(sound).unwrap_or_else(|| {
            self.complain_at(at, key, "must be a list of different names in quotation marks, not empty");
            Vec::new()
        })
    }

    /// A number or `[least, most]`; the default where it is not there.
    pub(super) fn range(&mut self, key: &'static str, bounds: Bounds, default: Range) -> Range {
        let Some((at, value)) = self.take(key) else { return default };
        range(&value, bounds).unwrap_or_else(|| {
            let (low, high) = bounds;
            let problem = format!("must be a number from {low} to {high}, or [least, most] within these");
            self.complain_at(at, key, &problem);
            default
        })
    }

    /// A range that must be there.
    pub(super) fn required_range(&mut self, key: &'static str, bounds: Bounds) -> Range {
        if !self.has(key) {
            self.complain(&format!("`{key}` is missing"));
        }
        self.range(key, bounds, Range::fixed(bounds.0))
    }

    /// A number, `[least, most]`, or three of these for left-right, back-front and foot-head.
    pub(super) fn triple(&mut self, key: &'static str, bounds: Bounds, default: Triple) -> Triple {
        let Some((at, value)) = self.take(key) else { return default };
        if let Some(range) = range(&value, bounds) {
            return Triple { axes: [range; 3], together: true };
        }
        let three: Option<Vec<Range>> =
            value.as_array().and_then(|items| items.iter().map(|item| self::range(item.get_ref(), bounds)).collect());
        let three = three.and_then(|ranges| <[Range; 3]>::try_from(ranges).ok());
        three.map_or_else(
            || {
                let (low, high) = bounds;
                let problem = format!(
                    "must be a number from {low} to {high}, [least, most], or a list of three of these (left-right, back-front, foot-head)"
                );
                self.complain_at(at, key, &problem);
                default
            },
            |axes| Triple { axes, together: false },
        )
    }

    /// Whole numbers: one, or `[least, most]`.
    pub(super) fn count(&mut self, key: &'static str, bounds: (u32, u32), default: (u32, u32)) -> (u32, u32) {
        let Some((at, value)) = self.take(key) else { return default };
        let found = range(&value, (f64::from(bounds.0), f64::from(bounds.1)))
            .filter(|range| range.low.fract() == 0.0 && range.high.fract() == 0.0);
        found.map_or_else(
            || {
                let problem =
                    format!("must be a whole number from {} to {}, or [least, most] within these", bounds.0, bounds.1);
                self.complain_at(at, key, &problem);
                default
            },
            |range| (range.low as u32, range.high as u32),
        )
    }

    /// Whatever the value is.
    pub(super) fn any(&mut self, key: &'static str) -> Option<DeValue<'t>> {
        Some(self.take(key)?.1)
    }

    /// A table below this one, if it is there.
    pub(super) fn page(&mut self, key: &'static str) -> Option<Page<'t, 'c>> {
        let (at, value) = self.take(key)?;
        let place = if self.place == WHOLE { format!("[{key}]") } else { format!("{}: `{key}`", self.place) };
        match value {
            DeValue::Table(table) => Some(Page::new(&place, at, table, self.complaints)),
            _ => {
                self.complain_at(at, key, "must be a table");
                None
            }
        }
    }

    /// The tables of an array such as `[[part]]`.
    pub(super) fn pages(&mut self, key: &'static str) -> Vec<Page<'t, 'c>> {
        let Some((at, value)) = self.take(key) else { return Vec::new() };
        let DeValue::Array(items) = value else {
            self.complain_at(at, key, &format!("must be written as [[{key}]]"));
            return Vec::new();
        };
        let mut pages = Vec::new();
        for item in items {
            let at = item.span().start;
            match item.into_inner() {
                DeValue::Table(table) => pages.push(Page::new(key, at, table, self.complaints)),
                _ => self.complain_at(at, key, &format!("must be written as [[{key}]]")),
            }
        }
        pages
    }

    /// The tables below this one under names that the writer chose, such as `[tissue.blood]`.
    pub(super) fn named_pages(mut self) -> Vec<(String, Page<'t, 'c>)> {
        let mut pages = Vec::new();
        for (name, (at, value)) in std::mem::take(&mut self.values) {
            match value {
                DeValue::Table(table) => {
                    let place = format!("{}: `{name}`", self.place);
                    pages.push((at, name, Page::new(&place, at, table, self.complaints)));
                }
                _ => self.complain_at(at, &name, "must be a table"),
            }
        }
        pages.sort_by_key(|(at, ..)| *at);
        pages.into_iter().map(|(_, name, page)| (name, page)).collect()
    }

    /// The ranges of this table under names among `among`.
    pub(super) fn named_ranges(mut self, among: &[String], kind: &str, bounds: Bounds) -> Vec<(usize, Range)> {
        let mut ranges = Vec::new();
        for (name, (at, value)) in std::mem::take(&mut self.values) {
            match (among.iter().position(|known| *known == name), range(&value, bounds)) {
                (None, _) => {
                    self.complain_at(at, &name, &unknown_name(&DeValue::String(name.clone().into()), among, kind))
                }
                (_, None) => {
                    let problem =
                        format!("must be a number from {} to {}, or [least, most] within these", bounds.0, bounds.1);
                    self.complain_at(at, &name, &problem);
                }
                (Some(position), Some(range)) => ranges.push((position, range)),
            }
        }
        ranges
    }

    /// Ends the reading: whatever is left is unknown.
    pub(super) fn finish(self) {
        let known = self.known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        for (key, (at, _)) in &self.values {
            self.complain_at(*at, key, &format!("unknown key; known here are {known}"));
        }
    }
}

/// The place of the outermost table.
pub(super) const WHOLE: &str = "the recipe";

fn number(value: &DeValue<'_>) -> Option<f64> {
    let number = match value {
        DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix()).ok()? as f64,
        DeValue::Float(value) => value.as_str().parse().ok()?,
        _ => return None,
    };
    Some(number)
}

/// A number or two of them in order, within bounds.
fn range(value: &DeValue<'_>, (least, most): Bounds) -> Option<Range> {
    let found = match value.as_array() {
        None => Range::fixed(number(value)?),
        Some(items) if items.len() == 2 => {
            Range { low: number(items[0].get_ref())?, high: number(items[1].get_ref())? }
        }
        Some(_) => return None,
    };
    (least <= found.low && found.low <= found.high && found.high <= most).then_some(found)
}

/// Three plain numbers.
pub(super) fn vector(value: &DeValue<'_>) -> Option<[f64; 3]> {
    let numbers: Option<Vec<f64>> = value.as_array()?.iter().map(|item| number(item.get_ref())).collect();
    <[f64; 3]>::try_from(numbers?).ok()
}

fn unknown_name(value: &DeValue<'_>, among: &[String], kind: &str) -> String {
    let known = among.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "none yet".to_owned() } else { known };
    match value.as_str() {
        Some(text) => format!("there is no {kind} \"{text}\" before this place; there are {known}"),
        None => format!("must be the name of a {kind} in quotation marks; there are {known}"),
    }
}
