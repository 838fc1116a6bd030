//! Trilinear resizing of a batch of images, and its adjoint, which is its gradient.
//!
//! The map is a product of three, one per axis, and so is its adjoint: each is a sparse matrix with a few numbers per row.
//! Along w single numbers are gathered, along h and d whole rows and planes are combined, which vectors do; so w comes
//! first where there are fewer rows in the source, and last where there are fewer in the result. Nothing is scattered, and
//! the order of the sums is fixed by the sizes: the bits do not depend on the number of threads. Coordinates are PyTorch's (`torch.nn.functional.interpolate`, mode trilinear).

use rayon::prelude::*;

use crate::simd::{self, Kernel, Path, Vector};

/// How the grids of source and result lie on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// Voxels are boxes and the boxes' outer faces coincide (`align_corners=False`): result `j` of `m` is at
    /// `(j + 1/2) n / m - 1/2`, not below zero.
    Faces,
    /// The centres of the first and last voxels coincide (`align_corners=True`): `j (n - 1) / (m - 1)`.
    Centres,
}

/// A change of size from `from` to `to`, each [d, h, w].
#[derive(Clone, Debug)]
pub struct Resize {
    forward: [Taps; 3],
    adjoint: [Taps; 3],
}

impl Resize {
    /// Prepares the weights.
    ///
    /// # Panics
    /// If a side is zero.
    pub fn new(from: [usize; 3], to: [usize; 3], alignment: Alignment) -> Self {
        assert!(from.iter().chain(&to).all(|side| *side > 0), "no image has the sides {from:?} or {to:?}: one is zero");
        let forward: [Taps; 3] = std::array::from_fn(|axis| Taps::linear(from[axis], to[axis], alignment));
        let adjoint = std::array::from_fn(|axis| forward[axis].transposed());
        Self { forward, adjoint }
    }

    /// Images [.., from] in their new size [.., to].
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        resample(&self.forward, x, simd::path())
    }

    /// The gradient with respect to the images [.., from], from that of the result [.., to].
    pub fn gradient(&self, gradient: &[f32]) -> Vec<f32> {
        resample(&self.adjoint, gradient, simd::path())
    }
}

/// The weights along one axis as a matrix [to, from].
pub fn weights(from: usize, to: usize, alignment: Alignment) -> Vec<f32> {
    let (taps, mut matrix) = (Taps::linear(from, to, alignment), vec![0.0; to * from]);
    for (j, row) in matrix.chunks_exact_mut(from).enumerate() {
        taps.of(j).iter().for_each(|(at, weight)| row[*at] = *weight);
    }
    matrix
}

/// A sparse matrix by rows.
#[derive(Clone, Debug)]
struct Taps {
    /// Columns of the matrix.
    from: usize,
    /// Where the entries of each row end.
    ends: Vec<usize>,
    /// Column and weight of each entry.
    entries: Vec<(usize, f32)>,
}

impl Taps {
    fn linear(from: usize, to: usize, alignment: Alignment) -> Self {
        let (mut ends, mut entries) = (Vec::with_capacity(to), Vec::with_capacity(2 * to));
        for j in 0..to {
            let at = match alignment {
                Alignment::Faces => ((j as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
                Alignment::Centres if to == 1 => 0.0,
                Alignment::Centres => j as f64 * (from - 1) as f64 / (to - 1) as f64,
            };
            let low = (at as usize).min(from - 1);
            let share = (at - low as f64) as f32;
            if low + 1 < from && share > 0.0 {
                entries.extend([(low, 1.0 - share), (low + 1, share)]);
            } else {
                entries.push((low, 1.0));
            }
            ends.push(entries.len());
        }
        Self { from, ends, entries }
    }

    fn transposed(&self) -> Self {
        let mut rows = vec![Vec::new(); self.from];
        for j in 0..self.ends.len() {
            self.of(j).iter().for_each(|(from, weight)| rows[*from].push((j, *weight)));
        }
        let end = |end: &mut usize, row: &Vec<(usize, f32)>| {
            *end += row.len();
            Some(*end)
        };
        let ends = rows.iter().scan(0, end).collect();
        Self { from: self.ends.len(), ends, entries: rows.concat() }
    }

    fn to(&self) -> usize {
        self.ends.len()
    }

    fn of(&self, row: usize) -> &[(usize, f32)] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.entries[start..self.ends[row]]
    }

    fn is_identity(&self) -> bool {
        self.from == self.to() && self.entries.iter().enumerate().all(|(row, entry)| *entry == (row, 1.0))
    }
}

fn resample([of_d, of_h, of_w]: &[Taps; 3], x: &[f32], path: Path) -> Vec<f32> {
    let (d, plane) = (of_d.from, of_h.from * of_w.from);
    assert!(x.len().is_multiple_of(d * plane), "x holds whole images");
    let (images, new) = (x.len() / (d * plane), of_h.to() * of_w.to());
    if of_d.to() * of_h.to() < d * of_h.from {
        let mut y = vec![0.0; images * of_d.to() * new];
        y.par_chunks_mut(new).enumerate().for_each(|(at, y)| {
            let (image, z) = (at / of_d.to(), at % of_d.to());
            let x = &x[image * d * plane..][..d * plane];
            simd::run(path, RowsLast { of_d: of_d.of(z), of_h, of_w, x, y });
        });
        return y;
    }
    let mut planes = vec![0.0; images * d * new];
    planes.par_chunks_mut(new).zip(x.par_chunks(plane)).for_each(|(y, x)| {
        simd::run(path, Plane { of_h, of_w, x, y });
    });
    if of_d.is_identity() {
        return planes;
    }
    let mut y = vec![0.0; images * of_d.to() * new];
    y.par_chunks_mut(new).enumerate().for_each(|(at, y)| {
        let (image, z) = (at / of_d.to(), at % of_d.to());
        let x = &planes[image * d * new..][..d * new];
        simd::run(path, Combine { taps: of_d.of(z), x, y });
    });
    y
}

/// A plane in its new size.
struct Plane<'a> {
    of_h: &'a Taps,
    of_w: &'a Taps,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Plane<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { of_h, of_w, x, y } = self;
        let width = of_w.to();
        if of_h.is_identity() {
            return rows(of_w, x, y);
        }
        let mut between = vec![0.0; of_h.from * width];
        rows(of_w, x, &mut between);
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            combine(of_h.of(row), &between, y);
        }
    }
}

/// A plane of the result from the image, one row after the other, w last.
struct RowsLast<'a> {
    of_d: &'a [(usize, f32)],
    of_h: &'a Taps,
    of_w: &'a Taps,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for RowsLast<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { of_d, of_h, of_w, x, y } = self;
        let (mut sum, mut taps) = (vec![0.0; of_w.from], Vec::new());
        for (row, y) in y.chunks_exact_mut(of_w.to()).enumerate() {
            taps.clear();
            for (z, p) in of_d {
                taps.extend(of_h.of(row).iter().map(|(at, q)| (z * of_h.from + at, p * q)));
            }
            if !taps.is_empty() {
                combine(&taps, x, &mut sum);
                rows(of_w, &sum, y);
            }
        }
    }
}

/// Applies `taps` to every row.
#[inline(always)]
fn rows(taps: &Taps, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks_exact(taps.from).zip(y.chunks_exact_mut(taps.to())) {
        let mut start = 0;
        for (y, end) in y.iter_mut().zip(&taps.ends) {
            *y = taps.entries[start..*end].iter().map(|(from, weight)| x[*from] * weight).sum();
            start = *end;
        }
    }
}

/// A weighted sum of runs of `x`, each as long as `y`, which is zero before.
struct Combine<'a> {
    taps: &'a [(usize, f32)],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        combine(self.taps, self.x, self.y);
    }
}

/// A weighted sum of runs of `x`, each as long as `y`; where there is none, `y` stays as it is.
#[inline(always)]
fn combine(taps: &[(usize, f32)], x: &[f32], y: &mut [f32]) {
    let run = |from: usize| &x[from * y.len()..][..y.len()];
    match taps {
        [] => {}
        [(a, p)] => {
            let a = run(*a);
            y.iter_mut().zip(a).for_each(|(y, a)| *y = a * p);
        }
        [(a, p), (b, q), rest @ ..] => {
            let (a, b) = (run(*a), run(*b));
            y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a * p + b * q);
            for (c, r) in rest {
                let c = &x[c * y.len()..][..y.len()];
                y.iter_mut().zip(c).for_each(|(y, c)| *y += c * r);
            }
        }
    }
}

#[cfg(test)]
mod tests;
