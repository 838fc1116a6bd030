//! From the text of a recipe to a [`Recipe`]: names become positions, numbers are checked, and all that is wrong is said
//! together.
//!
//! Parts are read in order, and one may refer only to those before it: so places can be drawn in the same order, and a
//! recipe cannot go in circles.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::draws::{Range, Triple};
use super::page::{Bounds, Complaints, Page, WHOLE};
use super::{Acquisition, Contrast, Crop, Field, Part, Pose, Recipe, Tissue, View, Warp};

mod part;

/// Any scale of intensities will do, Hounsfield units too.
const INTENSITY: Bounds = (-5000.0, 5000.0);
const STRENGTH: Bounds = (0.0, 5000.0);
const MILLIMETRES: Bounds = (0.1, 2000.0);
const OFFSET: Bounds = (-2000.0, 2000.0);
const SLACK: Bounds = (0.0, 2000.0);
const ANGLE: Bounds = (0.0, 180.0);
const SHARE: Bounds = (0.0, 1.0);

/// The most parts, and the most copies of one.
const MOST_PARTS: usize = 200;
const MOST_COPIES: u32 = 64;

/// Class names that mean background.
const NO_CLASS: &str = "background";

/// Names known so far.
struct Names {
    tissues: Vec<String>,
    classes: Vec<String>,
    parts: Vec<String>,
}

pub(super) fn parse(name: &str, text: &str) -> Result<Recipe, Vec<String>> {
    let complaints = Complaints::about(text);
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            complaints.note(error.span().unwrap_or_default().start, format!("this is not TOML: {}", error.message()));
            return Err(complaints.into_lines());
        }
    };
    let recipe = read(name, Page::new(WHOLE, 0, table, &complaints));
    let problems = complaints.into_lines();
    if problems.is_empty() { Ok(recipe) } else { Err(problems) }
}

fn read(name: &str, mut page: Page<'_, '_>) -> Recipe {
    let about = page.required_text("about");
    if !page.has("classes") {
        page.complain("`classes` is missing: name what is to be segmented, such as classes = [\"liver\"]");
    }
    let classes = page.texts("classes");
    if classes.len() > 255 {
        page.complain("`classes`: there may be at most 255");
    }
    let mut tissues = tissues(&mut page);
    let mut names =
        Names { tissues: tissues.iter().map(|tissue| tissue.name.clone()).collect(), classes, parts: Vec::new() };
    let background = page.name("background", &names.tissues, "tissue").unwrap_or_else(|| {
        if tissues.is_empty() {
            tissues.push(Tissue::plain("background"));
        }
        0
    });
    let contrasts = contrasts(&mut page, &names);
    let mut parts = Vec::new();
    for page in page.pages("part").into_iter().take(MOST_PARTS + 1) {
        let part = part::read(page, &names, &parts);
        names.parts.push(part.name.clone());
        parts.push(part);
    }
    check_parts(&page, &names, &parts);
    let field = field(page.page("field"), &names);
    let crop = page.page("crop").map(|page| crop(page, &names));
    let (pose, warp) = (pose(page.page("pose")), warp(page.page("warp")));
    let acquisition = acquisition(page.page("acquisition"));
    page.finish();
    let (name, classes) = (name.to_owned(), names.classes);
    let view = View::default();
    Recipe { name, about, classes, background, tissues, contrasts, parts, field, crop, pose, warp, acquisition, view }
}

fn check_parts(page: &Page<'_, '_>, names: &Names, parts: &[Part]) {
    if parts.is_empty() {
        page.complain("`part` is missing: describe each structure under [[part]]");
    }
    if parts.len() > MOST_PARTS {
        page.complain(&format!("there may be at most {MOST_PARTS} parts"));
    }
    let mut seen = BTreeMap::new();
    for name in &names.parts {
        *seen.entry(name).or_insert(0) += 1;
    }
    for (name, _) in seen.into_iter().filter(|(_, times)| *times > 1) {
        page.complain(&format!("two parts are called \"{name}\": give one of them another name"));
    }
    for (position, class) in names.classes.iter().enumerate() {
        let number = position + 1;
        let used = |part: &Part| {
            usize::from(part.class) == number
                || part.wall.as_ref().is_some_and(|wall| usize::from(wall.class) == number)
        };
        if !parts.iter().any(used) {
            page.complain(&format!(
                "no part has the class \"{class}\": give one `class = \"{class}\"`, or remove the class"
            ));
        }
    }
}

impl Tissue {
    fn plain(name: &str) -> Self {
        let none = Range::fixed(0.0);
        Self { name: name.to_owned(), intensity: Range { low: 0.0, high: 1.0 }, vary: none, texture: none }
    }
}

fn tissues(page: &mut Page<'_, '_>) -> Vec<Tissue> {
    if !page.has("tissue") {
        page.complain("tissues are missing: describe each under [tissue.NAME], such as [tissue.blood]");
    }
    let Some(page) = page.page("tissue") else { return Vec::new() };
    let one = |(name, mut page): (String, Page<'_, '_>)| {
        let plain = Tissue::plain(&name);
        let tissue = Tissue {
            intensity: page.range("intensity", INTENSITY, plain.intensity),
            vary: page.range("vary", STRENGTH, plain.vary),
            texture: page.range("texture", STRENGTH, plain.texture),
            ..plain
        };
        page.finish();
        tissue
    };
    page.named_pages().into_iter().map(one).collect()
}

fn contrasts(page: &mut Page<'_, '_>, names: &Names) -> Vec<Contrast> {
    let one = |mut page: Page<'_, '_>| {
        if let Some(name) = page.text("name") {
            page.rename(format!("contrast `{name}`"));
        }
        let share = page.range("share", (0.0, 1e6), Range::fixed(1.0)).low;
        let intensities = page.page("intensity").map(|page| page.named_ranges(&names.tissues, "tissue", INTENSITY));
        page.finish();
        Contrast { share, intensities: intensities.unwrap_or_default() }
    };
    let contrasts: Vec<Contrast> = page.pages("contrast").into_iter().map(one).collect();
    if !contrasts.is_empty() && contrasts.iter().all(|contrast| contrast.share <= 0.0) {
        page.complain("every contrast has `share = 0`: give one of them more");
    }
    contrasts
}

fn field(page: Option<Page<'_, '_>>, names: &Names) -> Field {
    let mut field = Field {
        size_mm: Triple::fixed(160.0),
        spacing_mm: Triple::fixed(2.5),
        centre: None,
        jitter_mm: Triple::fixed(0.0),
    };
    if let Some(mut page) = page {
        field.size_mm = page.triple("size_mm", MILLIMETRES, field.size_mm);
        field.spacing_mm = page.triple("spacing_mm", (0.1, 20.0), field.spacing_mm);
        field.centre = page.name("centre", &names.parts, "part");
        field.jitter_mm = page.triple("jitter_mm", SLACK, field.jitter_mm);
        page.finish();
    }
    field
}

fn crop(mut page: Page<'_, '_>, names: &Names) -> Crop {
    if !page.has("around") {
        page.complain("`around` is missing: name the parts that a cut-out holds");
    }
    let crop = Crop {
        around: page.names("around", &names.parts, "part"),
        margin_mm: page.triple("margin_mm", OFFSET, Triple::fixed(10.0)),
        least_mm: page.triple("least_mm", SLACK, Triple::fixed(0.0)),
        share: page.range("share", SHARE, Range::fixed(1.0)).low,
    };
    page.finish();
    crop
}

fn pose(page: Option<Page<'_, '_>>) -> Pose {
    let mut pose = Pose { turn_deg: Triple::fixed(0.0), scale: Range::fixed(1.0) };
    if let Some(mut page) = page {
        pose.turn_deg = page.triple("turn_deg", ANGLE, pose.turn_deg);
        pose.scale = page.range("scale", (0.1, 10.0), pose.scale);
        page.finish();
    }
    pose
}

fn warp(page: Option<Page<'_, '_>>) -> Warp {
    let mut warp = Warp { amount_mm: Range::fixed(0.0), length_mm: Range::fixed(50.0) };
    if let Some(mut page) = page {
        warp.amount_mm = page.range("amount_mm", (0.0, 200.0), warp.amount_mm);
        warp.length_mm = page.range("length_mm", (10.0, 2000.0), warp.length_mm);
        page.finish();
    }
    warp
}

fn acquisition(page: Option<Page<'_, '_>>) -> Acquisition {
    let none = Range::fixed(0.0);
    let mut acquisition =
        Acquisition { grain_mm: Range::fixed(10.0), blur_mm: Triple::fixed(0.0), bias: none, noise: none };
    if let Some(mut page) = page {
        acquisition.grain_mm = page.range("grain_mm", (2.0, 2000.0), acquisition.grain_mm);
        acquisition.blur_mm = page.triple("blur_mm", (0.0, 50.0), acquisition.blur_mm);
        acquisition.bias = page.range("bias", SHARE, none);
        acquisition.noise = page.range("noise", STRENGTH, none);
        page.finish();
    }
    acquisition
}
