//! Burn 0.21's names of what the decoder is written with: a tensor's type knows its backend.

use burn::backend::Cuda;
use burn::backend::cuda::CudaDevice;
use burn::tensor::{Int, Tensor};

/// A tensor of floats with `D` dimensions.
pub type Floats<const D: usize> = Tensor<Cuda, D>;

/// A row of token ids or positions.
pub type Ids = Tensor<Cuda, 1, Int>;

/// Root mean square norm.
pub type RmsNorm = burn::nn::RmsNorm<Cuda>;

/// A GPU.
pub type Device = CudaDevice;

/// Name of the engine.
pub const ENGINE: &str = "burn-cuda";
/// Version of burn.
pub const VERSION: &str = "burn 0.21.0";
/// What its tensors are computed by.
pub const BACKEND: &str = "cuda";
/// `cpu` or `cuda`.
pub const DEVICE: &str = "cuda";

/// The first GPU, or why there is none. Burn itself ends the program where the driver's library is missing.
pub fn device() -> Result<Device, String> {
    let name = "libcuda.so.1";
    // SAFETY: the driver's library is made to be loaded by programs, and its initialisers ask nothing of them.
    match unsafe { libloading::Library::new(name) } {
        Ok(_) => Ok(CudaDevice::new(0)),
        Err(error) => Err(format!("no CUDA driver: {error}")),
    }
}

/// Waits until a tensor is computed.
pub fn wait<const D: usize>(tensor: &Floats<D>) {
    use burn::tensor::backend::Backend;
    Cuda::<f32, i32>::sync(&tensor.device()).expect("the device computes");
}

/// All elements, on this side.
pub fn values<const D: usize>(tensor: Floats<D>) -> Vec<f32> {
    tensor.into_data().into_vec().expect("floats are f32")
}
