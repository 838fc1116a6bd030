//! Random words for one release, from a key that nobody else has, that is used once, and that is wiped (spec/privacy.md,
//! section 9).
//!
//! A generator that is copied with the memory of a process or with the snapshot of a machine gives the same noise to two
//! different sums, and the difference of the two releases is then the bare difference of the data. So each release has a
//! key of its own: 32 bytes that the operating system gives after RESERVE is on disk, extracted and expanded with
//! HKDF-SHA256 (RFC 5869) under the names of everything that the release answers: site, plan, round, model, the RESERVE record
//! and the head of the ledger that ends in it. Should the system ever give the same bytes twice, two different releases
//! still get different keys. HKDF is AWS-LC's, which wipes what it computed from the entropy.
//!
//! The key stream is ChaCha20 (RFC 8439). Each chunk of coordinates has its own nonce, so the words of a chunk do not depend
//! on how many threads draw. Key, cipher state and words are wiped when they are dropped.

use aws_lc_rs::hkdf;
use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit, StreamCipher},
};
use semisam_shared::{
    chain::Head,
    ids::{Digest, RoundNumber, SiteId},
    ledger::Query,
};
use zeroize::{Zeroize, Zeroizing};

use super::NoiseError;

/// What separates these keys from every other use of the same entropy.
const SALT: &[u8] = b"semisam/1 privacy noise\0";

/// Words that are made at once.
const WORDS: usize = 512;

/// What a release is: every part goes into its key, so no two releases share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The hospital.
    pub site: SiteId,
    /// Plan, round and model.
    pub query: Query,
    /// The number of the RESERVE record that pays.
    pub reserve: u64,
    /// The ledger's head right after it.
    pub head: Head,
}

impl Purpose {
    /// Fixed lengths, so that no two purposes have the same bytes.
    fn to_bytes(self) -> Vec<u8> {
        let Query { plan: Digest(plan), round: RoundNumber(round), model: Digest(model) } = self.query;
        let Head { length, hash: Digest(hash) } = self.head;
        let numbers = [u64::from(round), self.reserve, length].map(u64::to_le_bytes);
        [&self.site.0[..], &plan, &model, &hash, numbers.as_flattened()].concat()
    }
}

/// The key of one release.
pub(super) struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// A key that never was before, for `purpose` alone.
    ///
    /// # Errors
    /// If the operating system gives no entropy.
    pub(super) fn fresh(purpose: &Purpose) -> Result<Self, NoiseError> {
        let mut entropy = Zeroizing::new([0_u8; 32]);
        getrandom::fill(entropy.as_mut_slice()).map_err(|error| NoiseError::Entropy(error.to_string()))?;
        Self::derived(&entropy, purpose)
    }

    fn derived(entropy: &[u8; 32], purpose: &Purpose) -> Result<Self, NoiseError> {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(entropy);
        let mut key = Zeroizing::new([0_u8; 32]);
        extracted
            .expand(&[&purpose.to_bytes()], hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(key.as_mut_slice()))
            .map_err(|_| NoiseError::Derivation)?;
        Ok(Self(key))
    }

    /// A key that tests know. Programs cannot call this: it is not compiled into them.
    #[cfg(test)]
    pub(super) fn known(seed: u8) -> Self {
        Self(Zeroizing::new([seed; 32]))
    }

    /// The words of chunk number `chunk`.
    pub(super) fn stream(&self, chunk: u64) -> Stream {
        let mut nonce = [0_u8; 12];
        nonce[..8].copy_from_slice(&chunk.to_le_bytes());
        let cipher = ChaCha20::new((&*self.0).into(), &nonce.into());
        Stream { cipher, bytes: Zeroizing::new([0; 8 * WORDS]), at: 8 * WORDS }
    }
}

/// Uniform 64-bit words.
pub(super) struct Stream {
    cipher: ChaCha20,
    bytes: Zeroizing<[u8; 8 * WORDS]>,
    at: usize,
}

impl Stream {
    /// The next word.
    pub(super) fn word(&mut self) -> u64 {
        if self.at == self.bytes.len() {
            self.refill();
        }
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[self.at..self.at + 8]);
        self.at += 8;
        u64::from_le_bytes(word)
    }

    #[cold]
    fn refill(&mut self) {
        self.bytes.zeroize();
        self.cipher
            .try_apply_keystream(self.bytes.as_mut_slice())
            .expect("a chunk uses less than the 256 GiB that a nonce has");
        self.at = 0;
    }

    /// Uniform below `bound`, which is not zero (Lemire 2019: multiply, and throw the uneven rest away).
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let rest = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.word()) * u128::from(bound);
            if product as u64 >= rest {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose() -> Purpose {
        Purpose {
            site: SiteId([1; 32]),
            query: Query { plan: Digest([2; 32]), round: RoundNumber(3), model: Digest([4; 32]) },
            reserve: 5,
            head: Head { length: 6, hash: Digest([7; 32]) },
        }
    }

    fn key_of(entropy: u8, purpose: Purpose) -> [u8; 32] {
        *Key::derived(&[entropy; 32], &purpose).expect("derived").0
    }

    /// From an independent HKDF (`cryptography.hazmat.primitives.kdf.hkdf`, Python).
    #[test]
    fn keys_are_those_of_rfc_5869() {
        assert_eq!(purpose().to_bytes().len(), 4 * 32 + 3 * 8);
        assert_eq!(
            hex::encode(key_of(9, purpose())),
            "f6406dcc5459e016246362128a7fd84e021f0cbffaeedc6e38d227852cc3bfa6"
        );
    }

    #[test]
    fn each_part_of_a_purpose_makes_another_key() {
        let base = purpose();
        let others = [
            Purpose { site: SiteId([8; 32]), ..base },
            Purpose { query: Query { plan: Digest([8; 32]), ..base.query }, ..base },
            Purpose { query: Query { round: RoundNumber(8), ..base.query }, ..base },
            Purpose { query: Query { model: Digest([8; 32]), ..base.query }, ..base },
            Purpose { reserve: 8, ..base },
            Purpose { head: Head { length: 8, ..base.head }, ..base },
            Purpose { head: Head { hash: Digest([8; 32]), ..base.head }, ..base },
        ];
        let mut keys: Vec<_> = others.into_iter().map(|purpose| key_of(9, purpose)).collect();
        keys.push(key_of(9, base));
        keys.push(key_of(10, base));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 9);
        assert_ne!(Key::fresh(&base).expect("entropy").0, Key::fresh(&base).expect("entropy").0);
    }

    /// RFC 8439, appendix A.1, test vectors 1 and 3: the zero key, block 0; and a word across the end of the buffer.
    #[test]
    fn words_are_chacha20() {
        let mut stream = Key::known(0).stream(0);
        assert_eq!(stream.word().to_le_bytes(), [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
        assert_eq!(stream.word().to_le_bytes(), [0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86, 0xbd, 0x28]);
        let later: Vec<u64> = (2..2 * WORDS + 2).map(|_| stream.word()).collect();
        assert_eq!(later[WORDS - 2..WORDS], [0xad1d_7aa3_285b_6f1c, 0xd0ed_2c2d_4f8c_9f39]);
        assert_ne!(Key::known(0).stream(1).word(), Key::known(0).stream(0).word());
    }

    #[test]
    fn below_is_uniform() {
        let mut stream = Key::known(1).stream(0);
        for bound in [1, 2, 3, 7, 10] {
            let mut counts = vec![0.0_f64; bound as usize];
            (0..100_000).for_each(|_| counts[stream.below(bound) as usize] += 1.0);
            let expected = 100_000.0 / bound as f64;
            let chi: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
            // The chance to exceed this with 9 degrees of freedom is 1e-6; the key is fixed.
            assert!(chi < 45.0, "{bound}: {chi}");
        }
    }

    #[test]
    fn what_is_dropped_is_wiped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        wiped::<ChaCha20>();
        wiped::<Zeroizing<[u8; 32]>>();
        wiped::<Zeroizing<[u8; 8 * WORDS]>>();
    }
}
