//! Recipes as a whole: the shipped ones, hostile ones, what relations mean, and that a volume is what its numbers say.

use sha2::{Digest, Sha256};

use super::place::Scene;
use super::shapes::Solid;
use super::space::{dot, norm, subtract};
use super::*;

const TINY: &str = r#"
about = "two balls"
classes = ["ball"]
[field]
size_mm = [60, 50, 40]
spacing_mm = 2
[tissue.a]
intensity = 0.2
[tissue.b]
intensity = 0.8
[[part]]
name = "ball"
shape = "ellipsoid"
size_mm = 24
place = { at_mm = [0, 0, 0] }
tissue = "b"
class = "ball"
"#;

fn scene(recipe: &Recipe, number: u64) -> Scene {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    random.set_stream(number);
    Scene::draw(recipe, &mut random)
}

fn with(more: &str) -> Recipe {
    Recipe::parse("test", &format!("{TINY}{more}")).unwrap()
}

fn problems(text: &str) -> String {
    match Recipe::parse("test", text) {
        Err(error @ RecipeError::Content { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn digest(recipe: &Recipe, seed: u64, number: u64) -> String {
    let (image, labels) = recipe.scan(seed, number);
    let mut hash = Sha256::new();
    image.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    hash.update(&labels.values);
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_same_numbers_give_the_same_volume_and_others_another() {
    for (name, _) in SHIPPED {
        let view = View { shape: Some([24, 20, 16]), spacing_mm: Some([6.0; 3]), ..View::default() };
        let recipe = Recipe::open(name).unwrap().seen(view).unwrap();
        assert_eq!(recipe.scan(7, 3), recipe.scan(7, 3), "{name}");
        assert_ne!(recipe.scan(7, 3).0, recipe.scan(7, 4).0, "{name}");
        assert_ne!(recipe.scan(7, 3).0, recipe.scan(8, 3).0, "{name}");
    }
}

/// Bytes of a volume that was made with this code on an x86-64 machine with Linux.
#[test]
fn a_volume_is_the_same_on_every_machine() {
    let more = r#"
[pose]
turn_deg = 20
[warp]
amount_mm = 3
length_mm = 20
[acquisition]
blur_mm = 2
bias = 0.2
noise = 0.05
[[part]]
name = "tube"
shape = "tube"
diameter_mm = [5, 9]
bend = 0.2
from = { touching = "ball", towards = "left", spread_deg = 20 }
to = { length_mm = 30 }
tissue = "a"
wall = { thickness_mm = 2, tissue = "b" }
"#;
    assert_eq!(digest(&with(more), 1, 2), "6c6b1a0e7395fc67");
}

/// Size of the largest piece of a class, by 6-neighbours, as a share of the class.
fn largest_piece(labels: &LabelMap, class: u8) -> f64 {
    let [nx, ny, nz] = labels.shape;
    let mut seen = vec![false; labels.values.len()];
    let (mut largest, mut all) = (0, 0);
    for start in 0..seen.len() {
        if seen[start] || labels.values[start] != class {
            continue;
        }
        let (mut open, mut size) = (vec![start], 0);
        seen[start] = true;
        while let Some(at) = open.pop() {
            size += 1;
            let place = [at / nz / ny, at / nz % ny, at % nz];
            for (axis, (extent, stride)) in [(nx, ny * nz), (ny, nz), (nz, 1)].into_iter().enumerate() {
                let mut visit = |next: usize| {
                    if !seen[next] && labels.values[next] == class {
                        seen[next] = true;
                        open.push(next);
                    }
                };
                if place[axis] > 0 {
                    visit(at - stride);
                }
                if place[axis] + 1 < extent {
                    visit(at + stride);
                }
            }
        }
        largest = largest.max(size);
        all += size;
    }
    if all == 0 { 0.0 } else { f64::from(largest) / f64::from(all) }
}

fn millilitres(labels: &LabelMap, class: u8) -> f64 {
    let voxels = labels.values.iter().filter(|&&value| value == class).count();
    voxels as f64 * labels.spacing().iter().product::<f64>() / 1000.0
}

#[test]
fn the_atrium_is_whole_and_as_large_as_textbooks_say() {
    let recipe = Recipe::open("left-atrium").unwrap();
    for number in 0..50 {
        let (image, labels) = recipe.scan(1, number);
        assert!(image.values.iter().all(|value| value.is_finite()));
        let volume = millilitres(&labels, 1);
        assert!((25.0..=160.0).contains(&volume), "{number}: {volume} ml");
        let piece = largest_piece(&labels, 1);
        assert!(piece > 0.9, "{number}: the largest piece is {piece}");
        // Never filling the view, never at most of its border.
        assert!(labels.values.iter().filter(|&&class| class == 1).count() < labels.values.len() / 2);
    }
}

#[test]
fn organs_are_whole_and_as_large_as_textbooks_say() {
    let view = View { shape: Some([66, 52, 52]), spacing_mm: Some([6.0; 3]), ..View::default() };
    let recipe = Recipe::open("abdominal-organs").unwrap().seen(view).unwrap();
    let ranges = [(60.0, 450.0), (70.0, 300.0), (70.0, 300.0), (0.0, 130.0), (700.0, 3000.0), (100.0, 900.0)];
    let mut sums = [0.0; 6];
    for number in 0..50 {
        let (_, labels) = recipe.scan(1, number);
        for (class, (low, high)) in (1..=6_u8).zip(ranges) {
            let volume = millilitres(&labels, class);
            sums[usize::from(class) - 1] += volume / 50.0;
            // A view may cut an organ off, so the lower bound holds for most volumes: see the means below.
            assert!(volume <= high, "{number}: {} has {volume} ml", recipe.classes()[usize::from(class) - 1]);
            assert!(volume > 0.0 || low < 100.0, "{number}: no {}", recipe.classes()[usize::from(class) - 1]);
        }
    }
    for ((mean, (low, _)), class) in sums.into_iter().zip(ranges).zip(recipe.classes()) {
        assert!(mean > low + 10.0, "{class}: {mean} ml");
    }
}

#[test]
fn lesions_and_objects_are_there_and_inside() {
    for (name, least, most) in [("brain-lesion", 0.05, 400.0), ("anything", 8.0, 500.0)] {
        let recipe = Recipe::open(name).unwrap();
        for number in 0..50 {
            let (_, labels) = recipe.scan(1, number);
            let volume = millilitres(&labels, 1);
            assert!((least..=most).contains(&volume), "{name} {number}: {volume} ml");
            if name == "brain-lesion" {
                let [nx, ny, nz] = labels.shape;
                let border = |at: usize| {
                    let (i, j, k) = (at / nz / ny, at / nz % ny, at % nz);
                    i == 0 || j == 0 || k == 0 || i + 1 == nx || j + 1 == ny || k + 1 == nz
                };
                let outside = (0..labels.values.len()).filter(|&at| border(at) && labels.values[at] > 0).count();
                assert_eq!(outside, 0, "{number}: a lesion at the border of the head's view");
            }
        }
    }
}

#[test]
fn shipped_recipes_name_what_they_teach() {
    let classes: Vec<usize> = SHIPPED.iter().map(|(name, _)| Recipe::open(name).unwrap().classes().len()).collect();
    assert_eq!(classes, [1, 6, 1, 1]);
    let message = Recipe::open("left-atrum").unwrap_err().to_string();
    assert!(message.contains("`left-atrum`") && message.contains("`left-atrium`, `abdominal-organs`"), "{message}");
}

#[test]
fn classes_walls_and_layers_are_painted_in_order() {
    let recipe = with("wall = { thickness_mm = 6, tissue = \"a\" }\n");
    let (image, labels) = recipe.scan(1, 0);
    let centre = image.index(15, 12, 10);
    assert_eq!((image.values[centre], labels.values[centre]), (0.8, 1));
    // 12 mm is the ball's surface, 18 mm the wall's; the wall and what is beyond have no class.
    let beyond = image.index(15 + 7, 12, 10);
    assert!((image.values[beyond] - 0.2).abs() < 1e-6 && labels.values[beyond] == 0);
    let expected = 4.0 / 3.0 * std::f64::consts::PI * 12.0_f64.powi(3) / 1000.0;
    assert!((millilitres(&labels, 1) / expected - 1.0).abs() < 0.03);
    // The soft edge: intensities beyond background integrate to the volume too.
    let plain = with("").scan(1, 0).0;
    let sum: f64 = plain.values.iter().map(|value| f64::from((value - 0.2) / 0.6)).sum();
    assert!((sum * 8.0 / 1000.0 / expected - 1.0).abs() < 0.01, "{sum}");
    let two = TINY.replace("[\"ball\"]", "[\"ball\", \"core\"]");
    let part = "[[part]]\nname = \"core\"\nshape = \"box\"\nsize_mm = 10\nplace = { at_mm = 0, of = \"ball\" }\ntissue = \"a\"\nclass = \"core\"\n";
    let (_, labels) = Recipe::parse("two", &format!("{two}{part}")).unwrap().scan(1, 0);
    assert!(labels.values[centre] == 2 && millilitres(&labels, 2) > 0.6 && millilitres(&labels, 1) > 6.0);
    // On a lower layer it is hidden; visible only on what it may cover, it is not there.
    let hidden = format!("{two}layer = 1\n{part}");
    assert_eq!(millilitres(&Recipe::parse("hidden", &hidden).unwrap().scan(1, 0).1, 2), 0.0);
    let blob = "[[part]]\nname = \"far\"\nshape = \"ellipsoid\"\nsize_mm = 4\nplace = { at_mm = [-26, 0, 0] }\ntissue = \"a\"\n";
    let masked = format!("{two}{blob}{part}only_on = [\"far\"]\n");
    assert_eq!(millilitres(&Recipe::parse("masked", &masked).unwrap().scan(1, 0).1, 2), 0.0);
}

#[test]
fn relations_mean_what_they_say() {
    let ellipsoid = |name: &str, place: &str| {
        format!(
            "[[part]]\nname = \"{name}\"\nshape = \"ellipsoid\"\nsize_mm = [10, 16, 22]\ntissue = \"a\"\nplace = {place}\n"
        )
    };
    let tube = "[[part]]\nname = \"tube\"\nshape = \"tube\"\ndiameter_mm = 4\ntissue = \"a\"\nfrom = { touching = \"ball\", towards = \"above\", gap_mm = 3 }\nto = { touching = \"left\", towards = \"behind\" }\n";
    let recipe = with(
        &[
            ellipsoid("left", "{ touching = \"ball\", towards = \"left\", gap_mm = 2 }"),
            ellipsoid("behind", "{ touching = \"ball\", towards = \"behind below\", spread_deg = [0, 10] }"),
            ellipsoid("on", "{ attached_to = \"ball\", towards = \"front\" }"),
            ellipsoid("within", "{ inside = \"ball\", reach = 0.5 }"),
            ellipsoid("between", "{ between = [\"ball\", \"left\"], share = [0.25, 0.75] }"),
            ellipsoid("offset", "{ at_mm = [1, 2, 3], of = \"left\", jitter_mm = [0, 0, 2] }"),
            tube.to_owned(),
            ellipsoid("tip", "{ end_of = \"tube\" }"),
        ]
        .concat(),
    );
    for number in 0..40 {
        let scene = scene(&recipe, number);
        let centre = |part: usize| scene.part(part).centre();
        // Ball of 12 mm, neighbour of 5 mm half width, 2 mm between them, exactly to the left.
        let left = centre(1);
        assert!((left[0] + 19.0).abs() < 1e-6 && left[1].abs() < 1e-9 && left[2].abs() < 1e-9, "{left:?}");
        let behind = centre(2);
        let cosine = -(behind[1] + behind[2]) / 2.0_f64.sqrt() / norm(behind);
        assert!(cosine > 0.984 && norm(behind) > 12.0 + 5.0 && norm(behind) < 12.0 + 11.0, "{behind:?}");
        assert!(norm(subtract(centre(3), [0.0, 12.0, 0.0])) < 1e-9);
        assert!(norm(centre(4)) <= 6.0 + 1e-9);
        let between = centre(5);
        assert!((-14.3..=-4.7).contains(&between[0]) && between[1].abs() < 1e-9, "{between:?}");
        let offset = subtract(centre(6), left);
        assert!(offset[0] == 1.0 && offset[1] == 2.0 && (1.0..=5.0).contains(&offset[2]), "{offset:?}");
        let Solid::Tube(tube) = scene.part(7) else { panic!("it is a tube") };
        assert!(norm(subtract(tube.path[0].0, [0.0, 0.0, 15.0])) < 1e-9);
        let end = tube.path[tube.path.len() - 1].0;
        assert!(norm(subtract(subtract(end, left), [0.0, -8.0, 0.0])) < 1e-9, "{end:?}");
        assert_eq!(centre(8), end);
    }
}

#[test]
fn poses_turn_and_scale_everything_together() {
    let recipe = with(
        "[[part]]\nname = \"other\"\nshape = \"ellipsoid\"\nsize_mm = 6\nplace = { touching = \"ball\", towards = \"right\" }\ntissue = \"a\"\n[pose]\nturn_deg = 40\nscale = [0.5, 2]\n",
    );
    for number in 0..20 {
        let scene = scene(&recipe, number);
        let (ball, other) = (scene.part(0).as_compact(), scene.part(1).as_compact());
        let scale = ball.half[0] / 12.0;
        assert!((0.5..=2.0).contains(&scale) && (other.half[2] - 3.0 * scale).abs() < 1e-9);
        assert!((norm(other.centre) - 15.0 * scale).abs() < 1e-6);
        assert!(dot(other.centre, other.centre) > 0.0);
    }
}

#[test]
fn cut_outs_hold_their_parts_with_margins() {
    let recipe = with("[crop]\naround = [\"ball\"]\nmargin_mm = [4, 8]\nleast_mm = [50, 0, 0]\n");
    for number in 0..30 {
        let (image, labels) = recipe.scan(2, number);
        assert_eq!(image.shape[0], 25);
        // 24 mm and twice 4 to 8 mm, at 2 mm.
        assert!((16..=20).contains(&image.shape[1]) && (16..=20).contains(&image.shape[2]), "{:?}", image.shape);
        let expected = 4.0 / 3.0 * std::f64::consts::PI * 12.0_f64.powi(3) / 1000.0;
        assert!((millilitres(&labels, 1) / expected - 1.0).abs() < 0.06);
    }
    let fixed = recipe.seen(View { shape: Some([30, 20, 10]), ..View::default() }).unwrap();
    assert_eq!(fixed.scan(2, 0).0.shape, [30, 20, 10]);
}

#[test]
fn flipped_axes_mirror_the_volume() {
    let more =
        "[[part]]\nname = \"mark\"\nshape = \"box\"\nsize_mm = 8\nplace = { at_mm = [20, -14, 10] }\ntissue = \"b\"\n";
    let (plain, _) = with(more).scan(1, 0);
    let view = View { flipped: View::flips("LPS").unwrap(), ..View::default() };
    let (turned, _) = with(more).seen(view).unwrap().scan(1, 0);
    let [nx, ny, _] = plain.shape;
    assert!(plain.values[plain.index(25, 5, 15)] > 0.7);
    for (i, j, k) in [(25, 5, 15), (15, 12, 10), (3, 4, 5)] {
        assert_eq!(plain.values[plain.index(i, j, k)], turned.values[turned.index(nx - 1 - i, ny - 1 - j, k)]);
    }
    assert_eq!(View::flips("ras"), Ok([false; 3]));
    assert!(["", "RA", "ARS", "RASX", "LPX"].into_iter().all(|axes| View::flips(axes).is_err()));
}

#[test]
fn everything_wrong_is_said_together_with_its_line_and_the_remedy() {
    let text = r#"
classes = ["ball", "ghost"]
colour = "red"
[tissue.a]
intensity = [3, 1]
[tissue.b]
gloss = 1
[[part]]
name = "ball"
shape = "sphere"
size_mm = [1, 2, 3, 4]
place = { touching = "later", towards = "leftish" }
tissue = "c"
class = "ball"
layer = 1.5
[[part]]
name = "ball"
shape = "tube"
from = { at_mm = 0, inside = "ball" }
to = { length_mm = -3 }
tissue = "a"
chance = 2
"#;
    let found = problems(text);
    for part in [
        "`about` is missing",
        "line 3: the recipe: `colour`: unknown key; known here are",
        "line 5: [tissue]: `a`: `intensity`: must be a number from -5000 to 5000, or [least, most]",
        "line 7: [tissue]: `b`: `gloss`: unknown key; known here are `intensity`, `vary`, `texture`",
        "`shape`: must be one of \"ellipsoid\", \"box\", \"tube\"",
        "line 11: part `ball`: `size_mm`",
        "there is no part \"later\" before this place; there are none yet",
        "`towards` must be a direction in words",
        "there is no tissue \"c\" before this place; there are \"a\", \"b\"",
        "`layer`: must be a whole number",
        "two parts are called \"ball\"",
        "no part has the class \"ghost\"",
        "`diameter_mm` is missing",
        "give exactly one of `at_mm`, `touching`",
        "`length_mm`: must be a number from 0.1",
        "`chance`: must be a number from 0 to 1",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
    let tip = "[[part]]\nname = \"tip\"\nshape = \"box\"\nsize_mm = 1\ntissue = \"a\"\nplace = { end_of = \"ball\" }\n";
    assert!(problems(&format!("{TINY}{tip}")).contains("\"ball\" has no start and no end"));
    assert!(problems("about = = 1").contains("line 1: this is not TOML"));
    assert!(problems("").contains("`part` is missing"));
}

#[test]
fn hostile_recipes_are_refused_before_anything_large_is_made() {
    let huge = TINY.replace("[60, 50, 40]", "2000").replace("spacing_mm = 2\n", "spacing_mm = 0.1\n");
    assert!(matches!(Recipe::parse("huge", &huge), Err(RecipeError::View { .. })));
    let view = |shape, spacing| View { shape: Some(shape), spacing_mm: Some([spacing; 3]), ..View::default() };
    for (shape, spacing) in
        [([0, 8, 8], 1.0), ([1 << 40, 8, 8], 1.0), ([1000; 3], 1.0), ([8; 3], 0.0), ([8; 3], f64::NAN)]
    {
        assert!(with("").seen(view(shape, spacing)).is_err(), "{shape:?} {spacing}");
    }
    for bad in [
        "size_mm = nan",
        "size_mm = inf",
        "size_mm = -1",
        "size_mm = 1e300",
        "size_mm = \"x\"",
        "size_mm = [[1, 2], 3]",
    ] {
        assert!(problems(&TINY.replace("size_mm = 24", bad)).contains("`size_mm`"), "{bad}");
    }
    assert!(problems(&format!("{TINY}count = 4000000000\n")).contains("`count`"));
    let parts: String = (0..300)
        .map(|at| {
            format!(
                "[[part]]\nname = \"{at}\"\nshape = \"box\"\nsize_mm = 1\nplace = {{ at_mm = 0 }}\ntissue = \"a\"\n"
            )
        })
        .collect();
    assert!(problems(&format!("{TINY}{parts}")).contains("at most 200 parts"));
    let deep = format!("about = {}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(Recipe::parse("deep", &deep).is_err());
    // The finest grid of all, and a warp and a grain of almost nothing, still make a volume.
    let extreme = "[warp]\namount_mm = 200\nlength_mm = 10\n[acquisition]\ngrain_mm = 2\nblur_mm = 50\nnoise = 5000\n";
    let (image, _) = with(extreme).scan(1, 0);
    assert!(image.values.iter().all(|value| value.is_finite()));
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered(text in "[a-z_=\\[\\]{}\", .0-9\\n-]{0,200}") {
        let _ = Recipe::parse("any", &text);
        let _ = Recipe::parse("any", &format!("{TINY}{text}"));
    }
}
