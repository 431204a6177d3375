//! NEON with 8-bit matrix multiplication (`FEAT_I8MM`): 32 products of bytes added in one instruction.
//!
//! `smmla` multiplies two rows of eight bytes with two others and adds to a square of four sums: two positions times two
//! rows of weights. That pays from two positions on, so only the panels of many positions differ from [`super::dotprod`],
//! whose packed layout and single positions this table shares: one packed model is good for both. Rows come in pairs as a
//! panel is stored, by `st2`, which is no instruction more.

use super::packed::{pack, unpack_row};
use super::{Allowed, Kernels, Packing, dotprod};

mod tile;

/// The table of dot products with other products of many positions.
pub(super) static TABLE: Kernels = Kernels {
    name: "i8mm",
    packing: Some(Packing {
        rows: 8,
        pack: pack::<8>,
        unpack: unpack_row,
        turned: dotprod::signed_nibbles,
        matmul: dotprod::matmul::<tile::Squares>,
    }),
    ..dotprod::TABLE
};

static ALLOWED: Allowed = Allowed::nobody_knows();

/// Lets the table `i8mm` be chosen, for platforms where only the caller can ask the CPU.
///
/// # Safety
/// - Every core that will run kernels has `FEAT_DotProd` and `FEAT_I8MM` (ID_AA64ISAR1_EL1.I8MM is not 0).
pub unsafe fn allow() {
    ALLOWED.allow();
}

/// Whether this CPU has the instructions, as far as this build can know.
pub(super) fn detected() -> bool {
    #[cfg(any(feature = "std", test))]
    {
        extern crate std;
        if std::arch::is_aarch64_feature_detected!("i8mm")
            && std::arch::is_aarch64_feature_detected!("dotprod")
        {
            return true;
        }
    }
    ALLOWED.is_allowed()
}

#[cfg(test)]
mod tests {
    #[test]
    #[ignore = "needs a CPU with matrix multiplication: qemu-aarch64 -cpu max"]
    fn a_cpu_with_matrix_multiplication_gets_its_table() {
        let names: alloc::vec::Vec<_> = crate::llm::simd::available().map(|kernels| kernels.name).collect();
        assert_eq!(names, ["scalar", "neon", "dotprod", "i8mm"]);
        assert_eq!(crate::llm::simd::best().name, "i8mm");
    }
}
