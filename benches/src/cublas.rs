//! cuBLAS as a contender, through `cudarc`, which loads it and the driver when they are there.

use cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_N;
use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, StridedBatchedConfig};
use cudarc::driver::CudaContext;

use crate::contest::Contender;

/// `count` products of `m × k` with `k × n` matrices that are on the device before and stay there; each sample ends when the device
/// has finished. In f32 throughout: tensor cores' shorter f32 is not asked for.
pub fn contender(count: usize, shape: [usize; 3], a: &[f32], b: &[f32]) -> Contender<'static> {
    const NAME: &str = "cuBLAS (on the device, without transfers)";
    // SAFETY: they only look for the libraries.
    if !unsafe { cudarc::driver::sys::is_culib_present() && cudarc::cublas::sys::is_culib_present() } {
        let why = "needs an NVIDIA driver and cuBLAS 12: apt install libcublas-12-8 from NVIDIA's repository; \
                   Windows: the CUDA 12 toolkit; macOS: none";
        return Contender::absent(NAME, why);
    }
    prepared(count, shape, a, b)
        .map_or_else(|error| Contender::absent(NAME, error.to_string()), |run| Contender::new(NAME, run))
}

fn prepared(
    count: usize,
    [m, n, k]: [usize; 3],
    a: &[f32],
    b: &[f32],
) -> Result<impl FnMut() + 'static, Box<dyn std::error::Error>> {
    let stream = CudaContext::new(0)?.default_stream();
    let blas = CudaBlas::new(stream.clone())?;
    let (a, b) = (stream.clone_htod(a)?, stream.clone_htod(b)?);
    let mut out = stream.alloc_zeros::<f32>(count * m * n)?;
    let [rows, columns, terms] = [i32::try_from(m)?, i32::try_from(n)?, i32::try_from(k)?];
    // Columns first, as cuBLAS has it, `b` is the left side: out' = b' a'.
    let gemm = GemmConfig {
        transa: CUBLAS_OP_N,
        transb: CUBLAS_OP_N,
        m: columns,
        n: rows,
        k: terms,
        alpha: 1.0,
        lda: columns,
        ldb: terms,
        beta: 0.0,
        ldc: columns,
    };
    let config = StridedBatchedConfig {
        gemm,
        batch_size: i32::try_from(count)?,
        stride_a: (k * n) as i64,
        stride_b: (m * k) as i64,
        stride_c: (m * n) as i64,
    };
    Ok(move || {
        // SAFETY: sizes and strides are those of the buffers.
        let result = unsafe {
            if count == 1 {
                blas.gemm(gemm, &b, &a, &mut out)
            } else {
                blas.gemm_strided_batched(config, &b, &a, &mut out)
            }
        };
        result.expect("cuBLAS multiplies");
        stream.synchronize().expect("the device finishes");
    })
}
