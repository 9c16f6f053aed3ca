//! The system's allocator, and a memory of some of what it gave: on average one allocation in each [`RATE`] bytes, with
//! the stack that asked for it. Each stands for as many as its size makes likely, so that sums come out right.
//!
//! Off, it costs a load and a branch. On, what is freed is looked up in a filter first, and only what may be remembered
//! takes the lock. Invariants: what this does itself is not remembered, so that it never waits for itself; an allocation is
//! forgotten before its memory can be anybody else's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// One allocation is remembered in as many bytes, on average.
pub(in crate::profiles) const RATE: u32 = 512 * 1024;
const DEEPEST: usize = 64;
const MOST_LIVE: usize = 1 << 16;
const MOST_STACKS: usize = 1 << 13;
const FILTER: usize = 1 << 16;

/// The allocator of this program.
#[derive(Debug)]
pub struct Sampled;

/// What one stack asked for, estimated.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::profiles) struct Tally {
    /// Allocations since it is on.
    pub(in crate::profiles) objects: f64,
    /// Their bytes.
    pub(in crate::profiles) bytes: f64,
    /// Of these, what is in use.
    pub(in crate::profiles) live_objects: f64,
    /// Its bytes.
    pub(in crate::profiles) live_bytes: f64,
}

/// A stack, the innermost address first, and what it asked for.
pub(in crate::profiles) type Asked = (Box<[u64]>, Tally);

static ON: AtomicBool = AtomicBool::new(false);
/// How many of what is remembered have an address with this hash.
static MAYBE: [AtomicU32; FILTER] = [const { AtomicU32::new(0) }; FILTER];
static HEAP: Mutex<Heap> =
    Mutex::new(Heap { live: BTreeMap::new(), known: BTreeMap::new(), tallies: Vec::new(), lost: 0 });

thread_local! {
    static LOCAL: Cell<Local> = const { Cell::new(Local { left: 0, random: 0, within: false }) };
}

/// A thread's own.
#[derive(Clone, Copy)]
struct Local {
    /// Bytes until the next one is remembered.
    left: i64,
    random: u64,
    /// Whether this thread is in here already.
    within: bool,
}

struct Heap {
    live: BTreeMap<usize, Live>,
    known: BTreeMap<Box<[u64]>, usize>,
    tallies: Vec<Tally>,
    lost: u64,
}

struct Live {
    stack: usize,
    objects: f64,
    bytes: f64,
}

/// Gives whole free pages back to the system, which glibc does by itself only at the end of its heap.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the locks of the allocator itself, as any allocation does, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From now on, until the process ends.
pub fn remember() {
    ON.store(true, Ordering::Release);
}

/// What each stack asked for, and how much was not remembered for lack of room.
#[must_use]
pub(in crate::profiles) fn tallies() -> (Vec<Asked>, u64) {
    let mut all = Vec::new();
    let mut lost = 0;
    unnoticed(|| {
        let heap = heap();
        let of = |place: &usize| heap.tallies.get(*place).copied().unwrap_or_default();
        all = heap.known.iter().map(|(stack, place)| (stack.clone(), of(place))).collect();
        lost = heap.lost;
    });
    (all, lost)
}

// SAFETY: every call goes on to the system's allocator as it came; what is noted beside it touches no memory of it.
unsafe impl GlobalAlloc for Sampled {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let given = unsafe { System.alloc(layout) };
        note(given, layout.size());
        given
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let given = unsafe { System.alloc_zeroed(layout) };
        note(given, layout.size());
        given
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        forget(pointer);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) };
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        forget(pointer);
        // SAFETY: the caller's promise.
        let given = unsafe { System.realloc(pointer, layout, size) };
        note(given, size);
        given
    }
}

fn note(given: *mut u8, size: usize) {
    if !ON.load(Ordering::Relaxed) || given.is_null() {
        return;
    }
    let _ = LOCAL.try_with(|cell| {
        let mut local = cell.get();
        if local.within {
            return;
        }
        if local.random == 0 {
            local.random = given.addr() as u64 | 1;
            local.left = local.interval();
        }
        local.left = local.left.saturating_sub(i64::try_from(size).unwrap_or(i64::MAX));
        if local.left > 0 {
            cell.set(local);
            return;
        }
        local.left = local.interval();
        cell.set(Local { within: true, ..local });
        let mut frames = [0; DEEPEST];
        let stack = stack(&mut frames);
        heap().add(given.addr(), size, stack);
        cell.set(local);
    });
}

fn forget(pointer: *mut u8) {
    if !ON.load(Ordering::Relaxed) || maybe(pointer.addr()).load(Ordering::Relaxed) == 0 {
        return;
    }
    unnoticed(|| heap().remove(pointer.addr()));
}

/// Waits for its turn without sleeping: who allocates may be in the middle of what sleeping needs.
fn heap() -> MutexGuard<'static, Heap> {
    loop {
        if let Some(heap) = HEAP.try_lock() {
            return heap;
        }
        std::thread::yield_now();
    }
}

/// Does what is not to be noted; does nothing where this thread does so already.
fn unnoticed(work: impl FnOnce()) {
    let _ = LOCAL.try_with(|cell| {
        let local = cell.get();
        if !local.within {
            cell.set(Local { within: true, ..local });
            work();
            cell.set(local);
        }
    });
}

fn maybe(address: usize) -> &'static AtomicU32 {
    static NEVER: AtomicU32 = AtomicU32::new(u32::MAX);
    let hash = (address as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
    usize::try_from(hash).ok().and_then(|hash| MAYBE.get(hash)).unwrap_or(&NEVER)
}

impl Local {
    /// Bytes to the next one: exponentially distributed, so that no regular pattern is missed (xorshift64).
    fn interval(&mut self) -> i64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let above_zero = ((self.random >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (-above_zero.ln() * f64::from(RATE)) as i64
    }
}

impl Heap {
    fn add(&mut self, address: usize, size: usize, stack: &[u64]) {
        let place = match self.known.get(stack) {
            Some(place) => *place,
            None if self.known.len() < MOST_STACKS => {
                self.known.insert(stack.into(), self.tallies.len());
                self.tallies.push(Tally::default());
                self.tallies.len() - 1
            }
            None => {
                self.lost += 1;
                return;
            }
        };
        let likely = 1.0 - (-(size as f64) / f64::from(RATE)).exp();
        let live = Live { stack: place, objects: 1.0 / likely, bytes: size as f64 / likely };
        let Some(tally) = self.tallies.get_mut(place) else { return };
        tally.objects += live.objects;
        tally.bytes += live.bytes;
        if self.live.len() == MOST_LIVE {
            self.lost += 1;
            return;
        }
        tally.live_objects += live.objects;
        tally.live_bytes += live.bytes;
        if self.live.insert(address, live).is_none() {
            maybe(address).fetch_add(1, Ordering::Relaxed);
        }
    }

    fn remove(&mut self, address: usize) {
        let Some(gone) = self.live.remove(&address) else { return };
        maybe(address).fetch_sub(1, Ordering::Relaxed);
        if let Some(tally) = self.tallies.get_mut(gone.stack) {
            tally.live_objects = (tally.live_objects - gone.objects).max(0.0);
            tally.live_bytes = (tally.live_bytes - gone.bytes).max(0.0);
        }
    }
}

/// The unwinder that panics use, too.
mod unwinder {
    use std::ffi::{c_int, c_void};

    /// Of no concern here.
    #[repr(C)]
    pub(super) struct Context {
        _inside: [u8; 0],
    }

    /// 0: go on.
    pub(super) type Visit = extern "C" fn(*mut Context, *mut c_void) -> c_int;

    unsafe extern "C" {
        pub(super) fn _Unwind_Backtrace(visit: Visit, argument: *mut c_void) -> c_int;
        pub(super) fn _Unwind_GetIP(context: *mut Context) -> usize;
    }
}

struct Walk<'a> {
    frames: &'a mut [u64; DEEPEST],
    depth: usize,
}

/// Where this thread is, from within.
fn stack(frames: &mut [u64; DEEPEST]) -> &[u64] {
    let mut walk = Walk { frames, depth: 0 };
    // SAFETY: the argument outlives the call, and is what `visit` takes it for.
    unsafe { unwinder::_Unwind_Backtrace(visit, (&raw mut walk).cast()) };
    let Walk { frames, depth } = walk;
    frames.get(..depth).unwrap_or_default()
}

extern "C" fn visit(context: *mut unwinder::Context, argument: *mut c_void) -> c_int {
    const STOP: c_int = 5;
    // SAFETY: `stack` hands its own in, and nobody else has it meanwhile; the context is the unwinder's.
    let (walk, pc) = unsafe { (&mut *argument.cast::<Walk<'_>>(), unwinder::_Unwind_GetIP(context)) };
    match walk.frames.get_mut(walk.depth) {
        Some(frame) if pc != 0 => {
            *frame = pc as u64;
            walk.depth += 1;
            0
        }
        _ => STOP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_stands_for_all_there_is() {
        let mut heap = Heap { live: BTreeMap::new(), known: BTreeMap::new(), tallies: Vec::new(), lost: 0 };
        let mut local = Local { left: 0, random: 7, within: false };
        const SIZE: usize = 4096;
        const ALL: usize = 400_000;
        let mut left = local.interval();
        for address in 0..ALL {
            left -= SIZE as i64;
            if left <= 0 {
                left = local.interval();
                heap.add(address * 16 + 8, SIZE, &[1, 2, 3]);
            }
        }
        let tally = heap.tallies[0];
        let expected = (ALL * SIZE) as f64;
        assert!((tally.bytes / expected - 1.0).abs() < 0.1, "{tally:?}, expected {expected}");
        assert_eq!(tally.bytes.to_bits(), tally.live_bytes.to_bits());
        let addresses: Vec<usize> = heap.live.keys().copied().collect();
        for address in addresses {
            heap.remove(address);
            heap.remove(address);
        }
        let tally = heap.tallies[0];
        assert!(tally.live_bytes < 1.0 && tally.bytes > 1.0, "{tally:?}");
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut heap = Heap { live: BTreeMap::new(), known: BTreeMap::new(), tallies: Vec::new(), lost: 0 };
        for stack in 0..MOST_STACKS as u64 + 10 {
            heap.add(usize::try_from(stack).unwrap(), 1, &[stack]);
        }
        assert_eq!((heap.known.len(), heap.lost), (MOST_STACKS, 10));
    }
}
