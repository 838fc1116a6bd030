//! A whole life of a ledger, every rule broken once, and arbitrary lives against a second count of the budget.

use proptest::prelude::*;

use super::*;
use crate::{
    chain::Head,
    plan::{Plan, PlanError, tests::example},
    receipt::Receipt,
    signing::SigningKey,
};

const SITE: SiteId = SiteId([7; 32]);

fn number(value: f64) -> Decimal {
    Decimal::new(value).expect("finite")
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_hex(&hex::encode([seed; 32])).expect("64 digits")
}

fn policy(epsilon_max: f64) -> Policy {
    Policy {
        epsilon_max: number(epsilon_max),
        delta: number(1e-5),
        noise_multiplier_min: number(1.0),
        patients_min: 3,
        rounds_max: 100,
        architectures: vec![],
    }
}

fn genesis() -> LedgerEvent {
    LedgerEvent::Genesis { site: SITE, name: "north".into(), key: key(1).public(), cohort: "atria".into() }
}

fn approval(plan: Plan) -> LedgerEvent {
    let plan = Box::new(SignedPlan::sign(plan, &key(2)).expect("sound"));
    let digest = plan.plan.digest().expect("canonical");
    LedgerEvent::Approved { digest, approver: "dpo".into(), plan, coordinator: key(3).public() }
}

/// A ledger with the numbers of its records.
#[derive(Default)]
struct Book {
    ledger: Ledger,
    events: Vec<LedgerEvent>,
}

impl Book {
    fn opened(epsilon_max: f64, plan: Plan) -> Self {
        let mut book = Book::default();
        for event in [genesis(), LedgerEvent::Policy { policy: policy(epsilon_max) }, approval(plan)] {
            book.add(event).expect("permitted");
        }
        book
    }

    fn add(&mut self, event: LedgerEvent) -> Result<u64, LedgerViolation> {
        let seq = self.events.len() as u64;
        self.ledger.permits(seq, &event)?;
        self.ledger.evolve(seq, &event);
        self.events.push(event);
        Ok(seq)
    }

    fn try_event(&self, event: &LedgerEvent) -> Result<(), LedgerViolation> {
        self.ledger.permits(self.events.len() as u64, event)
    }

    fn query(&self, round: u32) -> Query {
        let plan = *self.ledger.approved.keys().next().expect("approved");
        Query { plan, round: RoundNumber(round), model: Digest::of(&round.to_le_bytes()) }
    }

    fn reserve(&mut self, round: u32) -> Result<u64, LedgerViolation> {
        let reserve = self.ledger.reservation(self.query(round))?;
        self.add(LedgerEvent::Reserve(reserve))
    }

    fn receipt(&self, commit: u64) -> Receipt {
        let (query, release) = self.ledger.releases.iter().find(|(_, r)| r.commit == commit).expect("committed");
        let Committed { payload, bytes, .. } = *release;
        let ledger = Head { length: self.events.len() as u64, hash: Digest::of(b"line") };
        Receipt { plan: query.plan, round: query.round, site: SITE, payload, bytes, ledger }
    }

    fn acked(&self, commit: u64) -> LedgerEvent {
        LedgerEvent::Acked { commit, receipt: self.receipt(commit).sign(&key(3)).expect("canonical") }
    }
}

fn commit(reserve: u64) -> LedgerEvent {
    let payload = Digest::of(&reserve.to_le_bytes());
    LedgerEvent::Commit { reserve, payload, bytes: 128, clip_check: "integer-exact".into(), noise: "os".into() }
}

fn program() -> Program {
    Program { software: "semisam-node 0.1.0".into(), binary: Some(Digest::of(b"elf")), boot: Some("b".into()) }
}

fn abandoned(reserve: u64) -> LedgerEvent {
    LedgerEvent::Abandoned { reserve, reason: "power cut".into() }
}

#[test]
fn a_whole_life_costs_what_the_plan_says() {
    let mut book = Book::opened(10.0, example());
    for round in 1..=10 {
        let reserve = book.reserve(round).expect("within budget");
        assert_eq!(book.ledger.open.map(|(seq, _)| seq), Some(reserve));
        let commit = book.add(commit(reserve)).expect("permitted");
        assert_eq!(book.ledger.open, None);
        book.add(book.acked(commit)).expect("permitted");
    }
    assert_eq!(book.ledger.releases.len(), 10);
    assert!(book.ledger.releases.values().all(|release| release.receipt.is_some()));
    assert_eq!(book.ledger.spent, example().rho_in_all());
    let epsilon = book.ledger.epsilon(Adjacency::AddRemove);
    assert_eq!(epsilon, example().rho_in_all().epsilon(1e-5, Adjacency::AddRemove));
    assert!(book.ledger.epsilon(Adjacency::ReplaceOne) > 2.0 * epsilon);
    assert_eq!(book.ledger.owner.as_ref().map(|owner| owner.site), Some(SITE));
}

#[test]
fn records_survive_json_and_replay_to_the_same_state() {
    let mut book = Book::opened(10.0, example());
    let reserve = book.reserve(1).expect("within budget");
    let commit = book.add(commit(reserve)).expect("permitted");
    book.add(book.acked(commit)).expect("permitted");
    let lost = book.reserve(2).expect("within budget");
    book.add(abandoned(lost)).expect("permitted");
    let (plan, reason) = (book.query(3).plan, "too few patients".to_owned());
    let refused =
        |requested, remaining| LedgerEvent::Refused { plan, round: None, reason: reason.clone(), requested, remaining };
    book.add(refused(None, None)).expect("permitted");
    book.add(refused(Some(number(11.0)), Some(number(2.5)))).expect("permitted");
    let unconfirmed = book.reserve(4).expect("within budget");
    let unconfirmed = book.add(super::tests::commit(unconfirmed)).expect("permitted");
    book.add(LedgerEvent::Retry { commit: unconfirmed }).expect("permitted");
    book.add(LedgerEvent::Started(program())).expect("permitted");
    let mut again = Book::default();
    for event in &book.events {
        let text = crate::canonical::to_canonical(event).expect("canonical");
        again.add(serde_json::from_str(&text).expect("read")).expect("permitted again");
    }
    assert_eq!(format!("{:?}", again.ledger), format!("{:?}", book.ledger));
}

#[test]
fn genesis_is_first_and_alone() {
    let mut book = Book::default();
    assert!(matches!(book.add(LedgerEvent::Policy { policy: policy(1.0) }), Err(LedgerViolation::Genesis)));
    book.add(genesis()).expect("first");
    assert!(matches!(book.add(genesis()), Err(LedgerViolation::Genesis)));
}

#[test]
fn nothing_is_approved_or_reserved_without_a_policy() {
    let mut book = Book::default();
    book.add(genesis()).expect("first");
    assert!(matches!(book.add(approval(example())), Err(LedgerViolation::NoPolicy)));
    let event = approval(example());
    book.ledger.evolve(1, &event);
    assert!(matches!(book.ledger.reservation(book.query(1)), Err(LedgerViolation::NoPolicy)));
}

#[test]
fn a_policy_without_a_real_delta_is_no_policy() {
    for delta in [-1.0, 0.0, 0.5, 1.0, 5.0] {
        let mut book = Book::default();
        book.add(genesis()).expect("first");
        let policy = Policy { delta: number(delta), ..policy(10.0) };
        let violation = book.add(LedgerEvent::Policy { policy });
        assert!(matches!(violation, Err(LedgerViolation::Figure { field: "delta", .. })), "{delta}: {violation:?}");
    }
}

#[test]
fn only_the_approved_plan_as_signed_counts() {
    let mut book = Book::default();
    book.add(genesis()).expect("first");
    book.add(LedgerEvent::Policy { policy: policy(10.0) }).expect("permitted");
    let nobody = Query { plan: Digest::of(b"another"), round: RoundNumber(1), model: Digest::ZERO };
    assert!(matches!(book.ledger.reservation(nobody), Err(LedgerViolation::NotApproved(plan)) if plan == nobody.plan));
    let LedgerEvent::Approved { approver, plan, coordinator, digest } = approval(example()) else { unreachable!() };
    let wrong = Digest::of(b"wrong");
    let event = LedgerEvent::Approved { digest: wrong, approver: approver.clone(), plan: plan.clone(), coordinator };
    assert!(matches!(book.add(event), Err(LedgerViolation::WrongDigest(found)) if found == wrong));
    let mut forged = plan.clone();
    forged.signature.0[5] ^= 1;
    let event = LedgerEvent::Approved { digest, approver: approver.clone(), plan: forged, coordinator };
    assert!(matches!(book.add(event), Err(LedgerViolation::Plan(PlanError::Signature(_)))));
    let mut unsound = plan;
    unsound.plan.rounds = 0;
    let digest = unsound.plan.digest().expect("canonical");
    let event = LedgerEvent::Approved { digest, approver, plan: unsound, coordinator };
    assert!(matches!(book.add(event), Err(LedgerViolation::Plan(PlanError::Field { .. }))));
}

#[test]
fn policy_is_asked_again_at_every_reservation() {
    let mut book = Book::opened(10.0, example());
    let strict = Policy { noise_multiplier_min: number(4.5), ..policy(10.0) };
    book.add(LedgerEvent::Policy { policy: strict }).expect("permitted");
    assert!(matches!(book.reserve(1), Err(LedgerViolation::Policy { objections, .. }) if objections.len() == 1));
}

#[test]
fn what_exceeds_the_budget_is_refused_and_abandoned_stays_spent() {
    let whole = example().rho_in_all().epsilon(1e-5, Adjacency::AddRemove);
    let mut book = Book::opened(whole + 1e-3, example());
    let reserve = book.reserve(1).expect("within budget");
    let before = book.ledger.spent;
    book.add(abandoned(reserve)).expect("permitted");
    assert_eq!(book.ledger.spent, before, "no refund");
    for round in 1..=9 {
        let reserve = book.reserve(round).expect("within budget, the abandoned round too");
        book.add(commit(reserve)).expect("permitted");
    }
    let Err(LedgerViolation::Budget { would_be, ceiling }) = book.reserve(10) else { panic!("over budget") };
    assert!(would_be > ceiling && ceiling == number(whole + 1e-3));
}

#[test]
fn one_question_gets_one_answer_and_another_model_is_another_question() {
    let mut book = Book::opened(10.0, example());
    let reserve = book.reserve(1).expect("within budget");
    assert!(matches!(book.reserve(2), Err(LedgerViolation::Open(open)) if open == reserve));
    book.add(commit(reserve)).expect("permitted");
    assert!(matches!(book.reserve(1), Err(LedgerViolation::Twice(RoundNumber(1)))));
    let other = Query { model: Digest::of(b"another model"), ..book.query(1) };
    let reserve = book.ledger.reservation(other).expect("a new question at a new cost");
    assert_eq!(reserve.spent, number(Rho::of_release(1 << 18, SIGMA).plus(example().rho_per_round()).value()));
    for round in [0, 11] {
        assert!(matches!(book.reserve(round), Err(LedgerViolation::NoSuchRound(_))));
    }
}

#[test]
fn every_figure_of_a_reservation_is_held() {
    let book = Book::opened(10.0, example());
    let good = book.ledger.reservation(book.query(1)).expect("within budget");
    let less = |value: Decimal| number(value.get() * 0.999);
    type Lie = fn(&mut Reserve);
    let lies: [(&str, Lie); 5] = [
        ("mechanism", |r| r.mechanism = "Laplace".into()),
        ("sensitivity", |r| r.sensitivity -= 1),
        ("sigma", |r| r.sigma *= 2),
        ("coordinates", |r| r.coordinates += 1),
        ("delta", |r| r.delta = Decimal::new(1e-4).expect("finite")),
    ];
    let mut wrong: Vec<(&str, Reserve)> = lies
        .into_iter()
        .map(|(field, lie)| {
            let mut reserve = good.clone();
            lie(&mut reserve);
            (field, reserve)
        })
        .collect();
    wrong.push(("rho", Reserve { rho: less(good.rho), ..good.clone() }));
    wrong.push(("spent", Reserve { spent: less(good.spent), ..good.clone() }));
    let more = good.remaining.map(|left| number(left.get() + 0.1));
    wrong.push(("remaining", Reserve { remaining: more, ..good.clone() }));
    let (one, two) = (less(good.epsilon_add_remove), less(good.epsilon_replace_one));
    wrong.push(("epsilon_add_remove", Reserve { epsilon_add_remove: one, ..good.clone() }));
    wrong.push(("epsilon_replace_one", Reserve { epsilon_replace_one: two, ..good.clone() }));
    for (field, reserve) in wrong {
        match book.try_event(&LedgerEvent::Reserve(reserve)) {
            Err(LedgerViolation::Figure { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    book.try_event(&LedgerEvent::Reserve(good)).expect("the honest one");
}

#[test]
fn commits_and_receipts_refer_to_what_they_follow() {
    let mut book = Book::opened(10.0, example());
    for stray in [commit(2), abandoned(2)] {
        assert!(matches!(book.try_event(&stray), Err(LedgerViolation::Reference(2))));
    }
    let reserve = book.reserve(1).expect("within budget");
    assert!(matches!(book.try_event(&commit(reserve + 1)), Err(LedgerViolation::Reference(_))));
    assert!(matches!(book.try_event(&abandoned(reserve - 1)), Err(LedgerViolation::Reference(_))));
    let LedgerEvent::Commit { payload, clip_check, noise, .. } = commit(reserve) else { unreachable!() };
    let long = LedgerEvent::Commit { reserve, payload, bytes: 129, clip_check, noise };
    assert!(matches!(book.try_event(&long), Err(LedgerViolation::Figure { field: "bytes", .. })));
    let commit = book.add(commit(reserve)).expect("permitted");
    let honest = book.receipt(commit);
    let sign = |receipt: Receipt, by: u8| receipt.sign(&key(by)).expect("canonical");
    let acked = |commit, receipt| LedgerEvent::Acked { commit, receipt };
    assert!(matches!(book.try_event(&acked(reserve, sign(honest, 3))), Err(LedgerViolation::Reference(_))));
    let forged = book.try_event(&acked(commit, sign(honest, 4)));
    assert!(matches!(forged, Err(LedgerViolation::ReceiptSignature(_))));
    for other in [
        Receipt { site: SiteId([8; 32]), ..honest },
        Receipt { payload: Digest::ZERO, ..honest },
        Receipt { bytes: 1, ..honest },
        Receipt { round: RoundNumber(2), ..honest },
        Receipt { plan: Digest::ZERO, ..honest },
    ] {
        assert!(matches!(book.try_event(&acked(commit, sign(other, 3))), Err(LedgerViolation::Receipt)));
    }
    book.add(acked(commit, sign(honest, 3))).expect("permitted");
    assert!(matches!(book.try_event(&acked(commit, sign(honest, 3))), Err(LedgerViolation::Reference(_))));
}

/// Records as they were written before RESERVE said what is left and REFUSED what was asked for.
#[test]
fn older_records_are_read_and_keep_their_spelling() {
    let mut book = Book::opened(10.0, example());
    let older = Reserve { remaining: None, ..book.ledger.reservation(book.query(1)).expect("within budget") };
    let text = crate::canonical::to_canonical(&LedgerEvent::Reserve(older.clone())).expect("canonical");
    assert!(!text.contains("remaining"), "{text}");
    let read: LedgerEvent = serde_json::from_str(&text).expect("read");
    assert_eq!(read, LedgerEvent::Reserve(older));
    book.add(read).expect("permitted");
    let plan = book.query(1).plan;
    let text = format!("{{\"plan\":\"{plan}\",\"reason\":\"r\",\"round\":2,\"type\":\"REFUSED\"}}");
    let read: LedgerEvent = serde_json::from_str(&text).expect("read");
    assert_eq!(crate::canonical::to_canonical(&read).expect("canonical"), text);
    book.add(read).expect("permitted");
}

#[test]
fn a_reservation_says_what_is_left() {
    let ceiling = example().rho_in_all().epsilon(1e-5, Adjacency::AddRemove) + 0.01;
    let mut book = Book::opened(ceiling, example());
    let mut last = book.ledger.remaining().expect("a policy");
    assert!((last.get() - ceiling).abs() < 1.1e-6 && last.get() <= ceiling, "{last}");
    while let Ok(reserve) = book.ledger.reservation(book.query(1)) {
        let left = reserve.remaining.expect("said");
        assert!(left < last && left.get() + reserve.epsilon_add_remove.get() <= ceiling + 1e-12);
        let reserve = book.add(LedgerEvent::Reserve(reserve)).expect("permitted");
        assert_eq!(book.ledger.remaining(), Some(left));
        book.add(abandoned(reserve)).expect("permitted");
        last = left;
    }
    assert!(last.get() <= 0.01 && book.ledger.spent > Rho::default(), "{last}");
}

#[test]
fn only_what_was_committed_and_not_confirmed_is_sent_again() {
    let mut book = Book::opened(10.0, example());
    let retry = |commit| LedgerEvent::Retry { commit };
    assert!(matches!(book.try_event(&retry(2)), Err(LedgerViolation::Reference(2))));
    let reserve = book.reserve(1).expect("within budget");
    assert!(book.try_event(&retry(reserve)).is_err());
    let commit = book.add(commit(reserve)).expect("permitted");
    let spent = book.ledger.spent;
    book.add(retry(commit)).expect("permitted");
    book.add(retry(commit)).expect("permitted");
    assert_eq!(book.ledger.spent, spent, "no new charge");
    book.add(book.acked(commit)).expect("permitted");
    assert!(matches!(book.try_event(&retry(commit)), Err(LedgerViolation::Reference(_))));
}

#[test]
fn a_cost_without_a_finite_epsilon_is_refused() {
    let mut book = Book::opened(10.0, example());
    // Past any rule, so that the last one must hold: a policy whose delta gives no epsilon at all.
    let event = LedgerEvent::Policy { policy: Policy { delta: number(f64::MAX), ..policy(10.0) } };
    book.ledger.evolve(3, &event);
    assert!(matches!(book.reserve(1), Err(LedgerViolation::NotFinite)), "{:?}", book.reserve(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is asked in whatever order: `spent` never falls, is the sum of the RESERVE records that were let in, never
    /// exceeds the ceiling, and no question is answered twice.
    #[test]
    fn spent_never_falls_and_is_the_sum_of_reservations(
        operations in proptest::collection::vec((0_u8..6, 1_u32..12, 0_u64..40), 1..60), ceiling in 4.0_f64..12.0,
    ) {
        let mut book = Book::opened(ceiling, example());
        let mut reserved = 0_u32;
        for (kind, round, record) in operations {
            let (before, count) = (book.ledger.spent, book.events.len());
            // Half of the references are the right one, the others anything.
            let open = book.ledger.open.map_or(record, |(seq, _)| if record % 2 == 0 { seq } else { record });
            let done = match kind {
                0 | 1 => book.reserve(round).inspect(|_| reserved += 1),
                2 => book.add(commit(open)),
                3 => book.add(abandoned(open)),
                4 => match book.ledger.releases.values().find(|r| r.receipt.is_none()).map(|r| r.commit) {
                    Some(commit) => book.add(book.acked(commit)),
                    None => continue,
                },
                _ => book.add(LedgerEvent::Policy { policy: policy(ceiling) }),
            };
            prop_assert!(book.ledger.spent >= before);
            prop_assert_eq!(book.events.len(), count + usize::from(done.is_ok()));
            let expected = (0..reserved).fold(Rho::default(), |sum, _| sum.plus(example().rho_per_round()));
            prop_assert_eq!(book.ledger.spent, expected);
            prop_assert!(book.ledger.epsilon(Adjacency::AddRemove) <= ceiling);
            let commits = book.events.iter().filter(|event| matches!(event, LedgerEvent::Commit { .. })).count();
            prop_assert_eq!(book.ledger.releases.len(), commits, "each COMMIT answers a question of its own");
        }
    }
}
