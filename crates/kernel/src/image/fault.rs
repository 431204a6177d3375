//! The faults that can be raised on request, to see and test their reports.

/// A fault to raise, by `fault=NAME` at boot or `selftest fault NAME` in the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read of an address that nothing is mapped at.
    DataAbort,
    /// A jump to an address that nothing is mapped at.
    InstructionAbort,
    /// An exclusive access that is not aligned.
    Alignment,
    /// An undefined instruction.
    Undefined,
    /// A system error, by the stub at EL2.
    SystemError,
    /// A stack that runs into its guard page.
    Stack,
    /// The same on the last core.
    CoreStack,
    /// A write to the image's code.
    WriteText,
    /// A jump to data.
    ExecuteData,
    /// A heap that has no more to give.
    Heap,
    /// A session in less memory than it needs.
    Arena,
    /// A panic.
    Panic,
    /// A panic on the last core.
    CorePanic,
    /// A bit of the model's weights that changes in memory.
    Model,
    /// A core in an endless loop.
    Stuck,
    /// The same with interrupts masked, on the last core.
    StuckMasked,
    /// Cores that wait for each other for ever.
    Deadlock,
}

impl Fault {
    /// All, with their names.
    pub const ALL: [(&'static str, Fault); 17] = [
        ("data-abort", Fault::DataAbort),
        ("instruction-abort", Fault::InstructionAbort),
        ("alignment", Fault::Alignment),
        ("undefined", Fault::Undefined),
        ("serror", Fault::SystemError),
        ("stack", Fault::Stack),
        ("core-stack", Fault::CoreStack),
        ("write-text", Fault::WriteText),
        ("execute-data", Fault::ExecuteData),
        ("heap", Fault::Heap),
        ("arena", Fault::Arena),
        ("panic", Fault::Panic),
        ("core-panic", Fault::CorePanic),
        ("model", Fault::Model),
        ("stuck", Fault::Stuck),
        ("stuck-masked", Fault::StuckMasked),
        ("deadlock", Fault::Deadlock),
    ];

    /// All names, for a person.
    pub const NAMES: &'static str = "data-abort, instruction-abort, alignment, undefined, serror, stack, \
         core-stack, write-text, execute-data, heap, arena, panic, core-panic, model, stuck, stuck-masked or deadlock";

    /// The fault with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault)
    }

    /// Whether a model must be there first.
    pub const fn needs_model(self) -> bool {
        matches!(self, Self::Arena | Self::Model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_listed_and_finds_its_fault() {
        for (name, fault) in Fault::ALL {
            assert_eq!(Fault::from_name(name), Some(fault));
            assert!(Fault::NAMES.split([',', ' ']).any(|listed| listed == name), "{name}");
        }
        assert_eq!(Fault::from_name("all"), None);
    }
}
