//! Attention within windows of the token grid, as the published network computes it, without paying for its padding.
//!
//! A grid that its windows do not divide is padded with zeros at the high end of each axis, after the norm, and nothing
//! masks the padding: a padded token has the bias of the projection for query, key and value, and takes part in every softmax
//! of its window. What its own query would give is thrown away, so only real tokens ask here.
//!
//! The logit of the query q(a, b, c) and the key at (x, y, z) of a window of s tokens a side is
//!
//! ```text
//! q(a,b,c)·k(x,y,z) / √head  +  q(a,b,c)·Rd[a-z+s-1]  +  q(a,b,x)·Rh[b-z+s-1]  +  q(a,b,y)·Rw[y-z+s-1]
//! ```
//!
//! These are not the relative positions that the names promise: the published code adds the three terms along other axes
//! than it computed them for, which fits in shape because windows are cubes, and its weights were trained so. The
//! reference values tell (spec/semisam.md, section 7.3, has the terms as they were meant).
//!
//! All padded keys become one. Their values are equal, and a softmax that gives equal values the weights e^s, e^t, ..
//! gives one of them the weight e^log(e^s + e^t + ..). For a given z that sum over x and y is a product of one sum over x
//! and one over y. At the published size this leaves 513 keys of 2744, exactly.
//!
//! The first relative term is part of the product of queries and keys: queries are continued by it, keys by a one where
//! z says, and the padded key's logit is the last column. The other two do not depend on c: they are a row that the
//! queries of one (a, b) share.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use semisam_shared::weights;

use super::{
    attention::attend,
    linear::{Linear, Parts},
    operator::TransformerBackend,
};

/// The attention of one block of the image encoder.
#[derive(Debug)]
pub(super) struct WindowAttention<B: Backend> {
    grid: [usize; 3],
    side: usize,
    heads: usize,
    projection: Linear<B>,
    out: Linear<B>,
    /// For d, h and w [place, head width, place]: what the query at one place is multiplied with for a key at another.
    relative: [Tensor<B, 3>; 3],
}

/// The relative terms of a window's logits, for each place z of the key along the last axis.
struct Relative<B: Backend> {
    /// Of the query: [heads, tokens, side].
    query: Tensor<B, 3>,
    /// Of the key's place x, shared by the queries of (a, b): [heads, a * b, side, side].
    first: Tensor<B, 4>,
    /// Of the key's place y, likewise.
    second: Tensor<B, 4>,
}

impl<B: TransformerBackend> WindowAttention<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, path: &str, grid: [usize; 3], side: usize) -> Self {
        let (projection, out) =
            (Linear::take(parts, &format!("{path}.qkv")), Linear::take(parts, &format!("{path}.proj")));
        let mut head = 1;
        let relative = ["d", "h", "w"].map(|axis| {
            let table = parts.host(&format!("{path}.rel_pos_{axis}"));
            head = table.shape[1];
            by_offset(&table, side, parts.device())
        });
        let heads = out.bias().dims()[1] / head;
        Self { grid, side, heads, projection, out, relative }
    }

    /// [tokens, width] -> [tokens, width], tokens in the order d, h, w.
    pub(super) fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let [tokens, width] = x.dims();
        let projected = self.projection.forward(x);
        let attended = if self.grid.iter().all(|extent| *extent <= self.side) {
            self.within(projected, self.grid)
        } else {
            let [d, h, w] = self.grid;
            self.over_windows(projected.reshape([d, h, w, 3 * width])).reshape([tokens, width])
        };
        self.out.forward(attended)
    }

    /// [d, h, w, 3 * width] -> [d, h, w, width], window by window.
    fn over_windows(&self, projected: Tensor<B, 4>) -> Tensor<B, 4> {
        let starts = |axis: usize| (0..self.grid[axis]).step_by(self.side);
        let part = |axis: usize, start: usize| start..(start + self.side).min(self.grid[axis]);
        let slabs = starts(0).map(|d| {
            let columns = starts(1).map(|h| {
                let windows = starts(2).map(|w| {
                    let ranges = [part(0, d), part(1, h), part(2, w)];
                    let extents = ranges.clone().map(|range| range.len());
                    let [a, b, c] = ranges;
                    let of_window = projected.clone().slice([a, b, c]);
                    let [a, b, c, width] = of_window.dims();
                    self.within(of_window.reshape([a * b * c, width]), extents).reshape([a, b, c, width / 3])
                });
                Tensor::cat(windows.collect(), 2)
            });
            Tensor::cat(columns.collect(), 1)
        });
        Tensor::cat(slabs.collect(), 0)
    }

    /// One window of which `extents` tokens are real: [tokens, 3 * width] -> [tokens, width].
    fn within(&self, projected: Tensor<B, 2>, extents: [usize; 3]) -> Tensor<B, 2> {
        let [tokens, width] = projected.dims();
        let (heads, head) = (self.heads, width / 3 / self.heads);
        let split = |x: Tensor<B, 2>| -> [Tensor<B, 3>; 3] {
            let rows = x.dims()[0];
            let x: Tensor<B, 3> = x.reshape([rows, 3 * heads, head]).swap_dims(0, 1);
            [0, 1, 2].map(|part| x.clone().narrow(0, part * heads, heads))
        };
        let [queries, keys, values] = split(projected);
        let [padded_query, padded_key, padded_value] = split(self.projection.bias());
        // laid out head by head once, because it is read in several ways
        let queries: Tensor<B, 3> = queries.reshape([heads * tokens, head]).reshape([heads, tokens, head]);
        let relative = self.relative(&queries, padded_query, extents);
        let scaled = queries.mul_scalar((head as f32).sqrt().recip());
        let mut shared = relative.shared(extents);
        let places = places(extents, &scaled.device()).expand([heads as i64, -1, -1]);
        let mut queries = vec![scaled.clone(), relative.query.clone().narrow(2, 0, extents[2])];
        let (mut keys, mut values) = (vec![keys, places], values);
        if extents != [self.side; 3] {
            queries.push(scaled.matmul(padded_key.swap_dims(1, 2)) + relative.of_padding(extents));
            keys = with_padded_key(keys);
            values = Tensor::cat(vec![values, padded_value], 1);
            let nothing = Tensor::zeros([heads, extents[0] * extents[1], 1], &shared.device());
            shared = Tensor::cat(vec![shared, nothing], 2);
        }
        attend(Tensor::cat(queries, 2), Tensor::cat(keys, 2), values, Some(shared))
    }

    /// The relative terms of `queries` [heads, tokens, head], the padded ones along the last axis included.
    fn relative(&self, queries: &Tensor<B, 3>, padded: Tensor<B, 3>, [d, h, w]: [usize; 3]) -> Relative<B> {
        let [heads, tokens, head] = queries.dims();
        let (side, [of_d, of_h, of_w]) = (self.side, self.relative.clone());
        let query: Tensor<B, 4> =
            queries.clone().reshape([heads, d, h * w, head]).matmul(of_d.narrow(0, 0, d).unsqueeze());
        let mut rows: Tensor<B, 4> = queries.clone().reshape([heads, d * h, w, head]);
        if w < side {
            let padding = padded.unsqueeze_dim::<4>(1).expand([heads, d * h, side - w, head]);
            rows = Tensor::cat(vec![rows, padding], 2); // [heads, d * h, side, head]
        }
        let first: Tensor<B, 4> =
            rows.clone().reshape([heads * d, h, side, head]).matmul(of_h.narrow(0, 0, h).unsqueeze());
        let second: Tensor<B, 4> = rows.swap_dims(1, 2).matmul(of_w.unsqueeze()).swap_dims(1, 2);
        Relative {
            query: query.reshape([heads, tokens, side]),
            first: first.reshape([heads, d * h, side, side]),
            second,
        }
    }
}

impl<B: Backend> Relative<B> {
    /// What the queries of one (a, b) share, for each real key: [heads, a * b, tokens].
    fn shared(&self, [d, h, w]: [usize; 3]) -> Tensor<B, 3> {
        let part = |terms: &Tensor<B, 4>, places: usize| terms.clone().narrow(2, 0, places).narrow(3, 0, w);
        let first: Tensor<B, 5> = part(&self.first, d).unsqueeze_dim(3);
        let second: Tensor<B, 5> = part(&self.second, h).unsqueeze_dim(2);
        let [heads, rows, ..] = self.first.dims();
        (first + second).reshape([heads, rows, d * h * w])
    }

    /// The logarithm of the summed exponentials of these terms over all padded keys: [heads, tokens, 1].
    ///
    /// Padded are the keys with z beyond `w`; of the others those with x beyond `d`, and those with y alone beyond `h`.
    fn of_padding(&self, [d, h, w]: [usize; 3]) -> Tensor<B, 3> {
        let [heads, rows, side, _] = self.first.dims();
        let sum = |terms: &Tensor<B, 4>, from: usize, to: usize, last: usize| {
            (to > from).then(|| log_sum_exp(terms.clone().narrow(3, 0, last).narrow(2, from, to - from), 2))
        };
        let of_both = |a: Option<Tensor<B, 4>>, b: Option<Tensor<B, 4>>| Some(a? + b?);
        let (first, second) = (&self.first, &self.second);
        let boxes = [
            of_both(sum(first, d, side, w), sum(second, 0, side, w)),
            of_both(sum(first, 0, d, w), sum(second, h, side, w)),
        ];
        let boxes: Vec<_> = boxes.into_iter().flatten().collect();
        let start = if boxes.is_empty() { w } else { 0 };
        let mut by_place = Vec::new(); // [heads, a * b, 1, places]
        if !boxes.is_empty() {
            by_place.push(log_sum_exp(Tensor::cat(boxes, 2), 2));
        }
        if let (true, Some(all)) = (side > w, of_both(sum(first, 0, side, side), sum(second, 0, side, side))) {
            by_place.push(all.narrow(3, w, side - w));
        }
        let query = self.query.clone().reshape([heads, rows, w, side]).narrow(3, start, side - start);
        let terms = query + Tensor::cat(by_place, 3);
        log_sum_exp(terms, 3).reshape([heads, rows * w, 1])
    }
}

/// [rows of distances, head width] -> [place, head width, place].
fn by_offset<B: Backend>(table: &weights::Tensor, side: usize, device: &B::Device) -> Tensor<B, 3> {
    let head = table.shape[1];
    let mut values = Vec::with_capacity(side * head * side);
    for from in 0..side {
        for number in 0..head {
            values.extend((0..side).map(|to| table.values[(from + side - 1 - to) * head + number]));
        }
    }
    Tensor::from_data(TensorData::new(values, [side, head, side]), device)
}

/// A one where a token is along the last axis: [1, tokens, w].
fn places<B: Backend>([d, h, w]: [usize; 3], device: &B::Device) -> Tensor<B, 3> {
    let mut values = vec![0.0_f32; d * h * w * w];
    values.chunks_exact_mut(w).enumerate().for_each(|(token, row)| row[token % w] = 1.0);
    Tensor::from_data(TensorData::new(values, [1, d * h * w, w]), device)
}

/// The keys, continued by a column that only the padded key has, which has nothing else.
fn with_padded_key<B: Backend>(keys: Vec<Tensor<B, 3>>) -> Vec<Tensor<B, 3>> {
    let keys = Tensor::cat(keys, 2);
    let [heads, tokens, columns] = keys.dims();
    let device = keys.device();
    let nothing = |shape| Tensor::<B, 3>::zeros(shape, &device);
    let column = Tensor::cat(vec![nothing([heads, tokens, 1]), Tensor::ones([heads, 1, 1], &device)], 1);
    vec![Tensor::cat(vec![keys, nothing([heads, 1, columns])], 1), column]
}

/// Along an axis, which stays with one entry.
fn log_sum_exp<B: Backend>(x: Tensor<B, 4>, axis: usize) -> Tensor<B, 4> {
    let most = x.clone().max_dim(axis);
    (x - most.clone()).exp().sum_dim(axis).log() + most
}

#[cfg(test)]
mod tests;
