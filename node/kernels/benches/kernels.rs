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
    attention::{Attention, Shared, Tokens},
    conv::Conv,
    norm::{GroupNorm, moments_of_planes},
    peak,
    pool::Pool,
    resize::{Alignment, Resize},
    simd,
    source::{Source, Term},
};

fn main() {
    let mut criterion = Criterion::default().with_measurement(Speed::measure()).configure_from_args();
    convolution(&mut criterion.benchmark_group("conv"));
    norm(&mut criterion.benchmark_group("norm"));
    attention(&mut criterion.benchmark_group("attention"));
    pool(&mut criterion.benchmark_group("pool"));
    resize(&mut criterion.benchmark_group("resize"));
    criterion.final_summary();
}

type Group<'a> = BenchmarkGroup<'a, Speed>;

/// The convolutions of a V-Net with 16 filters and with 4, on images of 64³, and its ways down, up and out.
fn convolution(group: &mut Group) {
    let same = Conv::same([3; 3]);
    let rows = [
        (same, 16, 16, 64),
        (same, 4, 4, 64),
        (same, 1, 16, 64),
        (same, 8, 8, 32),
        (same, 32, 32, 32),
        (same, 64, 64, 16),
        (same, 128, 128, 8),
        (same, 256, 256, 4),
        (Conv::halving(), 16, 32, 64),
        (Conv::halving(), 128, 256, 8),
        (Conv::same([1; 3]), 16, 2, 64),
    ];
    for (conv, inputs, outputs, side) in rows {
        let [od, oh, ow] = conv.sides([side; 3]);
        let taps = conv.kernel.iter().product::<usize>();
        let fill = |count: usize| (0..count).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<f32>>();
        let (x, g) = (fill(inputs * side.pow(3)), fill(outputs * od * oh * ow));
        let (weight, bias) = (fill(outputs * inputs * taps), fill(outputs));
        let (x, g) = ([Term { values: &x, affine: None }], [Term { values: &g, affine: None }]);
        let x = Source::new([1, inputs, side, side, side], &x);
        let g = Source::new([1, outputs, od, oh, ow], &g);
        let zeros = vec![0.0; inputs];
        group.throughput(Throughput::Elements((2 * taps * inputs * outputs * od * oh * ow) as u64));
        let name = format!("{}³/{} {inputs} to {outputs} at {side}³", conv.kernel[0], conv.stride);
        group.bench_function(format!("{name}, value"), |b| b.iter(|| black_box(conv.forward(&x, &weight, &bias))));
        group.bench_function(format!("{name}, input gradient"), |b| {
            b.iter(|| black_box(conv.input_gradient(&g, &weight, &zeros, [side; 3])));
        });
        group.bench_function(format!("{name}, weight gradient"), |b| {
            b.iter(|| black_box(conv.weight_gradient(&x, &g)));
        });
    }
}

fn norm(group: &mut Group) {
    let shape = [1, 16, 64, 64, 64];
    let z: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i * 7919 % 1009) as f32 / 1009.0).collect();
    let (scale, shift) = (vec![1.0; 16], vec![-0.2; 16]);
    let norm = GroupNorm { shape, groups: 16, epsilon: 1e-5, scale: &scale, shift: &shift, keep: None };
    let statistics = norm.statistics(&moments_of_planes(&z, 64 * 64));
    let mut gradient = z.clone();
    group.throughput(Throughput::Bytes(4 * z.len() as u64));
    group.bench_function("moments", |b| b.iter(|| black_box(moments_of_planes(&z, 64 * 64))));
    group.throughput(Throughput::Bytes(4 * 3 * z.len() as u64));
    group.bench_function("gradients, in place", |b| {
        b.iter(|| black_box(norm.gradients(&z, &statistics, &mut gradient)));
    });
}

/// A transformer's blocks: all tokens of a grid, those of a padded window, and what SAM-Med3D makes of the latter.
fn attention(group: &mut Group) {
    let (heads, queries, value_width) = (12, 512, 64);
    let fill = |count: usize| (0..count).map(|i| (i * 7 % 13) as f32 / 13.0 - 0.5).collect::<Vec<f32>>();
    for (name, keys, width, groups) in
        [("512 keys", 512, 64, 0), ("2744 keys", 2744, 64, 0), ("513 keys, positions", 513, 73, 64)]
    {
        let [q, k] = [queries, keys].map(|tokens| fill(heads * tokens * width));
        let (v, rows) = (fill(heads * keys * value_width), fill(heads * groups * keys));
        let shared = (groups > 0).then_some(Shared { groups, rows: &rows });
        let extents = Attention { heads, queries, keys, width, value_width, scale: 0.125, shared };
        let [q, k] = [(&q, queries), (&k, keys)].map(|(x, tokens)| Tokens::by_head(x, tokens, width));
        let v = Tokens::by_head(&v, keys, value_width);
        group.throughput(Throughput::Elements((2 * heads * queries * keys * (width + value_width)) as u64));
        group.bench_function(name, |b| b.iter(|| black_box(extents.attend(q, k, v))));
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
