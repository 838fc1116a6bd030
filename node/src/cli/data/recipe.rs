//! `data synth --recipe`: volumes of a synthetic anatomy, and how fast they are made.

use std::{io::Write, time::Instant};

use serde_json::json;

use super::{DataCommandError, SynthArgs};
use crate::{
    cli::{Exit, Format, print},
    data::{
        preview::write_preview,
        recipe::{Recipe, SHIPPED, View, write_scans},
    },
};

/// Shows the shipped recipes in place of a recipe.
const LIST: &str = "list";

pub(super) fn run(
    args: &SynthArgs,
    name: &str,
    view: View,
    format: Format,
    out: &mut dyn Write,
) -> Result<Exit, DataCommandError> {
    if name == LIST {
        return list(format, out);
    }
    let recipe = Recipe::open(name)?;
    if args.print {
        let shipped = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
        let text = shipped.map_or_else(|| std::fs::read_to_string(name), |(_, text)| Ok((*text).to_owned()))?;
        write!(out, "{text}")?;
        return Ok(Exit::Done);
    }
    let recipe = recipe.seen(view)?;
    if let Some(picture) = &args.preview {
        let (image, classes) = recipe.scan(args.seed, 0);
        write_preview(picture, &image, &classes, Some(&classes))?;
    }
    let start = Instant::now();
    let making = write_scans(&recipe, args.seed, args.count, args.out.as_deref())?.as_secs_f64();
    let (seconds, count) = (start.elapsed().as_secs_f64().max(1e-9), args.count);
    let per_volume = 1000.0 * making / (count as f64).max(1.0);
    let rate = count as f64 / seconds;
    let done = args.out.as_ref().map_or("made".to_owned(), |folder| format!("wrote to {}:", folder.display()));
    let words = format!(
        "{done} {count} volumes of `{name}` in {seconds:.2} s, {rate:.1} volumes/s; making one takes {per_volume:.1} ms of a core"
    );
    let value = json!({
        "recipe": name, "classes": recipe.classes(), "out": args.out, "count": count, "seed": args.seed,
        "seconds": seconds, "volumes_per_s": rate, "core_ms_per_volume": per_volume,
    });
    print(out, format, &words, &value)?;
    Ok(Exit::Done)
}

fn list(format: Format, out: &mut dyn Write) -> Result<Exit, DataCommandError> {
    for (name, _) in SHIPPED {
        let recipe = Recipe::open(name)?;
        let words = format!("{name:<18} {}\n{:18} classes: {}", recipe.about(), "", recipe.classes().join(", "));
        let value = json!({ "recipe": name, "about": recipe.about(), "classes": recipe.classes() });
        print(out, format, &words, &value)?;
    }
    Ok(Exit::Done)
}
