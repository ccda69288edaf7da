//! A 16-8-8 multibit trie from IPv4 addresses to next hop slots.
//!
//! A lookup is one to three dependent loads. The root level is a full array of 256 KiB, so that its load needs
//! no check and any prefix fits any network. It is shared between versions of a table, because another host
//! in a /16 that has one only changes blocks: 8 us for the 101st port of a network, all checks included. So
//! nothing is won by a smaller root.

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

/// The trie. Blocks of both lower levels live in one array; free ones are listed.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    root: Arc<[Entry; ROOT_ENTRIES]>,
    blocks: Vec<Block>,
    free: Vec<usize>,
}

impl Trie {
    /// Every address leads to slot 0.
    pub fn new() -> Self {
        let entries: Arc<[Entry]> = core::iter::repeat_n(Entry(0), ROOT_ENTRIES).collect();
        let Ok(root) = entries.try_into() else {
            unreachable!("as many entries as were just made")
        };
        Self { root, blocks: Vec::new(), free: Vec::new() }
    }

    #[inline]
    pub fn lookup(&self, address: u32) -> HopIndex {
        let [a, b, c, d] = address.to_be_bytes();
        let mut entry = self.root[usize::from(u16::from_be_bytes([a, b]))];
        if let Some(block) = entry.block() {
            entry = self.entry(block, c);
            if let Some(block) = entry.block() {
                entry = self.entry(block, d);
            }
        }
        HopIndex(entry.0)
    }

    #[inline]
    fn entry(&self, block: usize, at: u8) -> Entry {
        self.blocks.get(block).map_or(Entry(0), |block| block[usize::from(at)])
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
                    self.blocks[outer][usize::from(c)] = Self::pointer(block);
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

    fn pointer(block: usize) -> Entry {
        // Both lower levels together have fewer than 2^25 blocks.
        let Ok(index) = u32::try_from(block) else { unreachable!("2^32 blocks") };
        Entry(index | BLOCK_BIT)
    }

    fn new_block(&mut self, fill: Entry) -> usize {
        if let Some(block) = self.free.pop() {
            self.blocks[block] = [fill; BLOCK_ENTRIES];
            return block;
        }
        self.blocks.push([fill; BLOCK_ENTRIES]);
        self.blocks.len() - 1
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
            let old = core::mem::replace(&mut self.blocks[block][at], leaf);
            self.release(old);
        }
    }

    /// The leaf that every entry of the block is, if they are all one.
    fn uniform(&self, block: usize) -> Option<Entry> {
        let entries = &self.blocks[block];
        let first = entries[0];
        let same = first.block().is_none() && entries.iter().all(|entry| *entry == first);
        same.then_some(first)
    }

    /// Frees the block an entry pointed to and those below it: two levels at most.
    fn release(&mut self, entry: Entry) {
        let Some(block) = entry.block() else { return };
        self.free.push(block);
        self.free.extend(self.blocks[block].iter().filter_map(|entry| entry.block()));
    }

    #[cfg(test)]
    pub fn all_blocks(&self) -> usize {
        self.blocks.len()
    }

    #[cfg(test)]
    pub fn live_blocks(&self) -> usize {
        self.blocks.len() - self.free.len()
    }
}
