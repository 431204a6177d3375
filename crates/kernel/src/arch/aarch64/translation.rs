//! Translation tables: an identity map in which no byte is both writable and executable.
//!
//! 39-bit addresses, 4 KiB granule: a table of 1 GiB entries, below it tables of 2 MiB blocks and of 4 KiB pages, and
//! always the largest piece that fits. Formats: Arm Architecture Reference Manual (DDI 0487), D8.3.
//!
//! Nothing here touches a register: hosts build maps too, and their tests walk them as a processor would.

use core::fmt;
use core::ops::Range;

pub(super) const ACCESSED: u64 = 1 << 10;
pub(super) const NOT_GLOBAL: u64 = 1 << 11;
pub(super) const SHAREABLE: u64 = 3 << 8;
const READ_ONLY: u64 = 1 << 7;
pub(super) const NEVER_EXECUTE: u64 = 3 << 53;
const USER_NEVER_EXECUTES: u64 = 1 << 54;
pub(super) const NORMAL: u64 = 1 << 2;
pub(super) const BLOCK: u64 = 1;
const TABLE_OR_PAGE: u64 = 3;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What a range of addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read and executed.
    Code,
    /// Read.
    ReadOnly,
    /// Read and written.
    Data,
    /// Device registers, read and written in order.
    Device,
}

impl Kind {
    const fn attributes(self) -> u64 {
        ACCESSED
            | NOT_GLOBAL
            | match self {
                Self::Code => NORMAL | SHAREABLE | READ_ONLY | USER_NEVER_EXECUTES,
                Self::ReadOnly => NORMAL | SHAREABLE | READ_ONLY | NEVER_EXECUTE,
                Self::Data => NORMAL | SHAREABLE | NEVER_EXECUTE,
                Self::Device => NEVER_EXECUTE,
            }
    }

    /// The kind whose attributes an entry has.
    fn of(entry: u64) -> Option<Self> {
        let attributes = entry & !(ADDRESS | TABLE_OR_PAGE);
        [Self::Code, Self::ReadOnly, Self::Data, Self::Device]
            .into_iter()
            .find(|kind| kind.attributes() == attributes)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Code => "code",
            Self::ReadOnly => "read only",
            Self::Data => "data",
            Self::Device => "device",
        })
    }
}

/// The machine's memory is in more pieces than there are tables for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

impl fmt::Display for OutOfTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the memory map needs more than {TABLES} page tables; raise `translation::TABLES`")
    }
}

/// Page tables there is room for; QEMU's `virt` machine takes eight, a Raspberry Pi 4 eleven.
const TABLES: usize = 48;

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Table([u64; 512]);

/// A memory map under construction; its first table is the root.
pub struct Map {
    tables: [Table; TABLES],
    /// Tables in use besides the root: an empty map is all zero, and takes no place in the image's file.
    more: usize,
}

/// log2 of the bytes that an entry of a table of `level` spans.
const fn shift(level: usize) -> usize {
    39 - 9 * level
}

/// Addresses of one kind that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where.
    pub range: Range<usize>,
    /// As what.
    pub kind: Kind,
    /// In how many pieces of 1 GiB, 2 MiB and 4 KiB.
    pub pieces: [usize; 3],
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#013x}..{:#013x} {:9}", self.range.start, self.range.end, self.kind)?;
        let names = ["1 GiB", "2 MiB", "4 KiB"];
        let mut between = "  ";
        for (count, name) in self.pieces.iter().zip(names).filter(|(count, _)| **count > 0) {
            write!(f, "{between}{count} x {name}")?;
            between = ", ";
        }
        Ok(())
    }
}

impl Map {
    /// Nothing is mapped.
    pub const fn new() -> Self {
        Map { tables: [Table([0; 512]); TABLES], more: 0 }
    }

    /// Lets `range` (whole 4 KiB pages) be used as `kind`, whatever it was before.
    pub fn add(&mut self, range: Range<usize>, kind: Kind) -> Result<(), OutOfTables> {
        self.set(range, Some(kind), &|| ())
    }

    /// Takes `range` (whole 4 KiB pages) out: every access faults.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), OutOfTables> {
        self.set(range, None, &|| ())
    }

    /// Like [`Map::add`] on a map that processors use: before a block is split its entry goes, and `flush` makes every
    /// processor forget it ("break before make", D8.16.1).
    pub fn change(&mut self, range: Range<usize>, kind: Kind, flush: &dyn Fn()) -> Result<(), OutOfTables> {
        self.set(range, Some(kind), flush)?;
        flush();
        Ok(())
    }

    fn set(&mut self, range: Range<usize>, kind: Option<Kind>, flush: &dyn Fn()) -> Result<(), OutOfTables> {
        assert!(
            range.start.is_multiple_of(4096) && range.end.is_multiple_of(4096),
            "{range:x?}: not whole pages"
        );
        assert!(range.end <= 1 << 39, "{range:x?}: beyond 512 GiB");
        let mut at = range.start;
        while at < range.end {
            let (mut table, mut level) = (0, 1);
            loop {
                let (index, size) = (at >> shift(level) & 511, 1 << shift(level));
                let entry = &mut self.tables[table].0[index];
                let is_table = level < 3 && *entry & TABLE_OR_PAGE == TABLE_OR_PAGE;
                if at.is_multiple_of(size) && range.end - at >= size && !is_table {
                    let valid = if level == 3 { TABLE_OR_PAGE } else { BLOCK };
                    *entry = kind.map_or(0, |kind| at as u64 | kind.attributes() | valid);
                    at += size;
                    break;
                }
                table = self.below(table, index, level, flush)?;
                level += 1;
            }
        }
        Ok(())
    }

    /// The table under an entry; a block is split into the pieces it stood for.
    fn below(
        &mut self,
        table: usize,
        index: usize,
        level: usize,
        flush: &dyn Fn(),
    ) -> Result<usize, OutOfTables> {
        let entry = self.tables[table].0[index];
        let first = self.tables.as_ptr() as usize;
        if entry & TABLE_OR_PAGE == TABLE_OR_PAGE {
            return Ok(((entry & ADDRESS) as usize - first) / size_of::<Table>());
        }
        let new = self.more + 1;
        let pieces = &mut self.tables.get_mut(new).ok_or(OutOfTables)?.0;
        self.more = new;
        if entry & BLOCK != 0 {
            let valid = if level + 1 == 3 { TABLE_OR_PAGE } else { BLOCK };
            for (i, piece) in pieces.iter_mut().enumerate() {
                *piece = ((entry & !TABLE_OR_PAGE) + ((i as u64) << shift(level + 1))) | valid;
            }
            // SAFETY: our own entry. Volatile, because processors read it behind the compiler's back.
            unsafe { (&raw mut self.tables[table].0[index]).write_volatile(0) };
            flush();
        }
        self.tables[table].0[index] = (first + new * size_of::<Table>()) as u64 | TABLE_OR_PAGE;
        Ok(new)
    }

    /// Tables in use, and how many there is room for.
    pub fn tables(&self) -> (usize, usize) {
        (self.more + 1, TABLES)
    }

    /// Where the root is.
    pub fn root(&self) -> usize {
        self.tables.as_ptr() as usize
    }

    /// What `address` is mapped as.
    pub fn kind_at(&self, address: usize) -> Option<Kind> {
        if address >= 1 << 39 { None } else { self.piece(address).0 }
    }

    /// The kind of the piece that holds an address, and its level.
    fn piece(&self, address: usize) -> (Option<Kind>, usize) {
        let (mut table, mut level) = (0, 1);
        loop {
            let entry = self.tables[table].0[address >> shift(level) & 511];
            if entry & BLOCK == 0 {
                return (None, level);
            }
            if level == 3 || entry & TABLE_OR_PAGE == BLOCK {
                return (Kind::of(entry), level);
            }
            table = ((entry & ADDRESS) as usize - self.root()) / size_of::<Table>();
            level += 1;
        }
    }

    /// All that is mapped, in order.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let mut region: Option<Region> = None;
            while at < 1 << 39 {
                let (kind, level) = self.piece(at);
                match (&mut region, kind) {
                    (None, None) => {}
                    (None, Some(kind)) => {
                        let mut pieces = [0; 3];
                        pieces[level - 1] = 1;
                        region = Some(Region { range: at..at, kind, pieces });
                    }
                    (Some(region), Some(kind)) if region.kind == kind => region.pieces[level - 1] += 1,
                    (Some(_), _) => break,
                }
                at += 1 << shift(level);
                if let Some(region) = &mut region {
                    region.range.end = at;
                }
            }
            region
        })
    }
}

impl Default for Map {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    const GIB: usize = 1 << 30;
    const MIB: usize = 1 << 20;
    const PAGE: usize = 4096;

    /// What a processor may do at an address, read from the entry's bits as the manual names them.
    fn rights(entry: u64) -> (bool, bool) {
        let (writable, executable) = (entry >> 7 & 1 == 0, entry >> 53 & 1 == 0);
        (writable, executable)
    }

    #[test]
    fn a_map_is_what_was_asked_for_page_by_page() {
        let mut state = 3u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..60 {
            let mut map = Box::new(Map::new());
            // Boundaries that matter: around blocks of both sizes, above 4 GiB, and in between.
            let mut edges: Vec<usize> = Vec::new();
            for _ in 0..12 {
                let base = [GIB, 2 * GIB, 5 * GIB, 64 * GIB][random(4)];
                edges.push(base + [0, PAGE, 2 * MIB, 2 * MIB - PAGE, 37 * MIB, GIB - PAGE][random(6)]);
            }
            edges.sort_unstable();
            let mut asked: Vec<(Range<usize>, Option<Kind>)> = Vec::new();
            for _ in 0..6 {
                let (a, b) = (random(edges.len()), random(edges.len()));
                let range = edges[a.min(b)]..edges[a.max(b)];
                let kind =
                    [Some(Kind::Data), Some(Kind::ReadOnly), Some(Kind::Code), Some(Kind::Device), None]
                        [random(5)];
                let done = match kind {
                    Some(kind) => map.add(range.clone(), kind),
                    None => map.remove(range.clone()),
                };
                assert_eq!(done, Ok(()));
                asked.push((range, kind));
            }
            let wanted = |address: usize| {
                asked.iter().rev().find(|(range, _)| range.contains(&address)).and_then(|(_, kind)| *kind)
            };
            for edge in edges.iter().flat_map(|edge| [edge - PAGE, *edge, edge + PAGE, edge + 3 * MIB]) {
                assert_eq!(map.kind_at(edge), wanted(edge), "{edge:#x} of {asked:x?}");
            }
            // Regions say the same, touch nowhere without reason, and hold all of themselves in pieces.
            let mut end = 0;
            for region in map.regions() {
                assert!(end <= region.range.start && !region.range.is_empty());
                assert_eq!(wanted(region.range.start), Some(region.kind));
                assert_eq!(wanted(region.range.end - PAGE), Some(region.kind));
                assert_ne!(map.kind_at(region.range.end), Some(region.kind));
                let bytes: usize = region.pieces.iter().zip([GIB, 2 * MIB, PAGE]).map(|(n, s)| n * s).sum();
                assert_eq!(bytes, region.range.len(), "{region}");
                end = region.range.end;
            }
        }
    }

    #[test]
    fn nothing_is_both_writable_and_executable() {
        for kind in [Kind::Code, Kind::ReadOnly, Kind::Data, Kind::Device] {
            let (writable, executable) = rights(kind.attributes());
            assert!(!(writable && executable), "{kind}");
            assert_eq!(executable, kind == Kind::Code);
            assert_eq!(writable, matches!(kind, Kind::Data | Kind::Device));
            // What runs at EL1 is none of EL0's business.
            assert_eq!(kind.attributes() >> 54 & 1, 1);
            assert_eq!(kind.attributes() >> 6 & 1, 0);
            assert_eq!(Kind::of(kind.attributes() | 0x4020_0000 | 3), Some(kind));
        }
    }

    #[test]
    fn the_largest_pieces_that_fit_are_taken() {
        let mut map = Box::new(Map::new());
        map.add(GIB - 2 * MIB - PAGE..6 * GIB + 2 * MIB + PAGE, Kind::Data).unwrap();
        let regions: Vec<_> = map.regions().collect();
        assert_eq!(regions.len(), 1);
        assert_eq!(regions[0].pieces, [5, 2, 2]);
        assert_eq!(
            regions[0].to_string(),
            "0x0003fdff000..0x00180201000 data       5 x 1 GiB, 2 x 2 MiB, 2 x 4 KiB"
        );
        // Root, and two tables at each end.
        assert_eq!(map.tables().0, 5);
    }

    #[test]
    fn a_block_in_use_is_forgotten_before_it_is_split() {
        let mut map = Box::new(Map::new());
        map.add(GIB..3 * GIB, Kind::Data).unwrap();
        let flushes = core::cell::Cell::new(0);
        let flush = || flushes.set(flushes.get() + 1);
        map.change(GIB + 2 * MIB..GIB + 4 * MIB + PAGE, Kind::ReadOnly, &flush).unwrap();
        // Once for the gigabyte, once for the block behind, once for the new rights.
        assert_eq!(flushes.get(), 3);
        let kinds: Vec<_> = map.regions().map(|region| (region.kind, region.pieces)).collect();
        assert_eq!(
            kinds,
            [(Kind::Data, [0, 1, 0]), (Kind::ReadOnly, [0, 1, 1]), (Kind::Data, [1, 509, 511])]
        );
    }

    #[test]
    fn too_many_pieces_are_an_error() {
        let mut map = Box::new(Map::new());
        let result = (0..TABLES).try_for_each(|i| map.add(i * 2 * MIB..i * 2 * MIB + PAGE, Kind::Data));
        assert_eq!(result, Err(OutOfTables));
        assert!(result.unwrap_err().to_string().contains("TABLES"));
    }
}
