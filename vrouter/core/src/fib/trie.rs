//! A 16-8-8 multibit trie from IPv4 addresses to next hop slots.
//!
//! A lookup is one to three table reads. The root level is a full array of 256 KiB, so that its read needs no
//! check and any prefix fits any network. The lower levels are blocks of 1 KiB, kept in chunks of
//! [`CHUNK_BLOCKS`]. Versions of a table share the root and all chunks that are the same in both: a change copies
//! the root only when a /16 gets its first or loses its last block, or for routes of /16 and shorter, and else
//! the chunks it writes to.
//!
//! A route longer than /24 in a /24 of its own costs 1 KiB, one longer than /16 in a /16 of its own another.

use super::HopIndex;
use alloc::sync::Arc;
use alloc::vec::Vec;
use vrouter_net::Ipv4Prefix;

/// A next hop slot, or with the highest bit set the index of a block of the next level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u32);

const BLOCK_BIT: u32 = 1 << 31;
const ROOT_ENTRIES: usize = 1 << 16;
const BLOCK_ENTRIES: usize = 1 << 8;
/// 64 KiB: small enough to be copied in a few microseconds, large enough that the list of the chunks of a million
/// routes is, too.
const CHUNK_BLOCKS: usize = 64;

impl Entry {
    fn leaf(hop: HopIndex) -> Self {
        Self(hop.0 & !BLOCK_BIT)
    }

    #[inline]
    fn block(self) -> Option<usize> {
        if self.0 & BLOCK_BIT != 0 { Some((self.0 & !BLOCK_BIT) as usize) } else { None }
    }
}

type Block = [Entry; BLOCK_ENTRIES];
type Chunk = [Block; CHUNK_BLOCKS];

/// The trie. Blocks of both lower levels live in the same chunks; free ones are listed.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    root: Arc<[Entry; ROOT_ENTRIES]>,
    chunks: Vec<Arc<Chunk>>,
    /// Blocks that were ever used; the chunks have room for more.
    blocks: usize,
    free: Vec<u32>,
}

/// An array on the heap that was never on the stack.
fn filled<T: Copy, const N: usize>(value: T) -> Arc<[T; N]> {
    let items: Arc<[T]> = core::iter::repeat_n(value, N).collect();
    let Ok(array) = items.try_into() else { unreachable!("as many items as were just made") };
    array
}

impl Trie {
    /// Every address leads to slot 0.
    pub fn new() -> Self {
        Self { root: filled(Entry(0)), chunks: Vec::new(), blocks: 0, free: Vec::new() }
    }

    #[inline]
    pub fn lookup(&self, address: u32) -> HopIndex {
        let mut entry = self.root[(address >> 16) as usize];
        if let Some(block) = entry.block() {
            entry = self.entry(block, ((address >> 8) & 0xff) as u8);
            if let Some(block) = entry.block() {
                entry = self.entry(block, (address & 0xff) as u8);
            }
        }
        HopIndex(entry.0)
    }

    #[inline]
    fn entry(&self, block: usize, at: u8) -> Entry {
        let chunk = self.chunks.get(block / CHUNK_BLOCKS);
        chunk.map_or(Entry(0), |chunk| chunk[block % CHUNK_BLOCKS][usize::from(at)])
    }

    fn block(&self, block: usize) -> &Block {
        &self.chunks[block / CHUNK_BLOCKS][block % CHUNK_BLOCKS]
    }

    /// The block, to write: a chunk that another version uses is copied first.
    fn block_mut(&mut self, block: usize) -> &mut Block {
        &mut Arc::make_mut(&mut self.chunks[block / CHUNK_BLOCKS])[block % CHUNK_BLOCKS]
    }

    /// Leads every address of the prefix to one slot, whatever was there.
    pub fn paint(&mut self, prefix: Ipv4Prefix, hop: HopIndex) {
        let leaf = Entry::leaf(hop);
        let [a, b, c, d] = prefix.network().octets();
        let root_at = usize::from(u16::from_be_bytes([a, b]));
        let length = usize::from(prefix.length());
        if length <= 16 {
            for at in root_at..root_at + (1 << (16 - length)) {
                self.set_root(at, leaf);
            }
            return;
        }
        let outer = match self.root[root_at].block() {
            Some(block) => block,
            None => {
                let block = self.new_block(self.root[root_at]);
                self.set_root(root_at, Self::pointer(block));
                block
            }
        };
        if length <= 24 {
            self.fill(outer, usize::from(c), 1 << (24 - length), leaf);
        } else {
            let inner = match self.entry(outer, c).block() {
                Some(block) => block,
                None => {
                    let block = self.new_block(self.entry(outer, c));
                    self.block_mut(outer)[usize::from(c)] = Self::pointer(block);
                    block
                }
            };
            self.fill(inner, usize::from(d), 1 << (32 - length), leaf);
            if let Some(same) = self.uniform(inner) {
                self.fill(outer, usize::from(c), 1, same);
            }
        }
        if let Some(same) = self.uniform(outer) {
            self.set_root(root_at, same);
        }
    }

    fn number(block: usize) -> u32 {
        // Both lower levels together have fewer than 2^25 blocks.
        let Ok(index) = u32::try_from(block) else { unreachable!("2^32 blocks") };
        index
    }

    fn pointer(block: usize) -> Entry {
        Entry(Self::number(block) | BLOCK_BIT)
    }

    fn new_block(&mut self, fill: Entry) -> usize {
        let block = match self.free.pop() {
            Some(block) => block as usize,
            None => {
                self.blocks += 1;
                self.blocks - 1
            }
        };
        if block / CHUNK_BLOCKS == self.chunks.len() {
            self.chunks.push(filled([Entry(0); BLOCK_ENTRIES]));
        }
        *self.block_mut(block) = [fill; BLOCK_ENTRIES];
        block
    }

    /// Replaces an entry of the root; copies a shared root only if it differs.
    fn set_root(&mut self, at: usize, entry: Entry) {
        let old = self.root[at];
        if old != entry {
            Arc::make_mut(&mut self.root)[at] = entry;
            self.release(old);
        }
    }

    /// Replaces entries of a block by a leaf.
    fn fill(&mut self, block: usize, from: usize, count: usize, leaf: Entry) {
        for at in from..from + count {
            let old = core::mem::replace(&mut self.block_mut(block)[at], leaf);
            self.release(old);
        }
    }

    /// The leaf that every entry of the block is, if they are all one.
    fn uniform(&self, block: usize) -> Option<Entry> {
        let entries = self.block(block);
        let first = entries[0];
        let same = first.block().is_none() && entries.iter().all(|entry| *entry == first);
        same.then_some(first)
    }

    /// Frees the block an entry pointed to and those below it: two levels at most.
    fn release(&mut self, entry: Entry) {
        let Some(block) = entry.block() else { return };
        self.free.push(Self::number(block));
        for at in 0..BLOCK_ENTRIES {
            if let Some(below) = self.block(block)[at].block() {
                self.free.push(Self::number(below));
            }
        }
    }

    #[cfg(test)]
    pub fn all_blocks(&self) -> usize {
        self.blocks
    }

    #[cfg(test)]
    pub fn live_blocks(&self) -> usize {
        self.blocks - self.free.len()
    }

    /// Chunks that two versions have in common, and all of this one's.
    #[cfg(test)]
    pub fn shared_chunks(&self, other: &Self) -> (usize, usize) {
        let same = self.chunks.iter().zip(&other.chunks).filter(|(a, b)| Arc::ptr_eq(a, b));
        (same.count(), self.chunks.len())
    }
}
