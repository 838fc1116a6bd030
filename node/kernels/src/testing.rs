//! What the tests of several kernels need.

/// Numbers between -4 and 4, the same for the same seed.
pub(crate) fn draw(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // SplitMix64 (Steele, Lea and Flood 2014)
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1_u32 << 21) as f32 - 4.0
    };
    (0..count).map(|_| next()).collect()
}

/// What `work` gives in a pool of so many threads.
pub(crate) fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(work)
}

/// Whether numbers agree with those of a definition to `tolerance` of the largest of them.
pub(crate) fn close(found: &[f32], expected: &[f64], tolerance: f64) -> bool {
    let largest = expected.iter().fold(1.0_f64, |largest, value| largest.max(value.abs()));
    let near = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() <= tolerance * largest;
    found.len() == expected.len() && found.iter().zip(expected).all(near)
}
