//! Synthetic anatomy from a recipe: an organ among its neighbours, as a scanner would see it, from a page of TOML.
//!
//! A student that was pre-trained on volumes composed from textbook anatomy starts far ahead of one that saw anonymous
//! blobs (spec/semisam.md, section 13). A consortium writes the page from an anatomy book: parts (ellipsoids, rounded boxes,
//! tubes, with walls), where each is in relation to others (touching, attached to, inside, between, running from one to
//! another), of what tissue, how bright tissues are in which contrast, and what the scanner adds. `docs/recipes.md` describes
//! the format. Everything that a recipe leaves open is drawn per volume.
//!
//! A volume is a function of (recipe, seed, number): one ChaCha8 stream each, arithmetic of IEEE 754 without fused
//! operations, and `libm` in place of the system's, so the same three give the same bytes on every machine and for any
//! number of threads. One volume is made on one thread; [`Recipe::scan`] may be called from many.
//!
//! In reading order: `page` and `parse` (from TOML to a [`Recipe`]), `draws`, `space`, `shapes`, `contact` and `place`
//! (a scene), `view` (what is seen of it), `smooth`, `paint` and `acquire` (an image), `cohort` (files).

mod acquire;
mod cohort;
mod contact;
mod draws;
mod page;
mod paint;
mod parse;
mod place;
mod shapes;
mod smooth;
mod space;
#[cfg(test)]
mod tests;
mod view;

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use self::draws::{Range, Towards, Triple};
use self::shapes::Profile;
use self::space::Point;
use crate::data::volume::{Image, LabelMap};

pub use self::cohort::{CohortError, write_scans};
pub use self::view::View;

/// The recipes that come with the program: name and text.
pub const SHIPPED: [(&str, &str); 4] = [
    ("left-atrium", include_str!("../../assets/recipes/left-atrium.toml")),
    ("abdominal-organs", include_str!("../../assets/recipes/abdominal-organs.toml")),
    ("brain-lesion", include_str!("../../assets/recipes/brain-lesion.toml")),
    ("anything", include_str!("../../assets/recipes/anything.toml")),
];

/// No recipe is longer than this.
const LONGEST: u64 = 1 << 20;

/// Why there is no recipe.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// Neither a shipped name nor a file.
    #[error("there is no recipe `{0}`: name a file, or one of the shipped recipes {names}", names = shipped_names())]
    Unknown(String),
    /// A file that cannot be read.
    #[error("cannot read the recipe `{path}` ({error}): check the path and the permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file that is no recipe by its size.
    #[error("`{0}` is longer than 1 MiB, which no recipe is: name another file")]
    Long(PathBuf),
    /// Everything that is wrong with the text.
    #[error("the recipe `{name}` cannot be used{}", problems.iter().map(|problem| format!("\n  {problem}")).collect::<String>())]
    Content {
        /// Which.
        name: String,
        /// One sentence each, with its line.
        problems: Vec<String>,
    },
    /// A field of view that cannot be had.
    #[error(
        "a volume of {shape:?} voxels at {spacing_mm:?} mm cannot be made: each side needs 1 to 1024 voxels of 0.1 to 20 mm, and all together at most 67108864"
    )]
    View {
        /// Voxels along each axis, at most.
        shape: [usize; 3],
        /// Millimetres between them, at least.
        spacing_mm: [f64; 3],
    },
}

fn shipped_names() -> String {
    SHIPPED.map(|(name, _)| format!("`{name}`")).join(", ")
}

/// An anatomy, and how it is seen. Made by [`Recipe::open`] or [`Recipe::parse`], so its numbers are within bounds and its
/// names resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    name: String,
    about: String,
    classes: Vec<String>,
    background: usize,
    tissues: Vec<Tissue>,
    contrasts: Vec<Contrast>,
    parts: Vec<Part>,
    field: Field,
    crop: Option<Crop>,
    pose: Pose,
    warp: Warp,
    acquisition: Acquisition,
    view: View,
}

/// What parts are made of.
#[derive(Clone, Debug, PartialEq)]
struct Tissue {
    name: String,
    intensity: Range,
    /// How far the brightness of one part may be from the tissue's.
    vary: Range,
    /// Strength of smooth unevenness within a part.
    texture: Range,
}

/// Brightnesses that go together.
#[derive(Clone, Debug, PartialEq)]
struct Contrast {
    /// How often, relative to the others.
    share: f64,
    intensities: Vec<(usize, Range)>,
}

/// A structure of the body.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    name: String,
    form: Form,
    tissue: usize,
    /// 0 is background.
    class: u8,
    /// Whose brightness it shares: itself, or the part that it is part of.
    like: usize,
    layer: i32,
    chance: f64,
    count: (u32, u32),
    /// Parts on which it is visible; everywhere if empty.
    only_on: Vec<usize>,
    wall: Option<Wall>,
}

/// A layer around a part.
#[derive(Clone, Debug, PartialEq)]
struct Wall {
    thickness_mm: Range,
    tissue: usize,
    class: u8,
}

/// The primitive, and where it is.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Compact {
        profile: Profile,
        size_mm: Triple,
        turn_deg: Triple,
        lumps: Range,
        place: Spot,
    },
    Tube {
        from: Spot,
        to: Spot,
        diameter_mm: Range,
        end_diameter_mm: Option<Range>,
        bend: Range,
        bend_towards: Option<Point>,
    },
}

/// A place, given by a relation.
#[derive(Clone, Debug, PartialEq)]
struct Spot {
    relation: Relation,
    jitter_mm: Triple,
}

/// Where something is in relation to parts that are there already.
#[derive(Clone, Debug, PartialEq)]
enum Relation {
    /// At an offset from a part's centre, or from the origin.
    At { of: Option<usize>, at_mm: [Range; 3] },
    /// Surface to surface.
    Touching { of: usize, towards: Towards, gap_mm: Range },
    /// On the way from a part's centre to its surface.
    AttachedTo { of: usize, towards: Towards, reach: Range },
    /// Anywhere within a part, up to a share of its radius.
    Inside { of: usize, reach: f64 },
    /// On the line between two centres.
    Between { from: usize, to: usize, share: Range },
    /// Where a tube starts (false) or ends (true).
    Tip { of: usize, end: bool },
    /// From the start of the same tube.
    Onwards { towards: Towards, length_mm: Range },
}

/// What a whole scan shows.
#[derive(Clone, Debug, PartialEq)]
struct Field {
    size_mm: Triple,
    spacing_mm: Triple,
    centre: Option<usize>,
    jitter_mm: Triple,
}

/// What a cut-out around parts shows.
#[derive(Clone, Debug, PartialEq)]
struct Crop {
    around: Vec<usize>,
    margin_mm: Triple,
    least_mm: Triple,
    share: f64,
}

/// How the whole body lies, and how large it is.
#[derive(Clone, Debug, PartialEq)]
struct Pose {
    turn_deg: Triple,
    scale: Range,
}

/// A smooth displacement of everything.
#[derive(Clone, Debug, PartialEq)]
struct Warp {
    amount_mm: Range,
    length_mm: Range,
}

/// What the scanner adds.
#[derive(Clone, Debug, PartialEq)]
struct Acquisition {
    /// Length over which textures vary.
    grain_mm: Range,
    /// Standard deviation of the blur.
    blur_mm: Triple,
    /// Strength of the smooth multiplicative field.
    bias: Range,
    /// Standard deviation, in units of intensity.
    noise: Range,
}

impl Recipe {
    /// A shipped recipe by its name, or one from a file.
    ///
    /// # Errors
    /// If there is none, or everything that is wrong with it.
    pub fn open(name_or_path: &str) -> Result<Self, RecipeError> {
        if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text);
        }
        let path = Path::new(name_or_path);
        let read = |error| RecipeError::Read { path: path.to_owned(), error };
        if !path.exists() {
            return Err(RecipeError::Unknown(name_or_path.to_owned()));
        }
        if std::fs::metadata(path).map_err(read)?.len() > LONGEST {
            return Err(RecipeError::Long(path.to_owned()));
        }
        Self::parse(name_or_path, &std::fs::read_to_string(path).map_err(read)?)
    }

    /// The recipe that a text describes; `name` is for messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, RecipeError> {
        let recipe =
            parse::parse(name, text).map_err(|problems| RecipeError::Content { name: name.to_owned(), problems })?;
        recipe.seen(View::default())
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says about itself.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// The names of the classes from 1 on; 0 is background.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The labelled volume of a number. The same seed and number give the same bytes.
    pub fn scan(&self, seed: u64, number: u64) -> (Image, LabelMap) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        let scene = place::Scene::draw(self, &mut random);
        let raster = view::Raster::draw(self, &scene, &mut random);
        let look = paint::Look::draw(self, &scene, &mut random);
        let canvas = paint::paint(self, &scene, &look, &raster);
        acquire::acquire(&self.acquisition, &look, canvas, &raster, &mut random)
    }
}
