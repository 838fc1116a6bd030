//! The power fails at every record of the journal, and within every record: whatever is found on disk then leads to the
//! same models, bit for bit.

use super::*;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// What was on disk, and how many records the journal had.
struct Snapshot {
    root: tempfile::TempDir,
    records: usize,
}

fn snapshot(rig: &Rig, taken: &mut Vec<Snapshot>) {
    let root = tempfile::tempdir().expect("folder");
    copy(rig.root.path(), root.path());
    let journal = fs::read(Folder::new(root.path()).journal()).expect("read");
    let records = journal.iter().filter(|byte| **byte == b'\n').count();
    taken.push(Snapshot { root, records });
}

/// Everything that three sites do from wherever the coordinator stands, each step with the disk as it is afterwards.
fn go_on(rig: &mut Rig, mut each: impl FnMut(&Rig)) {
    for number in 0..3 {
        assert!(matches!(rig.hello(number), Response::Welcome { .. }));
        each(rig);
    }
    while !rig.driver.federation().finished {
        rig.settle();
        each(rig);
        for number in 0..3 {
            let Task::Train { round, .. } = rig.task(number) else { continue };
            let (bytes, receipt) = (update(number), rig.receipt(number, round.0, &update(number)));
            let mut part = rig.driver.spool().part(receipt).expect("opened");
            let have = part.length() as usize;
            part.write_all(&bytes[have..have.max(5)]).expect("written");
            drop(part);
            each(rig);
            rig.accepted(number, round.0);
            each(rig);
        }
    }
}

#[test]
fn a_crash_at_any_record_of_the_journal_leads_to_the_same_models() {
    let mut rig = Rig::new();
    let mut taken = Vec::new();
    snapshot(&rig, &mut taken);
    go_on(&mut rig, |rig| snapshot(rig, &mut taken));
    let expected = rig.models();
    assert_eq!(rig.masks(), [7, 7, 7]);
    let journal = fs::read(Folder::new(rig.root.path()).journal()).expect("read");
    let ends: Vec<usize> = (1..=journal.len()).filter(|end| journal[end - 1] == b'\n').collect();
    assert_eq!(ends.len(), 1 + 2 * 3 + 3 * (1 + 2 * 3 + 1) + 1);
    let last = taken.last().expect("taken");
    for records in 1..=ends.len() {
        let earliest = taken.iter().find(|snapshot| snapshot.records >= records).expect("taken");
        let length = ends.get(records).map_or(0, |next| next - ends[records - 1]);
        let torn = [0, 1, length / 2, length.saturating_sub(1)].map(|torn| torn.min(length));
        for (source, torn) in [earliest, last].into_iter().flat_map(|source| torn.map(|torn| (source, torn))) {
            let root = tempfile::tempdir().expect("folder");
            copy(source.root.path(), root.path());
            fs::write(Folder::new(root.path()).journal(), &journal[..ends[records - 1] + torn]).expect("cut");
            let mut rig = Rig::open(root);
            go_on(&mut rig, |_| {});
            assert_eq!(rig.models(), expected, "{records} records and {torn} bytes");
        }
    }
}

#[test]
fn every_state_of_the_disk_leads_to_the_same_models() {
    let mut rig = Rig::new();
    let mut taken = Vec::new();
    go_on(&mut rig, |rig| snapshot(rig, &mut taken));
    let expected = rig.models();
    for Snapshot { root, records } in taken {
        let mut rig = Rig::open(root);
        go_on(&mut rig, |_| {});
        assert_eq!(rig.models(), expected, "{records} records");
    }
}
