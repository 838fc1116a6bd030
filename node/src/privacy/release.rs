//! One answer to one question: RESERVE, noise, clip and sum, payload file, COMMIT. The only maker of a [`Release`], and the
//! network client takes nothing else, so the compiler proves that nothing un-noised or un-paid leaves (DESIGN, decision 1).
//!
//! ```text
//!   check policy, patients, budget, room on the disk      costs nothing
//!   RESERVE   append, fsync                               the budget is spent from here on
//!   draw the noise, then clip and sum, add, serialise     in this order: the time of a draw depends on no contribution
//!   payload   write, fsync, rename, fsync the folder
//!   COMMIT    append, fsync                               from here on only these bytes are ever sent
//! ```
//! An error or a crash between RESERVE and COMMIT becomes ABANDONED, without refund (spec/privacy.md, section 8).

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use semisam_shared::{
    disk::{Disk, folder_of},
    fold::update_to_bytes,
    ids::{Digest, SiteId, UnixMillis},
    ledger::{LedgerEvent, LedgerViolation, Query, Reserve},
    plan::Plan,
    receipt::Receipt,
};

use super::{
    book::{Book, BookError},
    clip::{Clip, ClipError},
    noise::{self, NoiseError, Purpose},
};

/// What the COMMIT record says about the proof of the sensitivity.
const CLIP_CHECK: &str = "integer-exact";

/// Nothing was released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The rules or the policy forbid it; the ledger has a record of it.
    #[error("refused: {reason}")]
    Refused {
        /// Which rule, and what would mend it.
        reason: String,
    },
    /// The question was answered before.
    #[error("round {} was already released from this model: the same bytes are sent again, never fresh noise", query.round)]
    Twice {
        /// The question.
        query: Query,
    },
    /// The contributions do not fit the plan.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The noise cannot be drawn.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// The payload cannot be written or read.
    #[error(
        "cannot {action} `{}`: see that the folder can be written and has room, and start again; no data left this \
         site", path.display()
    )]
    Payload {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The payload is not what the ledger committed to.
    #[error(
        "`{}` is not the update that record {commit} of the ledger committed to: it was damaged, exchanged or removed. Nothing \
         is sent for this round; restore the file from a copy, or let the round pass", path.display()
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// The COMMIT record.
        commit: u64,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// Bytes that were clipped, noised and paid for, and are on disk. Nothing else makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct Release {
    query: Query,
    digest: Digest,
    commit: u64,
    bytes: Vec<u8>,
}

impl Release {
    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The question that it answers.
    pub fn query(&self) -> Query {
        self.query
    }

    /// The COMMIT record.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// What the coordinator is asked to sign.
    pub fn receipt(&self, site: SiteId, book: &Book) -> Receipt {
        let Query { plan, round, .. } = self.query;
        Receipt { plan, round, site, payload: self.digest, bytes: self.bytes.len() as u64, ledger: book.head() }
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Release(round {}, {} bytes, {})", self.query.round, self.bytes.len(), self.digest.short())
    }
}

/// Answers `query` once: the noised sum of `contributions`, one of each patient, in the plan's release space.
///
/// # Privacy
/// Neighbours: one unit (patient or hospital, as the plan says) zeroed out, or exchanged for another at twice the
/// sensitivity. L2 sensitivity C in the grid's units, proved in integers; noise: exact discrete Gaussian of scale z C.
/// Guarantee: rho-zCDP with rho = 1 / (2 z²) (CKS20, theorem 14), charged to the ledger before anything is computed.
///
/// # Errors
/// If rules, policy, disk or system forbid it. An error after RESERVE leaves the budget spent.
pub fn release(
    book: &mut Book,
    payloads: &Path,
    query: Query,
    contributions: &[Vec<f64>],
    now: impl Fn() -> UnixMillis,
) -> Result<Release, ReleaseError> {
    let reserve = permitted(book, query, contributions.len(), now())?;
    let plan = book.ledger().approved.get(&query.plan).map(|approval| approval.plan.plan.clone());
    let plan = plan.ok_or(BookError::from(LedgerViolation::NotApproved(query.plan)))?;
    let site = book.ledger().owner.as_ref().map(|owner| owner.site).ok_or(BookError::from(LedgerViolation::Genesis))?;
    let clip = Clip::of_plan(&plan);
    clip.check(contributions)?;
    noise::check_cost(coordinates(&plan), reserve.sensitivity, reserve.sigma)?;
    let disk = book.disk();
    let room = make_room(&*disk, payloads, &plan)?;
    let paid = pay(book, reserve, now())?;
    let purpose = Purpose { site, query, reserve: paid, head: book.head() };
    let answered = answer(&plan, &clip, contributions, &purpose)
        .and_then(|bytes| Ok((keep(&*disk, payloads, &room, &bytes)?, bytes)))
        .and_then(|(digest, bytes)| commit(book, paid, query, digest, bytes, now()));
    if let Err(error) = &answered {
        let reason = match error {
            ReleaseError::Noise(_) => "the noise could not be drawn",
            ReleaseError::Payload { .. } => "the payload could not be written",
            _ => "the release could not be completed",
        };
        if let Err(second) = book.abandon_open(reason, now()) {
            tracing::error!("the ledger could not record that a release was abandoned; the next start will: {second}");
        }
    }
    answered
}

/// Whether `query` could be released now: a dry run of everything that costs nothing, before hours of training. A refusal
/// is recorded.
///
/// # Errors
/// The rule, policy or budget that forbids it.
pub fn permit(book: &mut Book, query: Query, patients: usize, now: UnixMillis) -> Result<(), ReleaseError> {
    permitted(book, query, patients, now).map(|_| ())
}

/// The committed answer to `query`, if there is one: the same bytes as ever.
///
/// # Errors
/// If the payload is missing or differs from what the ledger committed to; then nothing may be sent.
pub fn resume(book: &Book, payloads: &Path, query: Query) -> Result<Option<Release>, ReleaseError> {
    let Some(committed) = book.ledger().releases.get(&query) else { return Ok(None) };
    let path = payload_path(payloads, committed.payload);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(committed.bytes + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(payload("read", &path)(error)),
        // A missing file reads as an empty one.
        _ => {}
    }
    if bytes.len() as u64 != committed.bytes || Digest::of(&bytes) != committed.payload {
        tracing::error!(
            "`{}` differs from the committed update: refusing to send it, tell your data protection officer",
            path.display()
        );
        return Err(ReleaseError::Damaged { path, commit: committed.commit });
    }
    Ok(Some(Release { query, digest: committed.payload, commit: committed.commit, bytes }))
}

/// Committed releases that the coordinator has not confirmed yet, oldest first.
pub fn unconfirmed(book: &Book) -> Vec<Query> {
    let releases = book.ledger().releases.iter().filter(|(_, committed)| committed.receipt.is_none());
    let mut open: Vec<_> = releases.map(|(query, committed)| (committed.commit, *query)).collect();
    open.sort();
    open.into_iter().map(|(_, query)| query).collect()
}

fn permitted(book: &mut Book, query: Query, patients: usize, now: UnixMillis) -> Result<Reserve, ReleaseError> {
    book.abandon_open("an earlier attempt ended before COMMIT", now)?;
    if book.ledger().releases.contains_key(&query) {
        return Err(ReleaseError::Twice { query });
    }
    let least = book.ledger().policy.as_ref().map(|policy| policy.patients_min);
    let few = least.filter(|least| (patients as u64) < u64::from(*least));
    let (refusal, requested) = match (few, book.ledger().reservation(query)) {
        (None, Ok(reserve)) => return Ok(reserve),
        (Some(least), _) => {
            (format!("fewer patients than the {least} that `patients_min` of the policy demands"), None)
        }
        (None, Err(violation)) => match violation {
            LedgerViolation::Budget { would_be, .. } => (violation.to_string(), Some(would_be)),
            _ => (violation.to_string(), None),
        },
    };
    book.refused_for(query.plan, Some(query.round), &refusal, requested, now)?;
    Err(ReleaseError::Refused { reason: refusal })
}

fn coordinates(plan: &Plan) -> usize {
    usize::try_from(plan.privacy.release.coordinates()).unwrap_or(usize::MAX)
}

fn pay(book: &mut Book, reserve: Reserve, now: UnixMillis) -> Result<u64, ReleaseError> {
    Ok(book.append(LedgerEvent::Reserve(reserve), now)?)
}

/// The noised sum. The noise is drawn before any contribution is touched.
fn answer(plan: &Plan, clip: &Clip, contributions: &[Vec<f64>], purpose: &Purpose) -> Result<Vec<u8>, ReleaseError> {
    let noise = noise::draw(coordinates(plan), semisam_shared::plan::SIGMA, purpose)?;
    let noised = clip.noised(noise, contributions)?;
    Ok(update_to_bytes(&noised))
}

fn commit(
    book: &mut Book,
    reserve: u64,
    query: Query,
    digest: Digest,
    bytes: Vec<u8>,
    now: UnixMillis,
) -> Result<Release, ReleaseError> {
    let event = LedgerEvent::Commit {
        reserve,
        payload: digest,
        bytes: bytes.len() as u64,
        clip_check: CLIP_CHECK.into(),
        noise: noise::SOURCE.into(),
    };
    let commit = book.append(event, now)?;
    Ok(Release { query, digest, commit, bytes })
}

/// Where the payload with this digest is kept.
pub fn payload_path(payloads: &Path, digest: Digest) -> PathBuf {
    payloads.join(format!("{digest}.bin"))
}

/// Writes a file of the payload's size before anything is paid: a full disk must not burn budget.
fn make_room(disk: &dyn Disk, payloads: &Path, plan: &Plan) -> Result<PathBuf, ReleaseError> {
    disk.create_folder(payloads)
        .and_then(|()| disk.sync_folder(folder_of(payloads)))
        .map_err(payload("make the folder", payloads))?;
    let path = payloads.join("payload.tmp");
    let zeros = vec![0_u8; 1 << 16];
    let write = || -> io::Result<()> {
        let file = disk.create(&path)?;
        let mut left = plan.update_bytes();
        while left > 0 {
            let part = left.min(zeros.len() as u64);
            disk.write(&path, &file, &zeros[..part as usize])?;
            left -= part;
        }
        disk.sync(&path, &file)
    };
    write().map_err(payload("write", &path))?;
    Ok(path)
}

/// Puts `bytes` where the room is, and gives them their name. The file is not emptied first: its room stays taken.
fn keep(disk: &dyn Disk, payloads: &Path, room: &Path, bytes: &[u8]) -> Result<Digest, ReleaseError> {
    let digest = Digest::of(bytes);
    let path = payload_path(payloads, digest);
    let write = || -> io::Result<()> {
        let file = File::options().write(true).open(room)?;
        disk.write(room, &file, bytes)?;
        disk.set_length(room, &file, bytes.len() as u64)?;
        disk.sync(room, &file)?;
        disk.rename(room, &path)?;
        disk.sync_folder(payloads)
    };
    write().map_err(payload("write", &path))?;
    Ok(digest)
}

fn payload(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReleaseError {
    let path = path.to_owned();
    move |source| ReleaseError::Payload { action, path, source }
}
