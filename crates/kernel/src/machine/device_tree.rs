//! A reader of flattened device trees (Devicetree Specification 0.4, chapter 5).
//!
//! [`Tree::parse`] walks the whole structure once, so that everything behind it can be total: a damaged tree is an
//! error there, and neither a panic nor an endless loop later. Nothing is copied. A node does not know its parents in
//! this format, so [`Tree::nodes`] gives each with the way that leads to it, which is what translating its addresses
//! takes.

use core::fmt;
use core::ops::Range;

use heapless::Vec;

/// Nodes from the root to the deepest node, both included. Linux's own trees stay below 10.
pub const DEPTH: usize = 16;

/// Most bytes of a tree: what the first page table maps of it.
pub const LARGEST: usize = 2 << 20;

/// The first word, in memory order.
pub const MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why bytes are no device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// They open with another word.
    Magic,
    /// The tree says that it has more bytes than there are, or than [`LARGEST`].
    Size {
        /// What it says.
        bytes: usize,
    },
    /// It needs a reader of a later version than 17.
    Version {
        /// What it needs.
        needed: u32,
    },
    /// Its structure is broken at this offset.
    Structure {
        /// Bytes from the start of the tree.
        at: usize,
    },
    /// Nodes lie deeper than [`DEPTH`].
    Depth,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device tree is damaged: ")?;
        match self {
            Self::Magic => f.write_str("its first word is another"),
            Self::Size { bytes } => write!(f, "it claims {bytes} bytes"),
            Self::Version { needed } => write!(f, "it needs a reader of version {needed}"),
            Self::Structure { at } => write!(f, "its structure breaks at byte {at}"),
            Self::Depth => write!(f, "nodes lie deeper than {DEPTH}"),
        }
    }
}

impl core::error::Error for TreeError {}

/// A whole and well-formed tree.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    bytes: &'a [u8],
    /// Where the structure and the properties' names begin.
    structure: usize,
    strings: usize,
    reservations: usize,
}

/// One piece of the structure.
enum Token<'a> {
    Begin(&'a str),
    End,
    Property(&'a str, &'a [u8]),
    Finish,
}

/// The number at `at`, if there are so many bytes.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

/// The text at `at`, up to its zero byte.
fn text(bytes: &[u8], at: usize) -> Option<&str> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(&rest[..end]).ok()
}

/// Bytes that a header says its tree has, if it is one.
pub fn size_in(header: &[u8; 8]) -> Option<usize> {
    (header[..4] == MAGIC).then(|| number(header, 4).unwrap_or(0) as usize)
}

impl<'a> Tree<'a> {
    /// Checks a tree; `bytes` may go on behind it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let field = |at| number(bytes, at);
        if bytes.get(..4) != Some(&MAGIC) {
            return Err(TreeError::Magic);
        }
        let size = field(4).unwrap_or(0) as usize;
        if !(HEADER..=LARGEST.min(bytes.len())).contains(&size) {
            return Err(TreeError::Size { bytes: size });
        }
        let bytes = &bytes[..size];
        let field = |index: usize| number(bytes, 4 * index).unwrap_or(u32::MAX) as usize;
        let needed = field(6) as u32;
        if needed > 17 {
            return Err(TreeError::Version { needed });
        }
        let tree = Tree { bytes, structure: field(2), strings: field(3), reservations: field(4) };
        for start in [tree.structure, tree.strings, tree.reservations] {
            if start > size {
                return Err(TreeError::Structure { at: start });
            }
        }
        tree.check()?;
        Ok(tree)
    }

    /// Walks everything once.
    fn check(&self) -> Result<(), TreeError> {
        let (mut at, mut depth, mut roots) = (self.structure, 0usize, 0);
        loop {
            let broken = TreeError::Structure { at };
            let (token, next) = self.token(at).ok_or(broken)?;
            match token {
                Token::Begin(_) if depth == DEPTH => return Err(TreeError::Depth),
                Token::Begin(_) => {
                    roots += usize::from(depth == 0);
                    depth += 1;
                }
                Token::End => depth = depth.checked_sub(1).ok_or(broken)?,
                Token::Property(..) if depth == 0 => return Err(broken),
                Token::Property(..) => {}
                Token::Finish => return if depth == 0 && roots == 1 { Ok(()) } else { Err(broken) },
            }
            at = next;
        }
    }

    /// The piece at `at`, and where the next one is: always further on.
    fn token(&self, mut at: usize) -> Option<(Token<'a>, usize)> {
        loop {
            let kind = number(self.bytes, at)?;
            at += 4;
            match kind {
                NOP => {}
                BEGIN_NODE => {
                    let name = text(self.bytes, at)?;
                    return Some((Token::Begin(name), (at + name.len() + 1).next_multiple_of(4)));
                }
                END_NODE => return Some((Token::End, at)),
                PROPERTY => {
                    let (length, name) = (number(self.bytes, at)? as usize, number(self.bytes, at + 4)?);
                    let name = text(self.bytes, self.strings.checked_add(name as usize)?)?;
                    let value = self.bytes.get(at + 8..(at + 8).checked_add(length)?)?;
                    return Some((Token::Property(name, value), (at + 8 + length).next_multiple_of(4)));
                }
                END => return Some((Token::Finish, at)),
                _ => return None,
            }
        }
    }

    /// Bytes of the tree.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a tree has a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Ranges that firmware keeps for itself, from the list before the structure.
    pub fn reservations(&self) -> impl Iterator<Item = Range<u64>> + use<'a> {
        let (bytes, mut at) = (self.bytes, self.reservations);
        core::iter::from_fn(move || {
            let cell = |at| Some(u64::from(number(bytes, at)?) << 32 | u64::from(number(bytes, at + 4)?));
            let (start, size) = (cell(at)?, cell(at + 8)?);
            at += 16;
            (start != 0 || size != 0).then(|| start..start.saturating_add(size))
        })
    }

    /// All nodes, parents before their children, each with the way from the root.
    pub fn nodes(&self) -> Nodes<'a> {
        Nodes { tree: *self, at: Some(self.structure), way: Vec::new() }
    }

    /// The node at a path such as `/cpus`, or at one that an alias names; what follows a colon is no part of it.
    pub fn find(&self, path: &str) -> Option<Way<'a>> {
        let path = path.split(':').next().unwrap_or_default();
        if !path.starts_with('/') {
            let (alias, rest) = path.split_once('/').unwrap_or((path, ""));
            let way = self.find("/aliases")?.node().property(alias)?;
            return self.descend(core::iter::once(way.text()?).chain([rest]));
        }
        self.descend(core::iter::once(path))
    }

    /// Follows the names in `parts`, joined by slashes.
    fn descend<'p>(&self, parts: impl Iterator<Item = &'p str>) -> Option<Way<'a>> {
        let mut names: Vec<&str, DEPTH> = Vec::new();
        for name in parts.flat_map(|part| part.split('/')).filter(|name| !name.is_empty()) {
            names.push(name).ok()?;
        }
        self.nodes().find(|way| {
            way.0.len() == names.len() + 1
                && way.0[1..].iter().zip(&names).all(|(node, name)| node.is_called(name))
        })
    }

    /// The property of the root or of `/chosen` and the like: `tree.text_at("/chosen", "bootargs")`.
    pub fn text_at(&self, path: &str, property: &str) -> Option<&'a str> {
        self.find(path)?.node().property(property)?.text()
    }
}

/// A node.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    tree: Tree<'a>,
    name: &'a str,
    /// Where its first property is.
    body: usize,
}

impl<'a> Node<'a> {
    /// Its name with its address, `serial@7e201000`; empty for the root.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Whether this is its name, with or without the address.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.split('@').next() == Some(name)
    }

    /// Its properties: they come before its children.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, Property<'a>)> + use<'a> {
        let (tree, mut at) = (self.tree, self.body);
        core::iter::from_fn(move || match tree.token(at)? {
            (Token::Property(name, value), next) => {
                at = next;
                Some((name, Property(value)))
            }
            _ => None,
        })
    }

    /// The property of this name.
    pub fn property(&self, name: &str) -> Option<Property<'a>> {
        self.properties().find(|(other, _)| *other == name).map(|(_, property)| property)
    }

    /// Whether it says that it is compatible with one of `names`.
    pub fn is_compatible(&self, names: &[&str]) -> bool {
        self.property("compatible").is_some_and(|list| list.texts().any(|text| names.contains(&text)))
    }

    /// Whether it is switched on: no `status`, or `okay`.
    pub fn is_okay(&self) -> bool {
        self.property("status").is_none_or(|status| matches!(status.text(), Some("okay" | "ok")))
    }

    /// A number that a property gives, or the specification's default.
    fn cells(&self, name: &str, default: u64) -> usize {
        self.property(name).and_then(|property| property.number()).unwrap_or(default) as usize
    }
}

/// A property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a>(pub &'a [u8]);

impl<'a> Property<'a> {
    /// A number of one or two cells.
    pub fn number(&self) -> Option<u64> {
        matches!(self.0.len(), 4 | 8).then(|| cells(self.0))
    }

    /// The first text.
    pub fn text(&self) -> Option<&'a str> {
        text(self.0, 0)
    }

    /// All texts.
    pub fn texts(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.split(|&byte| byte == 0).filter_map(|part| core::str::from_utf8(part).ok())
    }
}

/// A number of whole cells, most significant first.
fn cells(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The way from the root to a node.
#[derive(Clone, Debug)]
pub struct Way<'a>(Vec<Node<'a>, DEPTH>);

impl<'a> Way<'a> {
    /// The node it leads to.
    pub fn node(&self) -> Node<'a> {
        *self.0.last().expect("a way has the root at least")
    }

    /// The parent, but for the root.
    pub fn parent(&self) -> Option<Node<'a>> {
        self.0.len().checked_sub(2).map(|index| self.0[index])
    }

    /// Nodes above it.
    pub fn depth(&self) -> usize {
        self.0.len() - 1
    }

    /// Where its registers or its memory lie for a processor: `reg`, translated by the `ranges` of every bus above.
    /// What no bus passes on is left out, and so are empty ranges.
    pub fn registers(&self) -> impl Iterator<Item = Range<u64>> + use<'_, 'a> {
        let parent = self.parent();
        let (address, size) =
            parent.map_or((2, 1), |node| (node.cells("#address-cells", 2), node.cells("#size-cells", 1)));
        let reg = self.node().property("reg").map_or(&[][..], |property| property.0);
        let usable = address <= 2 && size <= 2 && address > 0;
        let step = if usable { 4 * (address + size) } else { usize::MAX };
        reg.chunks_exact(step).filter_map(move |entry| {
            let (first, size) = (cells(&entry[..4 * address]), cells(&entry[4 * address..]));
            let first = self.translate(first, size)?;
            (size > 0).then_some(first..first.checked_add(size)?)
        })
    }

    /// The first number of `reg`, untranslated: what a processor's affinity is.
    pub fn number(&self) -> Option<u64> {
        let length = 4 * self.parent()?.cells("#address-cells", 2);
        let reg = self.node().property("reg")?.0.get(..length)?;
        (length <= 8 && length > 0).then(|| cells(reg))
    }

    /// Takes an address of `size` bytes from the node's bus up to the root.
    fn translate(&self, mut address: u64, size: u64) -> Option<u64> {
        for index in (1..self.0.len().saturating_sub(1)).rev() {
            let (bus, above) = (self.0[index], self.0[index - 1]);
            let ranges = bus.property("ranges")?.0;
            if ranges.is_empty() {
                continue;
            }
            let (inner, outer) = (bus.cells("#address-cells", 2), above.cells("#address-cells", 2));
            let length = bus.cells("#size-cells", 1);
            if [inner, outer, length].iter().any(|&cells| !(1..=2).contains(&cells)) {
                return None;
            }
            let (inner, outer, length) = (4 * inner, 4 * outer, 4 * length);
            address = ranges.chunks_exact(inner + outer + length).find_map(|entry| {
                let offset = address.checked_sub(cells(&entry[..inner]))?;
                let end = offset.checked_add(size)?;
                (end <= cells(&entry[inner + outer..]))
                    .then_some(cells(&entry[inner..inner + outer]).checked_add(offset)?)
            })?;
        }
        Some(address)
    }
}

/// Iterator of [`Tree::nodes`].
#[derive(Clone, Debug)]
pub struct Nodes<'a> {
    tree: Tree<'a>,
    at: Option<usize>,
    way: Vec<Node<'a>, DEPTH>,
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Way<'a>;

    fn next(&mut self) -> Option<Way<'a>> {
        loop {
            let (token, next) = self.tree.token(self.at?)?;
            self.at = Some(next);
            match token {
                Token::Begin(name) => {
                    // `check` has seen that it fits.
                    self.way.push(Node { tree: self.tree, name, body: next }).ok()?;
                    return Some(Way(self.way.clone()));
                }
                Token::End => _ = self.way.pop(),
                Token::Property(..) => {}
                Token::Finish => self.at = None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
