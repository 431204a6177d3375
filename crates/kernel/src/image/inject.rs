//! Raising faults on request.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::hint::black_box;

use super::fault::Fault;
use super::model::Loaded;
use crate::arch::aarch64::{hypervisor, vectors};
use crate::console_line as line;
use crate::llm::plan::SessionConfig;
use crate::llm::pool::{Team, run_on_all};
use crate::llm::simd::Kernels;
use crate::llm::transformer::Session;

/// Nothing is mapped here: the last bytes of the lower half of the address space, which has 39 bits.
const NOWHERE: usize = 0x7f_ffff_f000;

/// What faults are raised in.
pub struct Bench<'b> {
    /// The cores.
    pub team: &'b dyn Team,
    /// The kernels of sessions.
    pub kernels: &'static Kernels,
    /// The model, where there is one.
    pub loaded: Option<&'b Loaded>,
}

impl Bench<'_> {
    /// Raises `fault`. Most end the machine; the rest come back as what is to be reported: the error that was found, or
    /// why nothing happened, which may be a protection that is missing.
    pub fn raise(&self, fault: Fault) -> String {
        line!("raising the fault `{}`", name(fault));
        let missing = match fault {
            Fault::DataAbort => {
                // SAFETY: nothing is there: the read takes a data abort, which ends the machine.
                black_box(unsafe { core::ptr::without_provenance::<u8>(NOWHERE).read_volatile() });
                "memory that does not exist was read"
            }
            Fault::InstructionAbort => {
                jump(NOWHERE);
                "memory that does not exist was executed"
            }
            Fault::Alignment => {
                exclusive_unaligned();
                "an exclusive access need not be aligned here"
            }
            Fault::Undefined => {
                // SAFETY: `udf` never completes: it takes the undefined-instruction exception, which ends the machine.
                unsafe { core::arch::asm!("udf #0") };
                "the undefined instruction was executed"
            }
            Fault::SystemError => match hypervisor::raise_system_error() {
                // It is pending, and taken at the latest here.
                true => {
                    vectors::unmask_errors();
                    cortex_a::asm::barrier::isb(cortex_a::asm::barrier::SY);
                    "the system error did not arrive"
                }
                false => {
                    "only EL2 can make a system error, and this machine was entered at EL1 (QEMU: -M virt,virtualization=on)"
                }
            },
            Fault::Stack => {
                black_box(descend(black_box(1)));
                "the stack has no end"
            }
            Fault::CoreStack => {
                self.on_last_core(&|| {
                    black_box(descend(black_box(1)));
                });
                "the stack has no end"
            }
            Fault::WriteText => {
                let code = jump as fn(usize) as *mut u32;
                // SAFETY: code is mapped read-only: the write takes a permission fault, which ends the machine. Without
                // that protection the word keeps its value.
                unsafe { code.write_volatile(code.read_volatile()) };
                "code can be written"
            }
            Fault::ExecuteData => {
                // `ret`: without protection it comes back.
                static RETURN: core::sync::atomic::AtomicU32 =
                    core::sync::atomic::AtomicU32::new(0xd65f_03c0);
                jump(RETURN.as_ptr() as usize);
                "data can be executed"
            }
            Fault::Heap => {
                let mut blocks = Vec::new();
                loop {
                    // A machine with more than 4 PiB is not among ours.
                    blocks.push(black_box(alloc::vec![0u8; 16 << 20]));
                }
            }
            Fault::Arena => return self.short_arena().unwrap_or_else(|error| error),
            Fault::Panic => panic!("asked for by name"),
            Fault::CorePanic => {
                self.on_last_core(&|| panic!("asked for by name"));
                "the core did not panic"
            }
            Fault::Model => return self.damage_model().unwrap_or_else(|error| error),
            Fault::Stuck => spin(),
            Fault::StuckMasked => {
                self.on_last_core(&|| {
                    crate::arch::aarch64::watchdog::undisturbed(&mut || spin());
                });
                "the core came back"
            }
            Fault::Deadlock => {
                // Whoever claims the only unit waits for it to be done.
                self.team.run(&|member| member.step(1, || (), |(), _| member.meet()));
                "there is but one core, which waits for nobody"
            }
        };
        format!("the fault did not end the machine: {missing}")
    }

    /// Runs `body` on the last core; the others are done at once.
    fn on_last_core(&self, body: &(dyn Fn() + Sync)) {
        run_on_all(self.team, &crate::arch::aarch64::doze::Doze, &|member| {
            if member.index + 1 == member.count {
                body();
            }
        });
    }

    /// A session in memory that is a cache line short.
    fn short_arena(&self) -> Result<String, String> {
        let loaded = self.loaded.ok_or("there is no model to build a session for")?;
        let config = SessionConfig { context: 16, members: self.team.size(), ..SessionConfig::default() };
        let mut memory = super::generation::memory(loaded, &config, false)?;
        let less = memory.len().saturating_sub(64);
        match Session::new(loaded.fastest(), config, self.kernels, self.team, &mut memory[..less]) {
            Err(error) => Ok(format!("a session in {less} bytes: {error}")),
            Ok(_) => Err("a session was built in less memory than planned".to_string()),
        }
    }

    /// Changes a bit of the weights, as a stray write would, and lets the checksum find it.
    fn damage_model(&self) -> Result<String, String> {
        let loaded = self.loaded.ok_or("there is no model to damage")?;
        loaded.damage()?;
        loaded.verify()?;
        Ok("a bit of the model was changed, and nothing noticed: add checksum=1".to_string())
    }
}

fn name(fault: Fault) -> &'static str {
    Fault::ALL.iter().find(|(_, known)| *known == fault).map_or("", |(name, _)| name)
}

/// Runs what lies at `address`.
#[inline(never)]
fn jump(address: usize) {
    // SAFETY: meant to fault; where it does not, a `ret` lies there.
    unsafe { core::arch::asm!("blr {}", in(reg) address, clobber_abi("C")) }
}

/// Reads a word exclusively, a byte off its boundary.
#[inline(never)]
fn exclusive_unaligned() {
    let words = [0u64; 2];
    let odd = words.as_ptr() as usize + 1;
    // SAFETY: the bytes are ours; the access faults because it is exclusive and not aligned.
    unsafe { core::arch::asm!("ldxr {0}, [{0}]", inout(reg) odd => _, options(nostack, readonly)) }
}

/// Never comes back, and gives no sign.
fn spin() -> ! {
    loop {
        black_box(0);
    }
}

/// Uses up the stack.
#[expect(unconditional_recursion, reason = "that is what runs into the guard page")]
fn descend(depth: usize) -> usize {
    let page = black_box([depth; 64]);
    descend(depth + 1) + page[depth % 64]
}
