use sha2::{Digest as _, Sha256};

use super::*;
use crate::privacy::noise::stream::Key;

/// Entries, their number and their digest from an independent computation: mpmath 1.3, 600 binary digits.
#[test]
fn the_table_is_that_of_another_program() {
    let known = [
        (0, 10, 10_521_071_843_634_112_299, "42b7f11c2b937d223c92f8e8e91c866d620baaeb2a2da58672c056d1e7fb064b"),
        (1, 19, 6_135_359_076_264_090_555, "ec7410603dd06d0212e62dcd0085913a790022c34802e078c7abf9b4b652112c"),
        (2, 38, 3_345_888_933_134_957_103, "bacf0be539d99888bfb18bdda15c04294e092d13a339e10f933fbd59eb152133"),
        (3, 76, 1_752_407_839_239_387_073, "f773599c36890896bd1b00690a2a5800a9319bfd863ca4df7a042c2942a9da69"),
        (4, 151, 897_519_610_827_870_491, "f723f860b8ca62bc8337cd0776f8c75ef62b3f7e88a790a4161ea779b7e1038f"),
    ];
    for (m, count, first, digest) in known {
        let steps = Steps::new(m, 64);
        assert_eq!((steps.cells.len(), steps.cells[0], &steps.scale), (count, first, &UBig::from(first)));
        let bytes: Vec<u8> = steps.cells.iter().flat_map(|cell| cell.to_le_bytes()).collect();
        assert_eq!(hex::encode(Sha256::digest(&bytes)), digest, "m = {m}");
        assert!(
            steps.cells.is_sorted() && u64::MAX - steps.cells[count - 1] < 10,
            "nothing to speak of is thrown away"
        );
    }
}

/// exp(-1/512) to 60 digits (mpmath), and that more digits only ever narrow the bounds.
#[test]
fn bounds_hold_the_truth_and_narrow() {
    let digits = 190;
    let known = "998048781107475472710042659082673595255937528615535682186430";
    let truth: UBig = known.parse().expect("digits");
    let scaled = (truth << digits) / UBig::from(10_u8).pow(60);
    let [low, high] = Bounds::first(4, digits).ratio;
    assert!(low <= scaled && scaled <= high && high - low < UBig::from(1000_u16));
    for m in [0, 2, 4] {
        let (mut rough, mut fine) = (Bounds::first(m, 80), Bounds::first(m, 700));
        for step in 0..300 {
            let pairs = [
                (&rough.density, &fine.density),
                (&rough.sum, &fine.sum),
                (&rough.ratio, &fine.ratio),
                (&rough.square, &fine.square),
            ];
            for (rough, fine) in pairs {
                let [low, high] = rough.each_ref().map(|bound| bound << 620_usize);
                assert!(low <= fine[0] && fine[0] <= fine[1] && fine[1] <= high, "m = {m}, step {step}");
            }
            (rough, fine) = (rough.next(), fine.next());
        }
    }
}

/// The bound of the rest is one: held against the sum of the steps behind, far into them.
#[test]
fn the_rest_is_bounded() {
    for m in 0..=4 {
        let all: Vec<Bounds> =
            successors(Some(Bounds::first(m, 400)), |bounds| Some(bounds.next())).take(420).collect();
        let last = &all[419].sum[0];
        for bounds in &all[..400] {
            match bounds.rest(m) {
                None => assert!(bounds.step + 1 < 1 << m),
                Some(rest) => assert!(last - &bounds.sum[0] <= rest, "m = {m}, step {}", bounds.step),
            }
        }
    }
}

/// Every word of six to nine bits with every first eight digits behind it, against plain inversion in floating point.
#[test]
fn short_words_are_refined_to_the_right_step() {
    for (m, bits) in [(0, 6), (1, 7), (2, 8), (4, 9)] {
        let steps = Steps::new(m, bits);
        let scale = u64::try_from(&steps.scale).expect("short") as f64;
        let density = |h: u64| (-((h * h) as f64) / f64::from(1 << (2 * m + 1))).exp();
        let sums: Vec<f64> = (0..400)
            .scan(0.0, |sum, h| {
                Some({
                    *sum += density(h);
                    *sum * scale
                })
            })
            .collect();
        for drawn in 0..1_u64 << (bits + 8) {
            let (least, most) = (drawn as f64 / 256.0, (drawn + 1) as f64 / 256.0);
            let step = sums.iter().position(|sum| least < *sum);
            let open = sums.iter().any(|sum| least + 1e-9 < *sum && *sum < most - 1e-9);
            match steps.decided(&UBig::from(drawn), 8) {
                // Just behind the end, the rest is only bounded, and one more word decides.
                None => assert!(open || near(&sums, least - 1.0 / 256.0, most), "{drawn} is decided"),
                Some(found) => assert!(!open && found == step.map(|step| step as u64), "{drawn}: {found:?} {step:?}"),
            }
        }
    }
}

fn near(sums: &[f64], least: f64, most: f64) -> bool {
    sums.iter().any(|sum| (least - 1e-9..=most + 1e-9).contains(sum))
}

/// Whatever the length of the first word, the distribution is the same: with six bits almost every tenth draw is refined.
#[test]
fn steps_follow_the_exact_distribution_whatever_the_table() {
    for (m, bits) in [(0, 64), (4, 64), (0, 4), (2, 6), (4, 6), (4, 9), (4, 12)] {
        // A refined draw takes a thousand times as long.
        let count = if bits == 64 { 1_000_000 } else { 30_000 };
        let steps = Steps::new(m, bits);
        let mut stream = Key::known(m as u8 + 10).stream(u64::from(bits));
        let cells = (3 << m) + 1;
        let mut observed = vec![0.0; cells];
        (0..count).for_each(|_| observed[(steps.draw(&mut stream) as usize).min(cells - 1)] += 1.0);
        let weight = |h: usize| (-((h * h) as f64) / f64::from(1 << (2 * m + 1))).exp();
        let total: f64 = (0..400).map(weight).sum();
        let mut expected: Vec<f64> = (0..cells).map(|h| weight(h) / total).collect();
        expected[cells - 1] = (cells - 1..400).map(weight).sum::<f64>() / total;
        super::super::tests::fits(&observed, &expected, &format!("m = {m}, {bits} bits"));
    }
}

/// The word that equals an entry, and the one behind the table, are left open and decided by what follows.
#[test]
fn words_on_a_boundary_are_refined() {
    let steps = Steps::new(4, 64);
    let decided = |word: u64, next: u64| steps.decided(&((UBig::from(word) << 64_usize) + UBig::from(next)), 64);
    let first = steps.cells[0];
    assert_eq!(decided(first, 0), Some(Some(1)), "S · G(0) is an integer, and U is not below it");
    for step in [1, 77, 140] {
        let cell = steps.cells[step];
        assert_eq!(decided(cell, 0), Some(Some(step as u64)), "the least digits are below the bound");
        assert_eq!(decided(cell, u64::MAX), Some(Some(step as u64 + 1)), "the most digits are above it");
        assert_eq!(decided(cell - 1, u64::MAX), Some(Some(step as u64)));
        assert_eq!(decided(cell + 1, 0), Some(Some(step as u64 + 1)));
    }
    assert_eq!(decided(u64::MAX, u64::MAX), Some(None), "behind everything");
    let last = *steps.cells.last().expect("entries");
    let far = (last..=u64::MAX).filter_map(|word| decided(word, 1 << 63)).flatten();
    assert!(far.into_iter().all(|step| step >= 140));
    let mut stream = Key::known(1).stream(0);
    assert_eq!(steps.refined(u64::MAX, &mut stream), None);
}
