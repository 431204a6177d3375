//! Keys and values of the positions seen so far, in f16, per layer and KV head.
//!
//! A [`KvCache`] is memory for so many positions, in pages of [`BLOCK`]. Which page holds which positions of which
//! sequence is written in tables ([`Pages`]), so that sequences of any length share the memory.

use core::ops::Range;

use super::shared::Shared;
use super::simd::Kernels;
pub use super::simd::{BLOCK, GROUP};

/// The widest head a cache can hold.
pub const MAX_HEAD_DIM: usize = 256;
/// Dimensions of a key that are rounded at a time.
const PIECE: usize = 64;

/// What to do when the context is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Refuse further tokens with an error (nothing is lost silently).
    #[default]
    Error,
    /// Every position sees only the last so many positions, itself included; the rest is forgotten.
    Window(usize),
}

/// Sizes of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Transformer layers.
    pub n_layers: usize,
    /// Key/value heads per layer.
    pub n_kv_heads: usize,
    /// Elements per head, a most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Positions held at once, a multiple of [`BLOCK`].
    pub capacity: usize,
}

impl KvShape {
    /// Elements of the keys (and as many of the values); `None` on overflow.
    pub fn elements(&self) -> Option<usize> {
        self.n_layers.checked_mul(self.n_kv_heads)?.checked_mul(self.capacity)?.checked_mul(self.head_dim)
    }
}

/// Where the positions of one sequence lie: block `b` of its positions is in page `b % pages` of its table.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'p>(&'p [u32]);

impl<'p> Pages<'p> {
    /// A table of at least one page; each names a page of the cache.
    pub fn new(table: &'p [u32]) -> Self {
        assert!(!table.is_empty(), "a sequence has at least one page");
        Pages(table)
    }

    /// First slot of a block of positions.
    pub fn block(&self, block: usize) -> usize {
        // Most tables hold every position, so the division is rarely reached.
        let index = if block < self.0.len() { block } else { block % self.0.len() };
        self.0[index] as usize * BLOCK
    }

    /// The slot of a position.
    pub fn slot(&self, position: usize) -> usize {
        self.block(position / BLOCK) + position % BLOCK
    }
}

/// Keys and values of all layers in `capacity` slots, a slot a position.
///
/// Keys: `[layer][kv_head][slot / 16][head_dim][16]`, dimension-major in groups, so that sixteen dot products advance
/// together. Values: `[layer][kv_head][slot][head_dim]`. A page is [`BLOCK`] slots.
#[derive(Clone, Copy)]
pub struct KvCache<'m> {
    keys: Shared<'m, u16>,
    values: Shared<'m, u16>,
    shape: KvShape,
}

impl<'m> KvCache<'m> {
    /// A cache over two slices of [`KvShape::elements`] each.
    pub fn new(shape: KvShape, keys: &'m mut [u16], values: &'m mut [u16]) -> Self {
        let elements = shape.elements().expect("the plan checked the product");
        assert!(
            keys.len() == elements && values.len() == elements,
            "{shape:?}: {} {}",
            keys.len(),
            values.len()
        );
        assert!(shape.capacity.is_multiple_of(BLOCK) && shape.head_dim <= MAX_HEAD_DIM, "{shape:?}");
        KvCache { keys: Shared::new(keys), values: Shared::new(values), shape }
    }

    /// The sizes.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// First element of a (layer, head)'s keys, and of its values.
    fn head_start(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.n_kv_heads + head) * self.shape.capacity * self.shape.head_dim
    }

    /// Stores one position's key and value of one head in its slot, rounded to f16.
    ///
    /// # Safety
    /// - No other member touches the slot's group of sixteen in this (layer, head) until the step has ended.
    pub unsafe fn append(
        &self,
        kernels: &Kernels,
        layer: usize,
        head: usize,
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        // SAFETY: all dimensions are the caller's.
        unsafe {
            self.append_key(kernels, layer, head, slot, 0, key);
            self.append_value(kernels, layer, head, slot, 0, value);
        }
    }

    /// Stores dimensions `first..` of one position's key of one head in its slot, rounded to f16.
    ///
    /// # Safety
    /// - No other member touches these dimensions of the slot's group of sixteen in this (layer, head) until the step
    ///   has ended.
    pub unsafe fn append_key(
        &self,
        kernels: &Kernels,
        layer: usize,
        head: usize,
        slot: usize,
        first: usize,
        key: &[f32],
    ) {
        let head_dim = self.shape.head_dim;
        assert!(slot < self.shape.capacity, "slot {slot} of {}", self.shape.capacity);
        assert!(first + key.len() <= head_dim, "{} dimensions from {first} of {head_dim}", key.len());
        let group = self.head_start(layer, head) + (slot / GROUP * head_dim + first) * GROUP;
        // SAFETY: dimensions of a group of this (layer, head) that are the caller's.
        let group = unsafe { self.keys.write(group..group + GROUP * key.len()) };
        let (dimensions, _) = group.as_chunks_mut::<GROUP>();
        for (dimensions, key) in dimensions.chunks_mut(PIECE).zip(key.chunks(PIECE)) {
            let mut rounded = [0u16; PIECE];
            let rounded = &mut rounded[..key.len()];
            kernels.to_f16(key, rounded);
            // Eight at a time: their places then differ by constants.
            let ((eights, rest), (bits, rest_bits)) =
                (dimensions.as_chunks_mut::<8>(), rounded.as_chunks::<8>());
            for (lanes, bits) in eights.iter_mut().zip(bits) {
                for (lanes, &bits) in lanes.iter_mut().zip(bits) {
                    lanes[slot % GROUP] = bits;
                }
            }
            for (lanes, &bits) in rest.iter_mut().zip(rest_bits) {
                lanes[slot % GROUP] = bits;
            }
        }
    }

    /// Stores dimensions `first..` of one position's value of one head in its slot, rounded to f16.
    ///
    /// # Safety
    /// - No other member touches these dimensions of the slot in this (layer, head) until the step has ended.
    pub unsafe fn append_value(
        &self,
        kernels: &Kernels,
        layer: usize,
        head: usize,
        slot: usize,
        first: usize,
        value: &[f32],
    ) {
        let head_dim = self.shape.head_dim;
        assert!(slot < self.shape.capacity, "slot {slot} of {}", self.shape.capacity);
        assert!(first + value.len() <= head_dim, "{} dimensions from {first} of {head_dim}", value.len());
        let at = self.head_start(layer, head) + slot * head_dim + first;
        // SAFETY: dimensions of a slot of this (layer, head) that are the caller's.
        kernels.to_f16(value, unsafe { self.values.write(at..at + value.len()) });
    }

    /// Keys of consecutive groups of slots, `[groups][head_dim][16]`; slot `s` is in group `s / GROUP`.
    ///
    /// # Safety
    /// - No member appends to these groups until the step has ended.
    pub unsafe fn keys(&self, layer: usize, head: usize, groups: Range<usize>) -> &'m [u16] {
        assert!(groups.end * GROUP <= self.shape.capacity, "{groups:?} of {} slots", self.shape.capacity);
        let size = GROUP * self.shape.head_dim;
        let start = self.head_start(layer, head) + groups.start * size;
        // SAFETY: not written meanwhile (caller).
        unsafe { self.keys.read(start..start + groups.len() * size) }
    }

    /// Values of consecutive slots, `[slots × head_dim]`.
    ///
    /// # Safety
    /// - No member appends to these slots until the step has ended.
    pub unsafe fn values(&self, layer: usize, head: usize, slots: Range<usize>) -> &'m [u16] {
        assert!(slots.end <= self.shape.capacity, "{slots:?} of {} slots", self.shape.capacity);
        let start = self.head_start(layer, head) + slots.start * self.shape.head_dim;
        // SAFETY: not written meanwhile (caller).
        unsafe { self.values.read(start..start + slots.len() * self.shape.head_dim) }
    }
}
