//! What becomes of memory that is given back: the process keeps it.
//!
//! A training step asks for the same tens of megabytes a hundred times over and gives them back. The GNU C library maps
//! blocks of that size anew each time and clears every page of them, and gives each thread a heap of its own, whose
//! leftovers nobody else uses. One heap that is kept took 8 % off a step and a quarter off its peak (BENCHMARKS.md).

/// Keeps one heap for all threads, and in it what is freed, up to two gigabytes. For the start of a program that trains; on
/// systems without the GNU C library nothing changes.
pub fn keep_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, i32::MAX), (libc::M_TRIM_THRESHOLD, i32::MAX)]
    {
        // SAFETY: mallopt(3) takes two integers and only sets how later allocations are served; one that it does not
        // know or finds too large changes nothing
        unsafe { libc::mallopt(parameter, value) };
    }
}
