use proptest::prelude::*;

use super::*;
use crate::testing::{draw, on_threads};

/// Softmax and sum by definition, in f64; [queries, heads, value width].
fn expected(extents: &Attention, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
    let Attention { heads, queries, keys, width, value_width, scale, shared } = *extents;
    let mut out = Vec::new();
    for (query, head) in (0..queries).flat_map(|query| (0..heads).map(move |head| (query, head))) {
        let q = &q[(head * queries + query) * width..][..width];
        let score = |key: usize| {
            let k = &k[(head * keys + key) * width..][..width];
            let product: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            let row = |shared: Shared| (head * shared.groups + query / (queries / shared.groups)) * keys;
            product * f64::from(scale) + shared.map_or(0.0, |shared| f64::from(shared.rows[row(shared) + key]))
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend((0..value_width).map(|at| {
            let value = |key: usize| f64::from(v[(head * keys + key) * value_width + at]);
            weights.iter().enumerate().map(|(key, weight)| weight * value(key)).sum::<f64>() / total
        }));
    }
    out
}

fn paths() -> impl Iterator<Item = Path> {
    Path::ALL.into_iter().filter(|path| path.available())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn values_are_by_definition(
        heads in 1_usize..4, groups in 1_usize..5, members in 1_usize..15, keys in 1_usize..300,
        width in 1_usize..80, value_width in 1_usize..80, shared: bool, seed: u64,
    ) {
        let queries = groups * members;
        let (q, k) = (draw(seed, heads * queries * width), draw(seed ^ 1, heads * keys * width));
        let (v, rows) = (draw(seed ^ 2, heads * keys * value_width), draw(seed ^ 3, heads * groups * keys));
        let (scale, shared) = (0.5 / (width as f32).sqrt(), shared.then_some(Shared { groups, rows: &rows }));
        let extents = Attention { heads, queries, keys, width, value_width, scale, shared };
        let y = expected(&extents, &q, &k, &v);
        let (q, k) = (Tokens::by_head(&q, queries, width), Tokens::by_head(&k, keys, width));
        for path in paths() {
            let found = extents.attend_with(q, k, Tokens::by_head(&v, keys, value_width), path);
            prop_assert_eq!(found.len(), y.len());
            for (found, expected) in found.iter().zip(&y) {
                prop_assert!((f64::from(*found) - expected).abs() < 2e-5, "{} for {}", found, expected);
            }
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
    let extents =
        Attention { heads, queries: tokens, keys: tokens, width, value_width: width, scale: 0.1, shared: None };
    let [q, k, v] = [0, 1, 2].map(|part| Tokens::by_head(&apart[part], tokens, width));
    let [r, l, w] = [0, 1, 2].map(|part| Tokens::by_token(&fused, [part, 3], heads, width));
    assert_eq!(extents.attend(q, k, v), extents.attend(r, l, w));
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    let extents = Attention { heads: 1, queries: 2, keys: 300, width: 1, value_width: 1, scale: 1.0, shared: None };
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
    let extents = Attention { heads: 1, queries: 1, keys: 40, width: 3, value_width: 3, scale: 1.0, shared: None };
    let (q, mut k, v) = (draw(1, 3), draw(2, 120), draw(3, 120));
    k[31] = f32::NAN;
    for path in paths() {
        let of = |x, count| Tokens::by_head(x, count, 3);
        assert!(extents.attend_with(of(&q, 1), of(&k, 40), of(&v, 40), path).iter().all(|y| y.is_nan()));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let extents = Attention { heads: 3, queries: 70, keys: 150, width: 24, value_width: 24, scale: 0.2, shared: None };
    let (q, k, v) = (draw(1, 3 * 70 * 24), draw(2, 3 * 150 * 24), draw(3, 3 * 150 * 24));
    let of = |x, count| Tokens::by_head(x, count, 24);
    let attend = || extents.attend(of(&q, 70), of(&k, 150), of(&v, 150));
    let alone = on_threads(1, attend);
    assert!([2, 3].into_iter().all(|threads| on_threads(threads, attend) == alone));
}
