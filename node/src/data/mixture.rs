//! A stream of labelled synthetic scans from several recipes, each drawn in proportion to its weight.
//!
//! The scan of a number is a function of (mixture, seed, number), so a stream can be read from anywhere.

use rand::Rng;
use semisam_shared::ids::Digest;
use thiserror::Error;

use super::{
    normalise::normalise,
    recipe::{Recipe, RecipeError},
    synth::{Style, synth_case},
};
use crate::train::{crops::PreparedScan, generator};

/// The name of the anonymous organs of [`super::synth`], each in a style of its own.
pub const BLOBS: &str = "blobs";

/// Recipes and how often each is used.
#[derive(Debug)]
pub struct Mixture {
    parts: Vec<Part>,
    patch: [usize; 3],
    spacing_mm: f64,
}

#[derive(Debug)]
struct Part {
    name: String,
    weight: f64,
    anatomy: Anatomy,
}

#[derive(Debug)]
enum Anatomy {
    Blobs,
    /// As its scans may be stored: at least one way.
    Recipe(Vec<Recipe>),
}

/// Why there is no mixture.
#[derive(Debug, Error)]
pub enum MixtureError {
    /// A weight that is none.
    #[error(
        "`{0}` has no weight: write the recipe alone, or a positive number behind the last colon, such as `blobs:0.4`"
    )]
    Weight(String),
    /// The same recipe twice.
    #[error("`{0}` is named twice: add its weights")]
    Twice(String),
    /// A recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
}

impl Mixture {
    /// Opens recipes given as `NAME`, `FILE`, or either with `:WEIGHT`, to be seen at `spacing_mm`; `patch` are the sides
    /// of the volumes that will be cut out of them. `axes` are ways in which scans may be stored, each as likely as another: for
    /// each axis whether it points the other way than right, front and up. None is that way alone.
    ///
    /// # Errors
    /// If a recipe cannot be read, or a weight is no positive number.
    pub fn open(
        recipes: &[String],
        patch: [usize; 3],
        spacing_mm: f64,
        axes: &[[bool; 3]],
    ) -> Result<Self, MixtureError> {
        let mut parts: Vec<Part> = Vec::new();
        for text in recipes {
            let (name, weight) = match text.rsplit_once(':') {
                None => (text.as_str(), 1.0),
                Some((name, weight)) => {
                    let weight = weight.parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight > 0.0);
                    (name, weight.ok_or_else(|| MixtureError::Weight(text.clone()))?)
                }
            };
            if parts.iter().any(|part| part.name == name) {
                return Err(MixtureError::Twice(name.to_owned()));
            }
            let anatomy = if name == BLOBS {
                Anatomy::Blobs
            } else {
                Anatomy::Recipe(Recipe::open(name)?.stored(axes, spacing_mm)?)
            };
            parts.push(Part { name: name.to_owned(), weight, anatomy });
        }
        Ok(Self { parts, patch, spacing_mm })
    }

    /// Names the mixture with all that its scans depend on.
    pub fn digest(&self) -> Digest {
        let parts: String = self.parts().iter().map(|(_, weight, digest)| format!("{weight} {digest}\n")).collect();
        Digest::of(format!("{parts}{:?} {}", self.patch, self.spacing_mm).as_bytes())
    }

    /// Name, weight and digest of each part.
    pub fn parts(&self) -> Vec<(String, f64, String)> {
        let of_part = |part: &Part| {
            let text = match &part.anatomy {
                Anatomy::Blobs => BLOBS.to_owned(),
                Anatomy::Recipe(ways) => format!("{ways:?}"),
            };
            (part.name.clone(), part.weight, Digest::of(text.as_bytes()).to_string())
        };
        self.parts.iter().map(of_part).collect()
    }

    /// The scan of a number, normalised, with its labels.
    pub fn scan(&self, seed: u64, number: u64) -> PreparedScan {
        let mut random = generator(seed, "mixture", &[number]);
        let all: f64 = self.parts.iter().map(|part| part.weight).sum();
        let mut left = random.random::<f64>() * all;
        let chosen = self.parts.iter().find(|part| {
            left -= part.weight;
            left <= 0.0
        });
        let part = chosen.or(self.parts.last()).expect("a mixture has a part");
        let (mut image, labels) = match &part.anatomy {
            Anatomy::Blobs => {
                let style = Style::from_seed(random.random());
                synth_case(&style, self.patch, [self.spacing_mm; 3], random.random())
            }
            Anatomy::Recipe(ways) => ways[random.random_range(0..ways.len())].scan(seed, number),
        };
        normalise(&mut image);
        PreparedScan { image, labels: Some(labels) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(recipes: &[&str]) -> Result<Mixture, MixtureError> {
        Mixture::open(&recipes.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), [24, 16, 16], 4.0, &[])
    }

    #[test]
    fn a_number_is_a_scan_and_weights_are_shares() {
        let mixture = open(&["blobs:3", "left-atrium"]).expect("both are shipped");
        assert_eq!(mixture.scan(1, 7), mixture.scan(1, 7));
        assert_ne!(mixture.scan(1, 7).image.values, mixture.scan(1, 8).image.values);
        assert_ne!(mixture.scan(1, 7).image.values, mixture.scan(2, 7).image.values);
        let blobs = (0..80).filter(|number| mixture.scan(1, *number).image.shape == [24, 16, 16]).count();
        assert!((48..72).contains(&blobs), "{blobs} of 80");
    }

    #[test]
    fn scans_are_stored_in_each_of_the_ways() {
        let open = |axes: &[[bool; 3]]| {
            Mixture::open(&["left-atrium".to_owned()], [24, 16, 16], 4.0, axes).expect("it is shipped")
        };
        let (plain, turned) = (open(&[]), open(&[[true, true, false]]));
        let both = open(&[[false; 3], [true, true, false]]);
        assert_ne!(plain.digest(), both.digest());
        assert_ne!(plain.scan(1, 3), turned.scan(1, 3));
        let found: Vec<bool> = (0..16)
            .map(|number| {
                let scan = both.scan(1, number);
                assert!(scan == plain.scan(1, number) || scan == turned.scan(1, number));
                scan == plain.scan(1, number)
            })
            .collect();
        assert!(found.contains(&true) && found.contains(&false), "{found:?}");
    }

    #[test]
    fn another_mixture_is_another_digest() {
        let digest = |recipes: &[&str]| open(recipes).expect("shipped").digest();
        let plain = digest(&["blobs", "left-atrium"]);
        assert_eq!(plain, digest(&["blobs:1", "left-atrium:1.0"]));
        for other in [&["blobs"][..], &["blobs:2", "left-atrium"], &["left-atrium", "blobs"]] {
            assert_ne!(plain, digest(other));
        }
        assert_eq!(open(&["blobs:0.4"]).expect("shipped").parts()[0].1, 0.4);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |recipes: &[&str]| open(recipes).expect_err("wrong").to_string();
        assert!(error(&["blobs:0"]).contains("`blobs:0`") && error(&["blobs:much"]).contains("`blobs:much`"));
        assert!(error(&["blobs", "blobs:2"]).contains("twice"));
        assert!(error(&["no such recipe"]).contains("no such recipe"));
    }
}
