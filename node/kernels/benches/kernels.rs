//! How fast the kernels are: `cargo bench -p semisam-kernels`, behind `--` a name as filter.
//!
//! Arithmetic is given in GFLOP/s and as a share of the peak, which is measured first, on as many threads; what memory
//! bounds is given in GB/s of input and output. `SEMISAM_KERNELS` forces a path, `RAYON_NUM_THREADS` the threads.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use semisam_kernels::{
    attention::{Attention, Padding, Positions, Tokens},
    peak,
    pool::Pool,
    resize::{Alignment, Resize},
    simd,
};

fn main() {
    let mut criterion = Criterion::default().with_measurement(Speed::measure()).configure_from_args();
    attention(&mut criterion.benchmark_group("attention"));
    pool(&mut criterion.benchmark_group("pool"));
    resize(&mut criterion.benchmark_group("resize"));
    criterion.final_summary();
}

type Group<'a> = BenchmarkGroup<'a, Speed>;

/// Heads, queries, keys and width of the transformer's blocks: a whole grid, and a padded window key by key and at once.
fn attention(group: &mut Group) {
    let (heads, queries, width) = (12, 512, 64);
    let fill = |count: usize| (0..count).map(|i| (i * 7 % 13) as f32 / 13.0 - 0.5).collect::<Vec<f32>>();
    for (name, side, window, positioned) in [
        ("512 keys", 8, 8, false),
        ("2744 keys", 14, 14, false),
        ("512 keys, positions", 8, 8, true),
        ("2744 keys, positions", 14, 14, true),
        ("512 keys and 2232 of padding, positions", 8, 14, true),
    ] {
        let keys = side * side * side;
        let [q, k, v] = [queries, keys, keys].map(|tokens| fill(heads * tokens * width));
        let (table, one) = (fill(heads * queries * window), fill(heads * width));
        let padding = (side < window).then_some(Padding { grid: [side; 3], key: &one, value: &one });
        let positions = Positions { window: [window; 3], tables: [&table; 3], padding };
        let scale = 1.0 / (width as f32).sqrt();
        let extents = Attention { heads, queries, keys, width, scale, positions: positioned.then_some(positions) };
        let tokens = [(&q, queries), (&k, keys), (&v, keys)].map(|(x, tokens)| Tokens::by_head(x, tokens, width));
        group.throughput(Throughput::Elements((4 * heads * queries * keys * width) as u64));
        group.bench_function(name, |b| b.iter(|| black_box(extents.attend(tokens[0], tokens[1], tokens[2]))));
    }
}

fn pool(group: &mut Group) {
    let shape = [2, 16, 64, 64, 64];
    let pool = Pool::new(shape, [2; 3]);
    let x: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i * 7919 % 1009) as f32).collect();
    let g = pool.mean(&x);
    group.throughput(Throughput::Bytes(4 * (x.len() + g.len()) as u64));
    group.bench_function("max", |b| b.iter(|| black_box(pool.max(&x))));
    group.bench_function("mean", |b| b.iter(|| black_box(pool.mean(&x))));
    group.bench_function("mean, gradient", |b| b.iter(|| black_box(pool.mean_gradient(&g))));
    group.throughput(Throughput::Bytes(4 * (2 * x.len() + g.len()) as u64));
    group.bench_function("max, gradient", |b| b.iter(|| black_box(pool.max_gradient(&x, &g))));
}

fn resize(group: &mut Group) {
    for (channels, from, to) in [(2, 32, 128), (16, 32, 64), (2, 128, 32)] {
        let resize = Resize::new([from; 3], [to; 3], Alignment::Faces);
        let x: Vec<f32> = (0..channels * from * from * from).map(|i| (i * 7919 % 1009) as f32).collect();
        let g = resize.apply(&x);
        group.throughput(Throughput::Bytes(4 * (x.len() + g.len()) as u64));
        let name = format!("{channels} channels, {from}³ to {to}³");
        group.bench_function(BenchmarkId::from_parameter(&name), |b| b.iter(|| black_box(resize.apply(&x))));
        group.bench_function(format!("{name}, gradient"), |b| b.iter(|| black_box(resize.gradient(&g))));
    }
}

/// Wall time, whose throughput is told as a share of the peak.
struct Speed {
    /// Floating-point operations per nanosecond.
    peak: f64,
}

impl Speed {
    /// Measures the peak of this machine, the best of several tries, and says what it is.
    fn measure() -> Self {
        let (path, rounds) = (simd::path(), 4_000_000);
        let once = || {
            let start = Instant::now();
            let done = rayon::broadcast(|_| black_box(peak::multiply_adds(path, rounds)).0);
            done.into_iter().sum::<u64>() as f64 / start.elapsed().as_nanos() as f64
        };
        let peak = (0..10).map(|_| once()).fold(0.0, f64::max);
        eprintln!("{path} on {} threads: the peak is {peak:.1} GFLOP/s", rayon::current_num_threads());
        Self { peak }
    }
}

impl Measurement for Speed {
    type Intermediate = Instant;
    type Value = Duration;

    fn start(&self) -> Instant {
        WallTime.start()
    }

    fn end(&self, start: Instant) -> Duration {
        WallTime.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        WallTime.add(a, b)
    }

    fn zero(&self) -> Duration {
        WallTime.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Speed {
    fn format_throughput(&self, throughput: &Throughput, nanoseconds: f64) -> String {
        match throughput {
            Throughput::Elements(operations) => {
                let speed = *operations as f64 / nanoseconds;
                format!("{speed:.1} GFLOP/s = {:.0} %", 100.0 * speed / self.peak)
            }
            Throughput::Bytes(bytes) => format!("{:.1} GB/s", *bytes as f64 / nanoseconds),
            _ => WallTime.formatter().format_throughput(throughput, nanoseconds),
        }
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_throughputs(typical, throughput, values)
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}
