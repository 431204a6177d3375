//! Burn 0.22's names of what the decoder is written with: a tensor's type does not know its device.

use burn::tensor::{Int, Tensor};

pub use burn::nn::RmsNorm;
pub use burn::tensor::Device;

/// A tensor of floats with `D` dimensions.
pub type Floats<const D: usize> = Tensor<D>;

/// A row of token ids or positions.
pub type Ids = Tensor<1, Int>;

/// Name of the engine.
pub const ENGINE: &str = "burn";
/// Version of burn.
pub const VERSION: &str = "burn 0.22.1";
/// What its tensors are computed by.
pub const BACKEND: &str = "flex, with simd and rayon";
/// `cpu` or `cuda`.
pub const DEVICE: &str = "cpu";

/// This CPU.
pub fn device() -> Result<Device, String> {
    Ok(Device::flex())
}

/// Waits until a tensor is computed: on a CPU it is.
pub fn wait<const D: usize>(_tensor: &Floats<D>) {}

/// All elements, on this side.
pub fn values<const D: usize>(tensor: Floats<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("floats are f32")
}
