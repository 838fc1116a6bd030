//! No false alarms, and the right figures.

use std::fs;

use semisam_audit::verify::BothWays;
use semisam_shared::{
    accounting::{Adjacency, Rho, gdp},
    plan::SIGMA,
};

use crate::federation::{Cheat, Folder, World, finished};

fn copy(folder: &Folder, from: &str, to: &str) {
    fs::create_dir_all(folder.path(to).parent().expect("parent")).expect("folder");
    fs::copy(folder.path(from), folder.path(to)).expect("copied");
}

#[test]
fn a_finished_federation_is_sound_and_its_figures_are_recomputed() {
    for in_a_basis in [false, true] {
        let verdict = World::finished(Cheat::Nobody, in_a_basis).folder.expect_sound();
        assert_eq!((verdict.rounds, verdict.rounds_recomputed, verdict.ledgers), (3, 3, 3));
        assert_eq!(verdict.notes, [] as [String; 0]);
        let north = &verdict.epsilon["north"];
        let one = Rho::of_release((SIGMA as f64 / 3.3) as u64, SIGMA);
        let exact = one.plus(one).plus(one).epsilon(1e-5, Adjacency::AddRemove);
        assert!(north.add_remove >= exact && north.add_remove < exact + 2e-6, "{north:?}");
        assert!(north.replace_one > 2.0 * north.add_remove);
        let mu = 3.0_f64.sqrt() / 3.3;
        for (adjacency, zcdp) in [(Adjacency::AddRemove, north.add_remove), (Adjacency::ReplaceOne, north.replace_one)]
        {
            let figure = |by: Option<BothWays>| match adjacency {
                Adjacency::AddRemove => by.expect("a figure").add_remove,
                Adjacency::ReplaceOne => by.expect("a figure").replace_one,
            };
            let exact = gdp::epsilon(mu * adjacency.factor(), 1e-5).expect("a delta");
            let (rdp, pld) = (figure(north.eps_rdp), figure(north.eps_pld));
            // The sensitivity in grid units is rounded down, by less than 1e-5.
            assert!(pld > exact * (1.0 - 1e-5) && pld < exact * (1.0 + 1e-5), "{pld} {exact}");
            assert!(pld < rdp && pld < zcdp && rdp < zcdp * 1.001, "{pld} {rdp} {zcdp}");
        }
        assert_eq!((north.releases, north.abandoned, north.refused, north.delta), (3, 0, 0, Some(1e-5)));
        assert_eq!((north.unit.as_str(), north.cohort.as_str(), north.epsilon_max), ("patient", "cohort", Some(10.0)));
        let east = &verdict.epsilon["east"];
        assert_eq!((east.releases, east.abandoned, east.refused), (2, 1, 1));
        assert_eq!(east.add_remove, north.add_remove, "what was abandoned stays spent");
        assert_eq!(verdict.federations.len(), 1);
    }
}

#[test]
fn a_part_that_was_left_at_home_is_a_note() {
    let folder = finished();
    fs::remove_dir_all(folder.path("east")).expect("removed");
    let verdict = folder.expect_sound();
    assert!(verdict.notes.iter().any(|note| note.contains("`east`") && note.contains("2 accepted updates")));
    assert_eq!(verdict.ledgers, 2);
    fs::remove_dir_all(folder.path("coordinator/store")).expect("removed");
    let verdict = folder.expect_sound();
    assert_eq!((verdict.rounds, verdict.rounds_recomputed), (3, 0));
    assert!(verdict.notes.iter().any(|note| note.contains("computed again")));
    fs::remove_dir_all(folder.path("coordinator")).expect("removed");
    let verdict = folder.expect_sound();
    assert!(verdict.notes.iter().any(|note| note.contains("journal is not here")), "{:?}", verdict.notes);
    assert_eq!(verdict.epsilon.len(), 2);
}

#[test]
fn a_journal_alone_is_checked_too() {
    let folder = finished();
    for site in crate::federation::SITES {
        fs::remove_dir_all(folder.path(site)).expect("removed");
    }
    let verdict = folder.expect_sound();
    assert_eq!((verdict.rounds_recomputed, verdict.notes.len(), verdict.ledgers), (3, 3, 0));
}

#[test]
fn a_model_that_is_gone_is_computed_again_from_the_first() {
    let folder = finished();
    let closing = folder.lines("coordinator/journal.jsonl").into_iter().find(|line| line.contains("ROUND_CLOSED"));
    let closing: serde_json::Value = serde_json::from_str(&closing.expect("closed")).expect("json");
    let model = closing["event"]["model"].as_str().expect("digest");
    fs::remove_file(folder.path(&format!("coordinator/store/{}/{model}", &model[..2]))).expect("removed");
    assert_eq!(folder.expect_sound().rounds_recomputed, 3);
}

#[test]
fn an_older_copy_beside_the_newest_is_a_note() {
    let folder = finished();
    copy(&folder, "north/ledger.jsonl", "backup/ledger.jsonl");
    copy(&folder, "coordinator/journal.jsonl", "backup/coordinator/journal.jsonl");
    let lines = folder.lines("north/ledger.jsonl");
    folder.write_lines("backup/ledger.jsonl", &lines[..6]);
    let verdict = folder.expect_sound();
    assert_eq!(verdict.notes.iter().filter(|note| note.contains("older copy")).count(), 2, "{:?}", verdict.notes);
    assert_eq!((verdict.epsilon.len(), verdict.rounds), (3, 3));
}

#[test]
fn strangers_in_the_folder_do_no_harm() {
    let folder = finished();
    fs::write(folder.path("coordinator/store/half.tmp"), b"x").expect("written");
    fs::write(folder.path("coordinator/store/README"), b"x").expect("written");
    fs::write(folder.path("north/plan.json"), b"not ours").expect("written");
    fs::create_dir_all(folder.path("scans/images")).expect("folder");
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path("."), folder.path("scans/circle")).expect("link");
    assert_eq!(folder.expect_sound().notes.len(), 3);
}
