//! Dice against the number of labelled scans, as a picture (SVG) for the README.

use std::fmt::Write;

use clap::ValueEnum;
use semisam_node::train::local::Method;

use super::{
    baselines::Baseline,
    runs::{Of, Settings, Start, name},
};
use crate::bench::record::{Record, Spread};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Left, top, right, bottom of what is drawn into; names of lines stand on the right.
const FRAME: [f64; 4] = [60.0, 30.0, 520.0, 370.0];
/// Of Okabe and Ito, to be told apart by everybody.
const COLOURS: [&str; 7] = ["#000000", "#0072b2", "#56b4e9", "#d55e00", "#cc79a7", "#009e73", "#e69f00"];

/// A line of the picture.
struct Line {
    name: String,
    colour: &'static str,
    dashed: bool,
    /// Position among the numbers of labels, mean, deviation.
    points: Vec<(usize, f64, f64)>,
}

/// The picture; a warm start is a full line, random weights a dashed one.
pub fn plot(settings: &Settings, record: &Record<Of>) -> String {
    let lines = lines(settings, record);
    let zero_shot = record.find(&Of::baseline(Baseline::ZeroShot, settings)).map(|score| score.dice);
    let shown = lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)).chain(zero_shot);
    let (low, high) = shown.fold((1.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return String::new();
    }
    let (low, high) = ((low * 20.0 - 0.2).floor() / 20.0, (high * 20.0 + 0.2).ceil() / 20.0);
    let y = |dice: f64| FRAME[3] - (dice - low) / (high - low) * (FRAME[3] - FRAME[1]);
    let last = settings.labels.len().saturating_sub(1).max(1) as f64;
    let x = |at: usize| FRAME[0] + 30.0 + at as f64 / last * (FRAME[2] - FRAME[0] - 60.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    grid(&mut svg, settings, (low, high), (&x, &y));
    if let Some(dice) = zero_shot {
        let at = y(dice);
        let _ =
            writeln!(svg, "<path d=\"M{} {at:.1}H{}\" stroke=\"#777\" stroke-dasharray=\"2 3\"/>", FRAME[0], FRAME[2]);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" fill=\"#777\">no real scan</text>", FRAME[0] + 4.0, at - 4.0);
    }
    for line in &lines {
        draw(&mut svg, line, (&x, &y));
    }
    names(&mut svg, &lines, &y);
    svg + "</svg>\n"
}

fn lines(settings: &Settings, record: &Record<Of>) -> Vec<Line> {
    let mut lines = Vec::new();
    for &start in &settings.starts {
        for &method in &settings.methods {
            // the same in every picture, whatever else is in it
            let place = Method::value_variants().iter().position(|other| *other == method).unwrap_or(0);
            let colour = COLOURS[place % COLOURS.len()];
            let point = |(at, labels): (usize, &usize)| {
                let scores = (1..=settings.seeds)
                    .filter_map(|seed| record.find(&Of::training(&settings.run(start, method, *labels, seed))))
                    .map(|score| score.dice);
                let Spread { mean, deviation } = Spread::of(&scores.collect::<Vec<_>>())?;
                Some((at, mean, deviation.unwrap_or(0.0)))
            };
            let points: Vec<_> = settings.labels.iter().enumerate().filter_map(point).collect();
            let dashed = start == Start::Scratch;
            let name = if dashed { format!("{}, from scratch", name(method)) } else { name(method) };
            lines.extend((!points.is_empty()).then_some(Line { name, colour, dashed, points }));
        }
    }
    lines
}

type Axes<'a> = (&'a dyn Fn(usize) -> f64, &'a dyn Fn(f64) -> f64);

fn grid(svg: &mut String, settings: &Settings, (low, high): (f64, f64), (x, y): Axes<'_>) {
    let [left, _, right, bottom] = FRAME;
    for twentieth in (low * 20.0).round() as u32..=(high * 20.0).round() as u32 {
        let dice = f64::from(twentieth) / 20.0;
        let _ = writeln!(svg, "<path d=\"M{left} {:.1}H{right}\" stroke=\"#e4e4e4\"/>", y(dice));
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{dice:.2}</text>", left - 8.0, y(dice) + 4.0);
    }
    for (at, labels) in settings.labels.iter().enumerate() {
        let _ =
            writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{labels}</text>", x(at), bottom + 20.0);
    }
    let middle = (left + right) / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">labelled scans, at {} mm</text>",
        bottom + 42.0,
        settings.spacing_mm
    );
    let of = match settings.seeds {
        1 => "one seed".to_owned(),
        seeds => format!("mean and deviation over {seeds} seeds"),
    };
    let _ = writeln!(svg, "<text x=\"{}\" y=\"18\">Dice, {of}</text>", left - 40.0);
}

fn draw(svg: &mut String, line: &Line, (x, y): Axes<'_>) {
    let dashes = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
    let points: Vec<String> =
        line.points.iter().map(|(at, mean, _)| format!("{:.1},{:.1}", x(*at), y(*mean))).collect();
    let colour = line.colour;
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
        points.join(" ")
    );
    for (at, mean, deviation) in &line.points {
        let (x, from, to) = (x(*at), y(mean - deviation), y(mean + deviation));
        let _ = writeln!(svg, "<path d=\"M{x:.1} {from:.1}V{to:.1}\" stroke=\"{colour}\" stroke-opacity=\"0.4\"/>");
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>", y(*mean));
    }
}

/// Names at the ends of lines, moved apart where they would cover each other.
fn names(svg: &mut String, lines: &[Line], y: &dyn Fn(f64) -> f64) {
    let mut ends: Vec<(f64, &Line)> = lines.iter().filter_map(|line| Some((y(line.points.last()?.1), line))).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let height = 16.0 * ends.len() as f64;
    let mut lowest = FRAME[1].max(ends.first().map_or(0.0, |end| end.0).min(FRAME[3] - height));
    for (at, line) in ends {
        lowest = lowest.max(at.min(FRAME[3]));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
            FRAME[2] + 8.0,
            lowest + 4.0,
            line.colour,
            line.name
        );
        lowest += 16.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::accuracy::runs::tests::settings;
    use crate::bench::record::Score;

    #[test]
    fn a_picture_has_a_line_and_a_name_for_each_method_with_results() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut record = Record::open(&folder.path().join("runs.jsonl")).expect("nothing yet");
        let settings = Settings {
            methods: vec![Method::Supervised, Method::Semisam],
            labels: vec![1, 2, 4],
            seeds: 1,
            ..settings()
        };
        assert_eq!(plot(&settings, &record), "");
        for (labels, dice) in [(1, 0.61), (2, 0.7), (4, 0.79)] {
            let score = Score { dice, hd95_mm: None, assd_mm: None, undefined: 0 };
            record
                .add(Of::training(&settings.run(Start::Warm, Method::Semisam, labels, 1)), score, Some(1.0))
                .expect("written");
        }
        let svg = plot(&settings, &record);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (1, 3));
        assert!(svg.contains(">semisam</text>") && !svg.contains(">supervised</text>"), "{svg}");
        assert!(svg.contains(">0.60</text>") && svg.contains(">0.80</text>") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(!svg.contains("NaN"));
    }
}
