use proptest::prelude::*;

use super::*;
use crate::testing::{draw, on_threads};

/// Softmax and sum by definition, in f64, over keys given one by one; [queries, heads, width].
fn expected(
    extents: &Attention,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    addend: impl Fn(usize, usize, usize) -> f32,
) -> Vec<f64> {
    let Attention { heads, queries, width, scale, .. } = *extents;
    let keys = k.len() / (heads * width);
    let mut out = Vec::new();
    for (query, head) in (0..queries).flat_map(|query| (0..heads).map(move |head| (query, head))) {
        let q = &q[(head * queries + query) * width..][..width];
        let of = |rows: &'_ [f32], key: usize, at: usize| f64::from(rows[(head * keys + key) * width + at]);
        let score = |key: usize| {
            let product: f64 = q.iter().enumerate().map(|(at, q)| f64::from(*q) * of(k, key, at)).sum();
            product * f64::from(scale) + f64::from(addend(head, query, key))
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend(
            (0..width)
                .map(|at| weights.iter().enumerate().map(|(key, weight)| weight * of(v, key, at)).sum::<f64>() / total),
        );
    }
    out
}

fn check(found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        prop_assert!((f64::from(*found) - expected).abs() < 2e-5, "{} for {}", found, expected);
    }
    Ok(())
}

fn paths() -> impl Iterator<Item = Path> {
    Path::ALL.into_iter().filter(|path| path.available())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn without_positions(
        heads in 1_usize..4, queries in 1_usize..60, keys in 1_usize..300, width in 1_usize..80, seed: u64,
    ) {
        let extents = Attention { heads, queries, keys, width, scale: 0.5 / (width as f32).sqrt(), positions: None };
        let [q, k, v] = [(0, queries), (1, keys), (2, keys)].map(|(salt, count)| draw(seed ^ salt, heads * count * width));
        let y = expected(&extents, &q, &k, &v, |_, _, _| 0.0);
        for path in paths() {
            let tokens = [(&q, queries), (&k, keys), (&v, keys)].map(|(x, count)| Tokens::by_head(x, count, width));
            check(&extents.attend_with(tokens[0], tokens[1], tokens[2], path), &y)?;
        }
    }

    /// Against all keys of the window one by one, the padded ones included.
    #[test]
    fn with_positions_and_padding(
        heads in 1_usize..3, queries in 1_usize..40, width in 1_usize..40,
        grid in prop::array::uniform3(1_usize..6), beyond in prop::array::uniform3(0_usize..4), seed: u64,
    ) {
        let window: [usize; 3] = std::array::from_fn(|axis| grid[axis] + beyond[axis]);
        let (keys, all): (usize, usize) = (grid.iter().product(), window.iter().product());
        let (q, key, value) = (draw(seed, heads * queries * width), draw(seed ^ 1, heads * width), draw(seed ^ 2, heads * width));
        let (k, v) = (draw(seed ^ 3, heads * keys * width), draw(seed ^ 4, heads * keys * width));
        let tables: [Vec<f32>; 3] = std::array::from_fn(|axis| draw(seed ^ (5 + axis as u64), heads * queries * window[axis]));
        let place = |key: usize| [key / (window[1] * window[2]), key / window[2] % window[1], key % window[2]];
        let addend = |head: usize, query: usize, key: usize| {
            (0..3).map(|axis| tables[axis][(head * queries + query) * window[axis] + place(key)[axis]]).sum()
        };
        let in_full = |given: &[f32], padding: &[f32]| -> Vec<f32> {
            let token = |at: usize| {
                let ([d, h, w], head) = (place(at % all), at / all);
                let within = d < grid[0] && h < grid[1] && w < grid[2];
                let from = head * keys + (d * grid[1] + h) * grid[2] + w;
                if within { &given[from * width..][..width] } else { &padding[head * width..][..width] }
            };
            (0..heads * all).flat_map(|at| token(at).to_vec()).collect()
        };
        let scale = 0.5 / (width as f32).sqrt();
        let padding = Padding { grid, key: &key, value: &value };
        let positions = Positions { window, tables: [&tables[0], &tables[1], &tables[2]], padding: Some(padding) };
        let short = Attention { heads, queries, keys, width, scale, positions: Some(positions) };
        let full = Attention { keys: all, positions: Some(Positions { padding: None, ..positions }), ..short };
        let (all_k, all_v) = (in_full(&k, &key), in_full(&v, &value));
        let y = expected(&full, &q, &all_k, &all_v, addend);
        for path in paths() {
            let of = |x, count| Tokens::by_head(x, count, width);
            check(&full.attend_with(of(&q, queries), of(&all_k, all), of(&all_v, all), path), &y)?;
            check(&short.attend_with(of(&q, queries), of(&k, keys), of(&v, keys), path), &y)?;
        }
    }
}

/// A fused projection [tokens, 3, heads, width] is read where it lies.
#[test]
fn queries_keys_and_values_may_lie_interleaved() {
    let (heads, tokens, width) = (3, 50, 20);
    let fused = draw(1, tokens * 3 * heads * width);
    let apart = [0, 1, 2].map(|part| {
        let of = |head: usize, token: usize| &fused[((token * 3 + part) * heads + head) * width..][..width];
        (0..heads).flat_map(|head| (0..tokens).flat_map(move |token| of(head, token).to_vec())).collect::<Vec<f32>>()
    });
    let extents = Attention { heads, queries: tokens, keys: tokens, width, scale: 0.1, positions: None };
    let [q, k, v] = [0, 1, 2].map(|part| Tokens::by_head(&apart[part], tokens, width));
    let [r, l, w] = [0, 1, 2].map(|part| Tokens::by_token(&fused, [part, 3], heads, width));
    assert_eq!(extents.attend(q, k, v), extents.attend(r, l, w));
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    let extents = Attention { heads: 1, queries: 2, keys: 300, width: 1, scale: 1.0, positions: None };
    let k: Vec<f32> = (0..300).map(|key| key as f32 - 150.0).collect();
    let v: Vec<f32> = (0..300).map(|key| key as f32).collect();
    for path in paths() {
        let of = |x, count| Tokens::by_head(x, count, 1);
        let found = extents.attend_with(of(&[100.0, -100.0], 2), of(&k, 300), of(&v, 300), path);
        assert!(found[0] == 299.0 && found[1].abs() < 1e-30, "{found:?}");
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    let extents = Attention { heads: 1, queries: 1, keys: 40, width: 3, scale: 1.0, positions: None };
    let (q, mut k, v) = (draw(1, 3), draw(2, 120), draw(3, 120));
    k[31] = f32::NAN;
    for path in paths() {
        let of = |x, count| Tokens::by_head(x, count, 3);
        assert!(extents.attend_with(of(&q, 1), of(&k, 40), of(&v, 40), path).iter().all(|y| y.is_nan()));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let extents = Attention { heads: 3, queries: 70, keys: 150, width: 24, scale: 0.2, positions: None };
    let (q, k, v) = (draw(1, 3 * 70 * 24), draw(2, 3 * 150 * 24), draw(3, 3 * 150 * 24));
    let of = |x, count| Tokens::by_head(x, count, 24);
    let attend = || extents.attend(of(&q, 70), of(&k, 150), of(&v, 150));
    let alone = on_threads(1, attend);
    assert!([2, 3].into_iter().all(|threads| on_threads(threads, attend) == alone));
}
