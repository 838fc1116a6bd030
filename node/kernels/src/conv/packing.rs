//! Weights in the order in which blocks of sums use them.
//!
//! A block takes, for each tap, the weights of a few outputs side by side. Both the value and the gradient of the input read
//! the same tensor, [outputs, inputs, kernel], with the roles of outputs and inputs exchanged; two strides tell them apart.

use super::multiply::Phase;

/// A tensor of weights, read with either role.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a> {
    pub(super) values: &'a [f32],
    /// From the weights of an output of the product to those of the next.
    pub(super) of_output: usize,
    /// From the weights of a channel that is read to those of the next.
    pub(super) of_input: usize,
}

/// Outputs that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panel {
    pub(super) first: usize,
    /// 8, 6, 4 or 2; those behind the last output are computed and left behind.
    pub(super) rows: usize,
}

/// `count` outputs in panels of at most `rows`, 8 or 6. Sixes leave a remainder that fours make up, two of them if need be,
/// because a block of two rows is slow.
pub(super) fn panels(count: usize, rows: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    let mut first = 0;
    while first < count {
        let left = count - first;
        let rows = match (rows, left.next_multiple_of(2) % 6) {
            (6, 2) if left > 6 => 4,
            (6, 4) => 4,
            (6, _) if left > 2 => 6,
            _ => left.next_power_of_two().clamp(2, rows.next_power_of_two()),
        };
        panels.push(Panel { first, rows });
        first += rows;
    }
    panels
}

impl Weights<'_> {
    /// The weights of a panel for the taps of a phase: by depth, then by channel, row and column, and for each tap those of
    /// the panel's outputs. `outputs` is how many the product has; what lies behind the last is zero.
    pub(super) fn pack(&self, phase: &Phase, (inputs, outputs): (usize, usize), panel: Panel, to: &mut [f32]) {
        match panel.rows {
            8 => self.pack_rows::<8>(phase, (inputs, outputs), panel.first, to),
            6 => self.pack_rows::<6>(phase, (inputs, outputs), panel.first, to),
            4 => self.pack_rows::<4>(phase, (inputs, outputs), panel.first, to),
            _ => self.pack_rows::<2>(phase, (inputs, outputs), panel.first, to),
        }
    }

    fn pack_rows<const M: usize>(
        &self,
        phase: &Phase,
        (inputs, outputs): (usize, usize),
        first: usize,
        to: &mut [f32],
    ) {
        let depths = phase.taps[0].len();
        if depths == 0 {
            return;
        }
        let within = phase.numbers.len() / depths;
        let real = M.min(outputs - first);
        let mut to = to.chunks_exact_mut(M);
        for numbers in phase.numbers.chunks_exact(within.max(1)) {
            for input in 0..inputs {
                let start = |row: usize| (first + row.min(real - 1)) * self.of_output + input * self.of_input;
                let rows: [&[f32]; M] = std::array::from_fn(|row| &self.values[start(row)..]);
                for (number, to) in numbers.iter().zip(&mut to) {
                    for (row, to) in to.iter_mut().enumerate() {
                        *to = if row < real { rows[row][*number] } else { 0.0 };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_all_outputs_and_hardly_more() {
        for rows in [6, 8] {
            for count in 1..200 {
                let panels = panels(count, rows);
                let end = panels.iter().fold(0, |end, panel| {
                    assert_eq!(panel.first, end);
                    assert!(panel.rows <= rows && [2, 4, 6, 8].contains(&panel.rows));
                    end + panel.rows
                });
                assert!(end >= count && end < count + rows.min(4), "{count} in {panels:?}");
            }
        }
        let rows = |count: usize| panels(count, 6).iter().map(|panel| panel.rows).collect::<Vec<_>>();
        assert_eq!((rows(16), rows(8), rows(2)), (vec![4, 6, 6], vec![4, 4], vec![2]));
    }
}
