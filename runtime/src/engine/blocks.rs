//! The pool of paged KV blocks: who holds which, and what the free ones still contain.
//!
//! A block holds the keys and values of `block_tokens` consecutive tokens of a sequence. Several sequences may hold one
//! block if it is full and their tokens up to its end are the same: a full block is never written again, so sharing
//! needs no copy. A free block keeps its content until it is handed out, and can be taken up again by what it holds.
//! Never touches a tensor: a block is a number.

use std::collections::{BTreeSet, HashMap};

/// Number of a block: row of the paged cache.
pub type Block = u32;

/// What a full block contains: these tokens, after everything its predecessor stands for.
///
/// The predecessor is named by a number that is never used twice, so equality here is equality of the whole prefix:
/// no hash can collide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Content {
    parent: Prefix,
    tokens: Box<[u32]>,
}

/// Names a prefix of whole blocks. [`Prefix::EMPTY`] comes before the first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Prefix(u64);

impl Prefix {
    pub const EMPTY: Prefix = Prefix(0);
}

#[derive(Debug, Default)]
struct State {
    /// Sequences that hold it. 0: free.
    holders: u32,
    /// What it contains, if that is known to others.
    content: Option<Content>,
    /// When it was last released: the least recently used is handed out first.
    released: u64,
}

/// All blocks of one cache.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<State>,
    /// Free blocks, in the order in which they are handed out: without content first, then the longest unused.
    free: BTreeSet<(bool, u64, Block)>,
    contents: HashMap<Content, (Block, Prefix)>,
    /// Counts releases.
    clock: u64,
    /// The last prefix named.
    prefixes: u64,
}

impl BlockPool {
    /// A pool of `count` free blocks.
    pub fn new(count: usize) -> BlockPool {
        BlockPool {
            blocks: (0..count).map(|_| State::default()).collect(),
            free: (0..count as u32).map(|block| (false, 0, block)).collect(),
            contents: HashMap::new(),
            clock: 0,
            prefixes: 0,
        }
    }

    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be handed out.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// A block for one holder, its content forgotten. `None`: all are held.
    pub fn allocate(&mut self) -> Option<Block> {
        let (_, _, block) = self.free.pop_first()?;
        let state = &mut self.blocks[block as usize];
        state.holders = 1;
        if let Some(content) = state.content.take() {
            self.contents.remove(&content);
        }
        Some(block)
    }

    /// One holder lets go. The last one frees it; its content stays until it is handed out again.
    pub fn release(&mut self, block: Block) {
        let state = &mut self.blocks[block as usize];
        state.holders = state.holders.checked_sub(1).expect("only a holder releases");
        if state.holders == 0 {
            self.clock += 1;
            state.released = self.clock;
            self.free.insert((state.content.is_some(), state.released, block));
        }
    }

    /// The block that holds `tokens` after `parent`, and the prefix it completes, if there is one.
    pub fn find(&self, parent: Prefix, tokens: &[u32]) -> Option<(Block, Prefix)> {
        self.contents.get(&Content { parent, tokens: tokens.into() }).copied()
    }

    /// One more holder for a block that [`BlockPool::find`] found.
    pub fn share(&mut self, block: Block) {
        let state = &mut self.blocks[block as usize];
        if state.holders == 0 {
            let was_free = self.free.remove(&(state.content.is_some(), state.released, block));
            debug_assert!(was_free, "a block without holders is free");
        }
        state.holders += 1;
    }

    /// Whether nobody holds it.
    pub fn is_free(&self, block: Block) -> bool {
        self.blocks[block as usize].holders == 0
    }

    /// Makes known what a held, full block contains. Returns the prefix it completes.
    ///
    /// If another block already holds the same, that one stays the known one.
    pub fn publish(&mut self, block: Block, parent: Prefix, tokens: &[u32]) -> Prefix {
        let content = Content { parent, tokens: tokens.into() };
        if let Some((_, prefix)) = self.contents.get(&content) {
            return *prefix;
        }
        self.prefixes += 1;
        let prefix = Prefix(self.prefixes);
        self.contents.insert(content.clone(), (block, prefix));
        self.blocks[block as usize].content = Some(content);
        prefix
    }

    /// Forgets all contents: a forward pass failed, and nobody knows what is in the cache.
    pub fn forget(&mut self) {
        self.contents.clear();
        for (block, state) in (0..).zip(&mut self.blocks) {
            if state.content.take().is_some() && state.holders == 0 {
                self.free.remove(&(true, state.released, block));
                self.free.insert((false, state.released, block));
            }
        }
    }

    /// Holders of each block, for tests of invariants.
    #[cfg(test)]
    pub fn holders(&self) -> Vec<u32> {
        self.blocks.iter().map(|state| state.holders).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn does_a_free_block_keep_its_content_until_it_is_handed_out() {
        let mut pool = BlockPool::new(2);
        let block = pool.allocate().expect("two are free");
        let prefix = pool.publish(block, Prefix::EMPTY, &[1, 2]);
        pool.release(block);
        assert_eq!(pool.find(Prefix::EMPTY, &[1, 2]), Some((block, prefix)));
        // The one without content goes first.
        let other = pool.allocate().expect("two are free");
        assert_ne!(other, block);
        pool.share(block);
        assert_eq!(pool.available(), 0);
        pool.release(block);
        assert_eq!(pool.allocate(), Some(block));
        assert_eq!(pool.find(Prefix::EMPTY, &[1, 2]), None);
    }

    #[test]
    fn is_a_prefix_more_than_its_last_block() {
        let mut pool = BlockPool::new(4);
        let blocks: Vec<Block> = (0..4).map_while(|_| pool.allocate()).collect();
        let a = pool.publish(blocks[0], Prefix::EMPTY, &[1]);
        let b = pool.publish(blocks[1], Prefix::EMPTY, &[2]);
        let after_a = pool.publish(blocks[2], a, &[9]);
        assert_eq!(pool.find(b, &[9]), None);
        assert_eq!(pool.find(a, &[9]), Some((blocks[2], after_a)));
        // The same content again keeps the first block, and the same prefix.
        assert_eq!(pool.publish(blocks[3], a, &[9]), after_a);
        assert_eq!(pool.find(a, &[9]), Some((blocks[2], after_a)));
        pool.forget();
        assert_eq!(pool.find(a, &[9]), None);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Allocate,
        Release(usize),
        Share(u32),
        Publish(usize, u32),
        Forget,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => Just(Act::Allocate),
            4 => any::<usize>().prop_map(Act::Release),
            3 => (0u32..6).prop_map(Act::Share),
            3 => (any::<usize>(), 0u32..6).prop_map(|(at, token)| Act::Publish(at, token)),
            1 => Just(Act::Forget),
        ];
        proptest::collection::vec(act, 0..200)
    }

    proptest! {
        #[test]
        fn is_no_block_lost_or_used_twice(count in 1usize..12, acts in acts()) {
            let mut pool = BlockPool::new(count);
            let mut held: Vec<Block> = Vec::new();
            for act in acts {
                match act {
                    Act::Allocate => match pool.allocate() {
                        Some(block) => {
                            prop_assert!(!held.contains(&block), "{block} was held");
                            held.push(block);
                        }
                        None => prop_assert_eq!(pool.available(), 0),
                    },
                    Act::Release(at) if !held.is_empty() => {
                        let at = at % held.len();
                        pool.release(held.swap_remove(at));
                    }
                    Act::Share(token) => if let Some((block, _)) = pool.find(Prefix::EMPTY, &[token]) {
                        pool.share(block);
                        held.push(block);
                    },
                    Act::Publish(at, token) if !held.is_empty() => {
                        let block = held[at % held.len()];
                        if pool.blocks[block as usize].content.is_none() {
                            pool.publish(block, Prefix::EMPTY, &[token]);
                        }
                    }
                    Act::Forget => pool.forget(),
                    Act::Release(_) | Act::Publish(..) => {}
                }
                let mut counts = vec![0u32; count];
                held.iter().for_each(|block| counts[*block as usize] += 1);
                prop_assert_eq!(&pool.holders(), &counts);
                prop_assert_eq!(pool.available(), counts.iter().filter(|count| **count == 0).count());
            }
            held.into_iter().for_each(|block| pool.release(block));
            prop_assert_eq!(pool.available(), count);
            prop_assert!((0..count).all(|_| pool.allocate().is_some()), "all can be handed out again");
        }
    }
}
