//! One `[[part]]` of a recipe: its primitive, its place, its looks.

use super::super::draws::{Range, Towards, Triple};
use super::super::page::{Page, vector};
use super::super::shapes::Profile;
use super::super::space::{Point, add, norm, unit};
use super::super::{Form, Part, Relation, Spot, Wall};
use super::{ANGLE, MILLIMETRES, MOST_COPIES, NO_CLASS, Names, OFFSET, SHARE, SLACK};

/// Words for directions, from the patient's point of view; x to the right, y to the front, z to the head.
const DIRECTIONS: [(&str, Point); 12] = [
    ("right", [1.0, 0.0, 0.0]),
    ("left", [-1.0, 0.0, 0.0]),
    ("front", [0.0, 1.0, 0.0]),
    ("anterior", [0.0, 1.0, 0.0]),
    ("behind", [0.0, -1.0, 0.0]),
    ("posterior", [0.0, -1.0, 0.0]),
    ("above", [0.0, 0.0, 1.0]),
    ("superior", [0.0, 0.0, 1.0]),
    ("below", [0.0, 0.0, -1.0]),
    ("inferior", [0.0, 0.0, -1.0]),
    ("up", [0.0, 0.0, 1.0]),
    ("down", [0.0, 0.0, -1.0]),
];

/// The keys that say where something is; each place has one of them.
const RELATIONS: [&str; 8] =
    ["at_mm", "touching", "attached_to", "inside", "between", "start_of", "end_of", "length_mm"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Compact(Profile),
    Tube,
}

pub(super) fn read(mut page: Page<'_, '_>, names: &Names, parts: &[Part]) -> Part {
    let name = page.required_text("name");
    page.rename(format!("part `{name}`"));
    let whole = page.name("part_of", &names.parts, "part").map(|at| &parts[at]);
    let form = form(&mut page, names);
    let tissue = page.name("tissue", &names.tissues, "tissue");
    if tissue.is_none() && whole.is_none() {
        page.complain("`tissue` is missing: name what it is made of, or the part that it is `part_of`");
    }
    let class = class(&mut page, "class", names).or(whole.map(|whole| whole.class)).unwrap_or(0);
    let wall = wall(&mut page, names).or_else(|| whole.and_then(|whole| whole.wall.clone()));
    let part = Part {
        name,
        form,
        tissue: tissue.or(whole.map(|whole| whole.tissue)).unwrap_or(0),
        class,
        like: whole.filter(|_| tissue.is_none()).map_or(parts.len(), |whole| whole.like),
        layer: layer(&mut page).or(whole.map(|whole| whole.layer)).unwrap_or(0),
        chance: page.range("chance", SHARE, Range::fixed(1.0)).low,
        count: page.count("count", (0, MOST_COPIES), (1, 1)),
        only_on: page.names("only_on", &names.parts, "part"),
        wall,
    };
    for spot in part.form.spots() {
        if let Relation::Tip { of, .. } = spot.relation
            && !matches!(parts[of].form, Form::Tube { .. })
        {
            page.complain(&format!("\"{}\" has no start and no end, as it is no tube", parts[of].name));
        }
    }
    page.finish();
    part
}

impl Form {
    /// The places that it is given by.
    fn spots(&self) -> Vec<&Spot> {
        match self {
            Form::Compact { place, .. } => vec![place],
            Form::Tube { from, to, .. } => vec![from, to],
        }
    }
}

fn layer(page: &mut Page<'_, '_>) -> Option<i32> {
    if !page.has("layer") {
        page.count("layer", (0, 1000), (0, 0));
        return None;
    }
    Some(page.count("layer", (0, 1000), (0, 0)).0 as i32)
}

/// The number of a class.
fn class(page: &mut Page<'_, '_>, key: &'static str, names: &Names) -> Option<u8> {
    let among: Vec<String> = std::iter::once(NO_CLASS.to_owned()).chain(names.classes.iter().cloned()).collect();
    page.name(key, &among, "class").map(|position| position.min(255) as u8)
}

fn wall(page: &mut Page<'_, '_>, names: &Names) -> Option<Wall> {
    let mut page = page.page("wall")?;
    let tissue = page.name("tissue", &names.tissues, "tissue");
    if tissue.is_none() {
        page.complain("`tissue` is missing: name what the wall is made of");
    }
    let wall = Wall {
        thickness_mm: page.required_range("thickness_mm", (0.1, 200.0)),
        tissue: tissue.unwrap_or(0),
        class: class(&mut page, "class", names).unwrap_or(0),
    };
    page.finish();
    Some(wall)
}

fn form(page: &mut Page<'_, '_>, names: &Names) -> Form {
    let shapes = [
        ("ellipsoid", Shape::Compact(Profile::Ellipsoid)),
        ("box", Shape::Compact(Profile::Box)),
        ("tube", Shape::Tube),
    ];
    if !page.has("shape") {
        page.complain("`shape` is missing: \"ellipsoid\", \"box\" or \"tube\"");
    }
    match page.word("shape", &shapes, Shape::Compact(Profile::Ellipsoid)) {
        Shape::Compact(profile) => {
            if !page.has("size_mm") {
                page.complain("`size_mm` is missing: the diameters left-right, back-front and foot-head");
            }
            Form::Compact {
                profile,
                size_mm: page.triple("size_mm", MILLIMETRES, Triple::fixed(1.0)),
                turn_deg: page.triple("turn_deg", (-180.0, 180.0), Triple::fixed(0.0)),
                lumps: page.range("lumps", (0.0, 0.5), Range::fixed(0.0)),
                place: spot(page, "place", names, false),
            }
        }
        Shape::Tube => Form::Tube {
            diameter_mm: page.required_range("diameter_mm", MILLIMETRES),
            end_diameter_mm: {
                let given = page.has("end_diameter_mm");
                let range = page.range("end_diameter_mm", MILLIMETRES, Range::fixed(1.0));
                given.then_some(range)
            },
            bend: page.range("bend", (-1.0, 1.0), Range::fixed(0.0)),
            bend_towards: direction(page, "bend_towards"),
            from: spot(page, "from", names, false),
            to: spot(page, "to", names, true),
        },
    }
}

/// A place; `onwards` where it may be given from the start of the same tube.
fn spot(page: &mut Page<'_, '_>, key: &'static str, names: &Names, onwards: bool) -> Spot {
    let origin = Relation::At { of: None, at_mm: [Range::fixed(0.0); 3] };
    if !page.has(key) {
        page.complain(&format!("`{key}` is missing: say where it is, such as {key} = {{ at_mm = [0, 0, 0] }}"));
    }
    let Some(mut page) = page.page(key) else {
        return Spot { relation: origin, jitter_mm: Triple::fixed(0.0) };
    };
    let written: Vec<&str> = RELATIONS.into_iter().filter(|relation| page.has(relation)).collect();
    let relation = match written[..] {
        [one] if onwards || one != "length_mm" => relation(&mut page, one, names),
        _ => {
            let known = if onwards { &RELATIONS[..] } else { &RELATIONS[..7] };
            page.complain(&format!("give exactly one of `{}` to say where it is", known.join("`, `")));
            for key in RELATIONS.into_iter().chain(["of", "towards", "spread_deg", "gap_mm", "reach", "share"]) {
                page.any(key);
            }
            None
        }
    };
    let jitter_mm = page.triple("jitter_mm", SLACK, Triple::fixed(0.0));
    page.finish();
    Spot { relation: relation.unwrap_or(origin), jitter_mm }
}

fn relation(page: &mut Page<'_, '_>, kind: &str, names: &Names) -> Option<Relation> {
    let parts = &names.parts;
    Some(match kind {
        "at_mm" => {
            let at_mm = page.triple("at_mm", OFFSET, Triple::fixed(0.0)).axes;
            Relation::At { of: page.name("of", parts, "part"), at_mm }
        }
        "touching" => {
            let of = page.name("touching", parts, "part");
            let (towards, gap_mm) = (towards(page), page.range("gap_mm", OFFSET, Range::fixed(0.0)));
            Relation::Touching { of: of?, towards, gap_mm }
        }
        "attached_to" => {
            let of = page.name("attached_to", parts, "part");
            let (towards, reach) = (towards(page), page.range("reach", (-2.0, 10.0), Range::fixed(1.0)));
            Relation::AttachedTo { of: of?, towards, reach }
        }
        "inside" => {
            let of = page.name("inside", parts, "part");
            let reach = page.range("reach", SHARE, Range::fixed(0.8)).high;
            Relation::Inside { of: of?, reach }
        }
        "between" => {
            let of = page.names("between", parts, "part");
            let share = page.range("share", (-1.0, 2.0), Range::fixed(0.5));
            let &[from, to] = &of[..] else {
                page.complain("`between` needs two parts");
                return None;
            };
            Relation::Between { from, to, share }
        }
        "start_of" => Relation::Tip { of: page.name("start_of", parts, "part")?, end: false },
        "end_of" => Relation::Tip { of: page.name("end_of", parts, "part")?, end: true },
        _ => Relation::Onwards {
            towards: towards(page),
            length_mm: page.range("length_mm", MILLIMETRES, Range::fixed(1.0)),
        },
    })
}

fn towards(page: &mut Page<'_, '_>) -> Towards {
    let direction = direction(page, "towards");
    Towards { direction, spread_deg: page.range("spread_deg", ANGLE, Range::fixed(0.0)) }
}

/// A direction in words or as a vector.
fn direction(page: &mut Page<'_, '_>, key: &'static str) -> Option<Point> {
    let value = page.any(key)?;
    let found = match value.as_str() {
        Some(words) => words.split_whitespace().try_fold([0.0; 3], |sum, word| {
            let known = DIRECTIONS.iter().find(|(known, _)| *known == word)?;
            Some(add(sum, known.1))
        }),
        None => vector(&value),
    };
    let found = found.filter(|vector| norm(*vector) > 1e-6 && norm(*vector) < 1e6).map(unit);
    if found.is_none() {
        let words = DIRECTIONS.map(|(word, _)| word).join(", ");
        page.complain(&format!(
            "`{key}` must be a direction in words (one or more of {words}) or a vector [right, front, up] with a length"
        ));
    }
    found
}
