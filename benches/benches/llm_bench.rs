//! The suite's cases under criterion: `cargo bench --bench llm_bench [FILTER]`.
//!
//! The bodies are the library's, so these are the cases that run in the kernel. Every answer is checked. Whole models
//! are the smallest synthetic one, on one thread.

use std::time::{Duration, Instant};

use barelm::llm::benchmarks::{Case, ModelSize, end_to_end, micro};
use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::pool::Solo;
use barelm::llm::simd;
use criterion::{BenchmarkId, Criterion, Throughput};

/// Measures one case; a wrong answer ends the run.
fn measure(criterion: &mut Criterion, kernels: &str, case: &mut dyn Case) {
    let work = case.work();
    let mut group = criterion.benchmark_group(case.name());
    group.throughput(match (work.flops, work.bytes) {
        (0, 0) => Throughput::Elements(1),
        (0, bytes) => Throughput::Bytes(bytes),
        (flops, _) => Throughput::Elements(flops),
    });
    let mut ran = false;
    group.bench_function(BenchmarkId::from_parameter(kernels), |bencher| {
        bencher.iter_custom(|calls| {
            let start = Instant::now();
            case.run(calls);
            let elapsed = start.elapsed();
            ran = true;
            elapsed
        });
    });
    if ran && let Err(wrong) = case.check() {
        panic!("{} ({kernels}): {wrong}", case.name());
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();
    micro::plain_cases(&|_| true, &mut |case| measure(&mut criterion, "any", case));
    for kernels in simd::available() {
        micro::kernel_cases(kernels, &|_| true, &mut |case| measure(&mut criterion, kernels.name, case));
    }
    let size = ModelSize::Tiny;
    let file = size.build().expect("memory for 2 MB of weights");
    let gguf = Gguf::parse(&file).expect("a synthetic file is well formed");
    let model = Model::load(&gguf, LoadConfig::default()).expect("a synthetic model loads");
    for kernels in simd::available() {
        let name = format!("{}/{}", size.name(), kernels.name);
        end_to_end::model_cases(&model, kernels, &Solo, 32, &mut |case| measure(&mut criterion, &name, case))
            .unwrap_or_else(|reason| panic!("{name}: {reason}"));
    }
    criterion.final_summary();
}
