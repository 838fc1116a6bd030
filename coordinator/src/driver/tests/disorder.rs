//! Anything in any order: sites that come, go, repeat, lie and are excluded, a coordinator that restarts, time that jumps.
//! Whatever happens, the books balance; and once everybody behaves, the federation ends.

use proptest::prelude::*;

use super::*;

const SITES: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Hello(u8),
    Task(u8),
    Submit(u8, u32),
    Cut(u8, u32, usize),
    Lie(u8, u32),
    Revoke(u8),
    Pass(u64),
    Restart,
    Settle,
    FoldInterrupted,
}

fn step() -> impl Strategy<Value = Step> {
    let (site, round) = (0..SITES, 0..5_u32);
    prop_oneof![
        3 => site.clone().prop_map(Step::Hello),
        3 => site.clone().prop_map(Step::Task),
        8 => (site.clone(), round.clone()).prop_map(|(site, round)| Step::Submit(site, round)),
        2 => (site.clone(), round.clone(), 0..8_usize).prop_map(|(site, round, cut)| Step::Cut(site, round, cut)),
        2 => (site, round).prop_map(|(site, round)| Step::Lie(site, round)),
        1 => (0..2_u8).prop_map(Step::Revoke),
        2 => (0..90_u64).prop_map(Step::Pass),
        2 => Just(Step::Restart),
        6 => Just(Step::Settle),
        1 => Just(Step::FoldInterrupted),
    ]
}

fn restart(rig: Rig) -> Rig {
    let now = rig.now;
    let mut rig = rig.reopen();
    rig.now = now;
    rig
}

fn take(mut rig: Rig, step: &Step) -> Rig {
    match *step {
        Step::Hello(number) => drop(rig.hello(number)),
        Step::Task(number) => drop(rig.ask(number, Request::Task)),
        Step::Submit(number, round) => drop(rig.submit(number, round)),
        Step::Cut(number, round, cut) => {
            let receipt = rig.receipt(number, round, &update(number));
            let answer = rig.driver.handle(rig.now, site(number), "north", Request::Submit { receipt });
            if let Answer::Upload(receipt) = answer {
                let mut part = rig.driver.spool().part(receipt).expect("opened");
                let from = part.length() as usize;
                part.write_all(&update(number)[from..from.max(cut)]).expect("written");
            }
        }
        Step::Lie(number, round) => {
            let receipt = rig.receipt(number, round, &update(number));
            let answer = rig.send(number, Receipt { payload: Digest::of(b"lie"), ..receipt }, &update(number));
            assert!(matches!(answer, Response::Rejected(_)), "{answer:?}");
        }
        Step::Revoke(number) => rig.driver.revoke(rig.now, site(number)).expect("written"),
        Step::Pass(seconds) => rig.now = rig.now.plus_seconds(seconds),
        Step::Restart => rig = restart(rig),
        Step::Settle => rig.settle(),
        Step::FoldInterrupted => {
            if rig.driver.due(rig.now) == Due::Fold {
                let job = rig.driver.begin_fold().expect("open");
                job.run(rig.driver.store()).expect("folded");
                rig = restart(rig); // model and momentum are stored, the round is not closed
            }
        }
    }
    rig
}

/// Each closed round holds exactly the bits of those who are named as its contributors.
fn books_balance(rig: &Rig) {
    let federation = rig.driver.federation();
    for (closed, mask) in federation.closed.iter().zip(rig.masks()) {
        let bits = (0..SITES).filter(|number| closed.accepted.contains_key(&site(*number))).map(|number| 1 << number);
        assert_eq!(mask, bits.sum::<u32>());
        assert!(closed.accepted.len() >= 2, "a quorum");
    }
    let replayed = journal::read(&Folder::new(rig.root.path()).journal()).expect("sound");
    assert_eq!(&replayed.federation, federation);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn books_balance_in_any_order_and_good_behaviour_ends_it(steps in proptest::collection::vec(step(), 1..60)) {
        let mut rig = Rig::new();
        for step in &steps {
            rig = take(rig, step);
        }
        books_balance(&rig);
        for _ in 0..4 {
            for number in 0..SITES {
                rig.hello(number);
            }
            rig.settle();
            for number in 0..SITES {
                if let Response::Task(Task::Train { round, .. }) = rig.ask(number, Request::Task) {
                    rig.accepted(number, round.0);
                }
            }
            rig.settle();
        }
        prop_assert!(rig.driver.federation().finished, "sites 2 and 3 are a quorum, and they did everything");
        books_balance(&rig);
    }
}
