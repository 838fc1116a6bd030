//! The scans of hospitals: those of a folder, dealt anew for every seed, or synthetic ones, each hospital's in a style of its
//! own.

use std::path::PathBuf;

use semisam_node::data::{
    folder::{Cohort, FolderError},
    synth::{SynthError, SynthSpec, write_cohort},
};

use crate::demo::{
    cohorts::{CohortsError, Dealing, deal, in_drawn_order, part, pool, style},
    disk::{self, DiskError},
    layout::{Hospital, Layout, LayoutError},
};

/// Held-out patients of a synthetic hospital.
const HELD_OUT: usize = 3;
/// Their scans, in voxels of this size: one crop covers one.
const SHAPE: [usize; 3] = [32; 3];

/// Hospitals cannot be given scans.
#[derive(Debug, thiserror::Error)]
pub enum ScansError {
    /// They cannot be dealt.
    #[error(transparent)]
    Cohorts(#[from] CohortsError),
    /// They cannot be made.
    #[error(transparent)]
    Synth(#[from] SynthError),
    /// They cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Folders.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Where scans come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Scans {
    /// Labelled ones; those called `test_..` are held out, else the last fifth.
    Folder(PathBuf),
    /// Made for so many patients of each hospital.
    Synthetic(u32),
}

/// The folders of a measurement.
#[derive(Clone, Debug)]
pub struct Places {
    /// Everything.
    pub out: PathBuf,
    /// Held-out scans of all hospitals.
    pub test: PathBuf,
}

impl Places {
    /// Scans that hospitals are dealt.
    fn train(&self) -> PathBuf {
        self.out.join("train")
    }
}

impl Scans {
    /// Makes the folder of held-out scans. Answers how many patients a hospital will have, as the public number.
    ///
    /// # Errors
    /// If scans are missing or cannot be written.
    pub fn prepare(&self, places: &Places, hospitals: u32, spacing_mm: f64) -> Result<u32, ScansError> {
        for folder in [&places.train(), &places.test] {
            if folder.exists() {
                disk::remove_folder(folder)?;
            }
        }
        match self {
            Self::Folder(data) => {
                part(data, &places.train(), &places.test)?;
                let patients = Cohort::open(&places.train())?.patients.len();
                Ok((patients as u32 / hospitals).max(1))
            }
            Self::Synthetic(patients) => {
                let held_out: Vec<PathBuf> =
                    (0..hospitals).map(|number| places.train().join(number.to_string())).collect();
                for (number, folder) in (0..hospitals).zip(&held_out) {
                    write_cohort(&spec(number, HELD_OUT, HELD_OUT, (0, spacing_mm)), folder)?;
                }
                pool(&held_out, &places.test)?;
                Ok(*patients)
            }
        }
    }

    /// Hospitals with their scans, of which `labelled` patients each have labels; `seed` deals, or makes, other ones.
    ///
    /// # Errors
    /// If there are too few, or they cannot be written.
    pub(crate) fn deal(
        &self,
        places: &Places,
        hospitals: u32,
        (labelled, seed): (usize, u64),
        spacing_mm: f64,
    ) -> Result<Vec<Hospital>, ScansError> {
        let layout = Layout::prepare(&places.out.join("hospitals"))?;
        let found: Vec<Hospital> =
            (0..hospitals as usize).map(|index| layout.hospital(index)).collect::<Result<_, _>>()?;
        match self {
            Self::Folder(_) => {
                let drawn = places.out.join(format!("train-{seed}"));
                if drawn.exists() {
                    disk::remove_folder(&drawn)?;
                }
                in_drawn_order(&places.train(), &drawn, seed)?;
                deal(&drawn, &found, (Dealing::RoundRobin, labelled))?;
            }
            Self::Synthetic(patients) => {
                for (number, hospital) in (0..hospitals).zip(&found) {
                    let spec = spec(number, *patients as usize, labelled, (seed, spacing_mm));
                    write_cohort(&spec, &hospital.scans())?;
                }
            }
        }
        Ok(found)
    }
}

/// The patients of a synthetic hospital; its style is the same whatever the seed.
fn spec(hospital: u32, patients: usize, labelled_patients: usize, (seed, spacing_mm): (u64, f64)) -> SynthSpec {
    let number = u64::from(hospital);
    SynthSpec {
        style: style(number, 1 + number),
        shape: SHAPE,
        spacing_mm: [spacing_mm; 3],
        patients,
        labelled_patients,
        seed: seed * 1000 + number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_hospitals_have_patients_of_their_own_and_share_no_held_out_scan() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = Places { out: folder.path().into(), test: folder.path().join("test") };
        let scans = Scans::Synthetic(4);
        assert_eq!(scans.prepare(&places, 2, 4.0).expect("written"), 4);
        let held_out = Cohort::open(&places.test).expect("a cohort");
        assert_eq!(held_out.patients.len(), 2 * HELD_OUT);
        assert!(held_out.scans().all(|scan| scan.label.is_some()));
        let hospitals = scans.deal(&places, 2, (1, 1), 4.0).expect("written");
        let image = |hospital: &Hospital| {
            let cohort = Cohort::open(&hospital.scans()).expect("a cohort");
            let labelled =
                cohort.patients.iter().filter(|patient| patient.scans.iter().all(|scan| scan.label.is_some()));
            assert_eq!((cohort.patients.len(), labelled.count()), (4, 1));
            disk::read(&cohort.patients[0].scans[0].image).expect("written")
        };
        let first = image(&hospitals[0]);
        assert_ne!(first, image(&hospitals[1]));
        let again = scans.deal(&places, 2, (1, 2), 4.0).expect("written anew");
        assert_ne!(first, image(&again[0]), "another seed, other patients");
    }
}
