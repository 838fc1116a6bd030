//! The logs of different parties held against each other: what one says it received, the other must have paid for, and
//! what one holds a receipt for, the other must have counted. So the end of a log cannot be cut off, nor an older copy be
//! put in its place, unless nobody else heard of what is gone.

use std::collections::BTreeMap;

use semisam_shared::{
    accounting::{Adjacency, Rho},
    chain::Head,
    ids::{Digest, SiteId},
    ledger::{Committed, LedgerEvent, Query, Reserve},
    receipt::{Receipt, SignedReceipt},
    round::Charter,
};

use super::{Kind, Verdict, journal::JournalBook, ledger::LedgerBook};

/// Of several copies of one log the longest is kept; copies that went different ways are a finding.
pub(super) fn set_copies_aside(verdict: &mut Verdict, journals: &mut Vec<JournalBook>, ledgers: &mut Vec<LedgerBook>) {
    let lines = |book: &JournalBook| book.log.records.iter().map(|record| record.hash).collect();
    let founded = |book: &JournalBook| book.charter().map(|charter| (charter.coordinator, charter.digest));
    keep_longest(verdict, journals, |book| &book.log.file, founded, lines);
    let lines = |book: &LedgerBook| book.log.records.iter().map(|record| record.hash).collect();
    let owner = |book: &LedgerBook| book.state.owner.as_ref().map(|owner| (owner.site, owner.cohort.clone()));
    keep_longest(verdict, ledgers, |book| &book.log.file, owner, lines);
}

fn keep_longest<B, K: PartialEq>(
    verdict: &mut Verdict,
    books: &mut Vec<B>,
    file: impl Fn(&B) -> &str,
    identity: impl Fn(&B) -> Option<K>,
    lines: impl Fn(&B) -> Vec<Digest>,
) {
    books.sort_by_key(|book| std::cmp::Reverse(lines(book).len()));
    let mut kept: Vec<B> = Vec::new();
    'books: for book in books.drain(..) {
        let (who, own) = (identity(&book), lines(&book));
        for other in kept.iter().filter(|other| who.is_some() && identity(other) == who) {
            let Some(fork) = lines(other).iter().zip(&own).position(|(one, two)| one != two) else {
                verdict.note(format!("`{}` is an older copy of `{}`", file(&book), file(other)));
                continue 'books;
            };
            let problem = format!("two histories of one party: `{}` says something else here", file(other));
            verdict.find(file(&book), Some(fork as u64), Kind::Fork, problem);
        }
        kept.push(book);
    }
    kept.sort_by(|one, two| file(one).cmp(file(two)));
    *books = kept;
}

/// Compares every journal with every ledger.
pub(super) fn compare(verdict: &mut Verdict, journals: &[JournalBook], ledgers: &[LedgerBook]) {
    for journal in journals {
        let Some(charter) = journal.charter() else { continue };
        let mut absent: BTreeMap<SiteId, u32> = BTreeMap::new();
        for (record, receipt) in journal.accepted() {
            let mut own = ledgers.iter().filter(|ledger| ledger.site() == Some(receipt.site)).peekable();
            if own.peek().is_none() {
                *absent.entry(receipt.site).or_default() += 1;
            }
            own.for_each(|ledger| accepted_was_paid(verdict, journal, record, receipt, ledger));
        }
        for (record, site, head) in journal.shown() {
            let own = ledgers.iter().filter(|ledger| ledger.site() == Some(site));
            own.for_each(|ledger| shown_is_kept(verdict, journal, record, head, ledger));
        }
        note_absent(verdict, journal, charter, &absent);
        for ledger in ledgers {
            same_member(verdict, journal, ledger);
        }
    }
    for ledger in ledgers {
        for record in &ledger.log.records {
            match &record.event {
                LedgerEvent::Approved { digest, .. } => same_plan(verdict, journals, ledger, record.seq, *digest),
                LedgerEvent::Reserve(reserve) => round_was_opened(verdict, journals, ledger, record.seq, reserve),
                LedgerEvent::Acked { receipt, .. } => receipt_is_kept(verdict, journals, ledger, record.seq, receipt),
                _ => {}
            }
        }
    }
}

fn note_absent(verdict: &mut Verdict, journal: &JournalBook, charter: &Charter, absent: &BTreeMap<SiteId, u32>) {
    let plan = &charter.plan.plan;
    for (site, updates) in absent {
        let name = journal.state.members.get(site).map_or_else(|| site.to_string(), |member| member.name.clone());
        let cost = (0..*updates).fold(Rho::default(), |sum, _| sum.plus(plan.rho_per_round()));
        let epsilon = cost.epsilon(plan.privacy.delta.get(), Adjacency::AddRemove);
        verdict.note(format!(
            "the ledger of `{name}` is not here: its {updates} accepted updates cost epsilon {epsilon:.3} (add/remove, delta {}) at the least, what else it spent is unknown",
            plan.privacy.delta
        ));
    }
}

/// An update in the journal must have been committed in the ledger: these bytes, for this round and model.
fn accepted_was_paid(
    verdict: &mut Verdict,
    journal: &JournalBook,
    record: u64,
    receipt: &Receipt,
    ledger: &LedgerBook,
) {
    let (theirs, journal_file) = (&ledger.log.file, &journal.log.file);
    let model = journal.opened(receipt.round).unwrap_or(Digest::ZERO);
    let query = Query { plan: receipt.plan, round: receipt.round, model };
    let Some(Committed { commit, payload, bytes, .. }) = ledger.state.releases.get(&query) else {
        if ledger.log.whole {
            let problem = format!(
                "the update was accepted, but `{theirs}` has no COMMIT for it: its end is cut off, or the release was never paid for"
            );
            verdict.find(journal_file, Some(record), Kind::Unpaid, problem);
        }
        return;
    };
    if (*payload, *bytes) != (receipt.payload, receipt.bytes) {
        let problem =
            format!("the update that was accepted is not the one that record {commit} of `{theirs}` committed");
        verdict.find(journal_file, Some(record), Kind::Unpaid, problem);
    }
    let right = ledger.log.had(receipt.ledger) && receipt.ledger.length > *commit;
    if !right && should_have(ledger, receipt.ledger) {
        let problem = format!(
            "the update came with a head that `{theirs}` does not have after its COMMIT: the ledger was cut off or exchanged"
        );
        verdict.find(journal_file, Some(record), Kind::CutOff, problem);
    }
}

/// Whether what is here of a ledger reaches to `head`, or claims to be all of it.
fn should_have(ledger: &LedgerBook, head: Head) -> bool {
    (head.length as usize) <= ledger.log.records.len() || ledger.log.whole
}

/// A head that came with an update, whatever became of that, must be in the ledger.
fn shown_is_kept(verdict: &mut Verdict, journal: &JournalBook, record: u64, head: Head, ledger: &LedgerBook) {
    if !ledger.log.had(head) && should_have(ledger, head) {
        let problem = format!(
            "an update was announced with a head that `{}` does not have: the ledger was cut off, exchanged or replaced by an \
             older copy",
            ledger.log.file
        );
        verdict.find(&journal.log.file, Some(record), Kind::CutOff, problem);
    }
}

/// The site that joined and the one that keeps the ledger must be one.
fn same_member(verdict: &mut Verdict, journal: &JournalBook, ledger: &LedgerBook) {
    let Some(owner) = &ledger.state.owner else { return };
    let Some(member) = journal.state.members.get(&owner.site) else { return };
    if member.ledger_key != owner.key {
        let problem = format!(
            "the ledger is signed by key {}, but the site joined `{}` with key {}: this is not the ledger that it had",
            owner.key, journal.log.file, member.ledger_key
        );
        verdict.find(&ledger.log.file, Some(0), Kind::Identity, problem);
    }
    if member.name != owner.name {
        verdict.note(format!(
            "site {} calls itself `{}` in its ledger and `{}` in its certificate",
            owner.site, owner.name, member.name
        ));
    }
}

/// The journal of the coordinator that an approval names.
fn journal_of<'a>(
    journals: &'a [JournalBook],
    ledger: &LedgerBook,
    plan: Digest,
) -> Option<(&'a JournalBook, &'a Charter)> {
    let approval = ledger.state.approved.get(&plan)?;
    journals
        .iter()
        .filter_map(|journal| journal.charter().map(|charter| (journal, charter)))
        .find(|(_, charter)| charter.coordinator == approval.coordinator && charter.digest == plan)
}

/// A plan that was approved is the plan of the journal, from the same consortium and coordinator.
fn same_plan(verdict: &mut Verdict, journals: &[JournalBook], ledger: &LedgerBook, record: u64, digest: Digest) {
    let Some(approval) = ledger.state.approved.get(&digest) else { return };
    let charters: Vec<_> = journals.iter().filter_map(JournalBook::charter).collect();
    let Some((journal, charter)) = journal_of(journals, ledger, digest) else {
        if charters.iter().any(|charter| charter.digest == digest) {
            let problem = format!(
                "plan {digest} was approved for coordinator {}, but another one signed the journal",
                approval.coordinator
            );
            verdict.find(&ledger.log.file, Some(record), Kind::Identity, problem);
        } else if charters.iter().any(|charter| charter.coordinator == approval.coordinator) {
            let problem =
                format!("plan {digest} was approved, but the coordinator's journal was founded on another plan");
            verdict.find(&ledger.log.file, Some(record), Kind::Plan, problem);
        } else {
            verdict.note(format!(
                "`{}` approved plan {digest}, whose journal is not here: receipts were not held against it",
                ledger.log.file
            ));
        }
        return;
    };
    if approval.plan.key != charter.plan.key {
        let problem = format!(
            "the plan is signed by consortium key {}, but `{}` was founded under key {}",
            approval.plan.key, journal.log.file, charter.plan.key
        );
        verdict.find(&ledger.log.file, Some(record), Kind::Identity, problem);
    }
}

/// What a site trained for must be a round that the coordinator opened, from the model that it published.
fn round_was_opened(
    verdict: &mut Verdict,
    journals: &[JournalBook],
    ledger: &LedgerBook,
    record: u64,
    reserve: &Reserve,
) {
    let Some((journal, _)) = journal_of(journals, ledger, reserve.plan) else { return };
    let problem = match journal.opened(reserve.round) {
        Some(model) if model == reserve.model => return,
        Some(_) => format!("round {} of `{}` started from another model", reserve.round, journal.log.file),
        None if !journal.log.whole => return,
        None => format!("`{}` has no round {}: its end is cut off", journal.log.file, reserve.round),
    };
    verdict.find(&ledger.log.file, Some(record), Kind::CutOff, problem);
}

/// A receipt must be in the journal of the coordinator that signed it.
fn receipt_is_kept(
    verdict: &mut Verdict,
    journals: &[JournalBook],
    ledger: &LedgerBook,
    record: u64,
    signed: &SignedReceipt,
) {
    let receipt = &signed.receipt;
    let Some((journal, _)) = journal_of(journals, ledger, receipt.plan) else { return };
    // From the records, not from what they add up to: an update that was accepted leaves an open round with its site.
    let same = |known: &&Receipt| (known.round, known.site) == (receipt.round, receipt.site);
    let known = journal.accepted().map(|(_, known)| known).find(same);
    if known == Some(receipt) || (known.is_none() && !journal.log.whole) {
        return;
    }
    let problem = format!(
        "the coordinator signed a receipt that `{}` does not have: the journal's end is cut off, or it was written anew",
        journal.log.file
    );
    verdict.find(&ledger.log.file, Some(record), Kind::CutOff, problem);
}

/// Patients do not get a second budget because their hospital got a second ledger: two of one name and cohort are told,
/// with what they spent together.
pub(super) fn note_second_budgets(verdict: &mut Verdict, ledgers: &[LedgerBook]) {
    let mut cohorts: BTreeMap<(&str, &str), Vec<&LedgerBook>> = BTreeMap::new();
    for ledger in ledgers {
        if let Some(owner) = &ledger.state.owner {
            cohorts.entry((&owner.name, &owner.cohort)).or_default().push(ledger);
        }
    }
    for ((name, cohort), mut books) in cohorts {
        // Two histories of one ledger are a finding already.
        books.sort_by_key(|book| book.site());
        books.dedup_by_key(|book| book.site());
        if books.len() < 2 {
            continue;
        }
        let spent = books.iter().fold(Rho::default(), |sum, book| sum.plus(book.state.spent));
        let deltas = books.iter().filter_map(|book| Some(book.state.policy.as_ref()?.delta.get()));
        let delta = deltas.fold(1e-2, f64::min);
        let files: Vec<String> = books.iter().map(|book| format!("`{}`", book.log.file)).collect();
        verdict.note(format!(
            "`{name}` has {} ledgers for the cohort `{cohort}` ({}): if these are the same patients, they spent epsilon {:.3} \
             (add/remove, delta {delta}) together",
            books.len(),
            files.join(", "),
            spent.epsilon(delta, Adjacency::AddRemove)
        ));
    }
}
