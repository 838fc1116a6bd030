//! What generalists say about the crops of a step, between the making of the step and its computation: only then is it known
//! what the teacher believes.
//!
//! Each scan has a map of its own, made as soon as the teacher is sure enough of something to ask about, and made anew each
//! time that it was drawn so many times again ([`Guidance::every`]), so that the branch costs a fixed share of a step: where
//! nobody had anything to say, too. Maps are a part of the run's state: a run that was interrupted goes on with the same bits.

use std::collections::BTreeMap;

use semisam_shared::weights::Tensor;

use super::{
    LocalRun,
    steps::{Draw, Steps},
};
use crate::{
    data::{grid::Grid, volume::Volume},
    device::TrainBackend,
    generalist::{GeneralistError, store::Source},
    model::{layout, vnet::VNet},
    train::{
        TrainError,
        crops::crop_beside,
        guidance::{Guides, Maps, Told, mean_weight},
        infer::{Windows, by_network},
        losses::IGNORED,
        rounds::PseudoLabels,
        scans::ScanSet,
        trainer::{Step, Trainer},
    },
};

/// The map of each scan that has one, by its position.
pub(super) type Kept = BTreeMap<usize, Known>;

/// A map, and when it was made.
#[derive(Clone, PartialEq)]
pub(super) struct Known {
    /// How often the scan had been drawn before.
    pub(super) drawn: u64,
    /// None if nobody had anything to say that can be believed.
    pub(super) maps: Option<Maps>,
}

/// Asks generalists about scans.
pub(super) struct Adviser<'a> {
    run: &'a LocalRun,
    scans: &'a ScanSet,
    guides: Guides<'a>,
    /// As generalists see the scans that were asked about.
    sources: BTreeMap<usize, Source>,
}

impl<'a> Adviser<'a> {
    pub(super) fn new(run: &'a LocalRun, scans: &'a ScanSet, guides: Guides<'a>) -> Self {
        Self { run, scans, guides, sources: BTreeMap::new() }
    }

    /// Adds to a step what generalists think of its crops of unlabelled scans, which are the last of the batch.
    ///
    /// # Errors
    /// If a scan cannot be had or shown.
    pub(super) fn advise<B: TrainBackend>(
        &mut self,
        (number, step): (u64, &mut Step),
        steps: &Steps<'_>,
        kept: &mut Kept,
        trainer: &Trainer<B>,
        device: &B::Device,
    ) -> Result<(), TrainError> {
        let draws: Vec<Draw> = steps.unlabelled(number).collect();
        let mut teacher = None;
        for draw in &draws {
            let due = |known: &Known| draw.before >= known.drawn + self.guides.how.every;
            if kept.get(&draw.scan).is_none_or(due) {
                let network = match teacher.take() {
                    Some(network) => network,
                    None => self.teacher(trainer, device)?,
                };
                match self.ask::<B>(draw, &network, device)? {
                    Told::Unasked => kept.remove(&draw.scan),
                    told => kept.insert(draw.scan, Known { drawn: draw.before, maps: told.target() }),
                };
                teacher = Some(network);
            }
        }
        let mut opinions = vec![None; step.batch.samples - draws.len()];
        opinions.extend(draws.iter().map(|draw| {
            let maps = kept.get(&draw.scan)?.maps.as_ref()?;
            Some(maps.opinion(self.run.patch, self.run.augment, &draw.random))
        }));
        let maps = draws.iter().filter_map(|draw| kept.get(&draw.scan)?.maps.as_ref());
        step.terms.generalist *= mean_weight(maps.map(Maps::weight));
        step.targets.opinions = opinions;
        Ok(())
    }

    fn teacher<B: TrainBackend>(
        &self,
        trainer: &Trainer<B>,
        device: &B::Device,
    ) -> Result<VNet<B::InnerBackend>, TrainError> {
        let weights = layout::blank(&self.run.config).with_flat(&trainer.teacher());
        Ok(VNet::new(self.run.config, &weights.expect("a teacher has its architecture's values"), device)?)
    }

    /// About a scan, from what the teacher believes about all of it.
    fn ask<B: TrainBackend>(
        &mut self,
        draw: &Draw,
        teacher: &VNet<B::InnerBackend>,
        device: &B::Device,
    ) -> Result<Told, TrainError> {
        let scan = self.scans.get(draw.scan)?;
        let windows = Windows::half_overlapping(self.run.patch);
        let softmax = by_network::<B>(teacher, &scan.image, windows, device)?;
        if !self.sources.contains_key(&draw.scan) {
            self.sources.insert(draw.scan, self.scans.source(draw.scan)?);
        }
        let source = &self.sources[&draw.scan];
        self.guides.maps(&softmax, &Grid::from(&scan.image), source, (self.run.seed, draw.before))
    }
}

/// Adds the pseudo-labels of a step's crops of scans without labels, which are the last of the batch. What is beyond a scan
/// has none.
pub(super) fn label(run: &LocalRun, step: &mut Step, draws: impl Iterator<Item = Draw>, known: &PseudoLabels) {
    if run.round.is_none() {
        return;
    }
    let crop = |draw: Draw| {
        let labels = known.of(draw.scan)?;
        // one more than the class, so that zero is what lies beyond
        let values = labels.values.iter().map(|class| class.saturating_add(1)).collect();
        let beside = Volume { values, ..labels.clone() };
        let piece = crop_beside(&beside, run.patch, run.augment, &mut draw.random.clone());
        Some(piece.values.into_iter().map(|class| class.checked_sub(1).unwrap_or(IGNORED)).collect())
    };
    let labels: Vec<Option<Vec<u8>>> = draws.map(crop).collect();
    let mut all = vec![None; step.batch.samples - labels.len()];
    all.extend(labels);
    step.targets.pseudo_labels = all;
}

/// Maps as tensors of a state: two bytes of a voxel are a whole number, which single precision holds exactly. Of a scan about
/// which nobody had anything to say there is the time alone.
pub(super) fn to_tensors(kept: &Kept) -> impl Iterator<Item = (String, Tensor)> + '_ {
    kept.iter().flat_map(|(scan, known)| {
        let drawn = known.drawn.to_le_bytes().map(f32::from).to_vec();
        let when = (format!("maps.{scan}.drawn"), Tensor { shape: vec![drawn.len()], values: drawn });
        let of_class = move |(class, (shape, values)): (usize, ([usize; 3], Vec<[u8; 2]>))| {
            let values = values.into_iter().map(|voxel| f32::from(u16::from_le_bytes(voxel))).collect();
            (format!("maps.{scan}.{class}"), Tensor { shape: shape.to_vec(), values })
        };
        let of_maps = move |maps: &Maps| {
            let weight = (format!("maps.{scan}.weight"), Tensor { shape: vec![1], values: vec![maps.weight()] });
            std::iter::once(weight).chain(maps.parts().enumerate().map(of_class)).collect::<Vec<_>>()
        };
        std::iter::once(when).chain(known.maps.iter().flat_map(of_maps))
    })
}

/// Reads what [`to_tensors`] wrote for `classes` classes; none if it is something else.
pub(super) fn from_tensors<'a>(tensors: impl Iterator<Item = (&'a str, &'a Tensor)>, classes: usize) -> Option<Kept> {
    let mut known: BTreeMap<usize, BTreeMap<&str, &Tensor>> = BTreeMap::new();
    for (name, tensor) in tensors {
        if let Some((scan, part)) = name.strip_prefix("maps.").and_then(|name| name.split_once('.')) {
            known.entry(scan.parse().ok()?).or_default().insert(part, tensor);
        }
    }
    let whole = |value: &f32| (value.fract() == 0.0 && (0.0..65536.0).contains(value)).then_some(*value as u16);
    let of_scan = |(scan, mut parts): (usize, BTreeMap<&str, &Tensor>)| {
        let drawn = parts.remove("drawn")?.values.iter().map(whole);
        let drawn: Vec<u8> = drawn.map(|byte| u8::try_from(byte?).ok()).collect::<Option<_>>()?;
        let drawn = u64::from_le_bytes(drawn.try_into().ok()?);
        if parts.is_empty() {
            return Some((scan, Known { drawn, maps: None }));
        }
        let weight = *parts.remove("weight")?.values.first().filter(|weight| **weight > 0.0 && **weight <= 1.0)?;
        let of_class = |class: usize| {
            let tensor = parts.get(class.to_string().as_str())?;
            let values = tensor.values.iter().map(|value| whole(value).map(u16::to_le_bytes));
            Some((tensor.shape.as_slice().try_into().ok()?, values.collect::<Option<_>>()?))
        };
        let maps = (0..classes - 1).map(of_class).collect::<Option<Vec<_>>>()?;
        let complete = parts.len() == maps.len();
        complete.then(|| (scan, Known { drawn, maps: Some(Maps::of(maps, weight)) }))
    };
    known.into_iter().map(of_scan).collect()
}

impl ScanSet {
    /// A scan as generalists see it: as it was stored, at its own spacing, without its label.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn source(&self, position: usize) -> Result<Source, GeneralistError> {
        match self.image_of(position) {
            Ok(path) => Source::of_file(path),
            Err(scan) => Ok(Source::of_image(scan.image.clone())),
        }
    }
}
