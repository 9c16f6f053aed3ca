//! Samples of what computes. A timer that counts the CPU time of the process has the kernel interrupt the thread that
//! uses it up; the handler copies its registers and the top of its stack into a slot of its own.
//!
//! Invariants: a slot belongs to who set its state: a handler from `TAKEN` to `FULL`, the one [`Sampling`] from there to
//! `FREE`. Unwinding happens later and elsewhere, on the copy: nothing that a stack holds can bring the process down. The
//! stack is read by the kernel, which stops where there is none.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use libc::{iovec, itimerval, siginfo_t, timeval, ucontext_t};

const SLOTS: usize = 128;
const STACK: usize = 64 * 1024;
/// A copy fails as a whole where a piece of it does, so no piece crosses a page.
const PIECE: usize = 4096;
const PIECES: usize = STACK / PIECE + 1;

const FREE: u8 = 0;
const TAKEN: u8 = 1;
const FULL: u8 = 2;

static RING: [Slot; SLOTS] = [const { Slot::free() }; SLOTS];
static NEXT: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);
static SAMPLING: AtomicBool = AtomicBool::new(false);

struct Slot {
    state: AtomicU8,
    moment: UnsafeCell<Moment>,
}

// SAFETY: whoever reads or writes `moment` owns it by `state`, as the module says.
unsafe impl Sync for Slot {}

/// Where a thread was, and what was on its stack.
pub(in crate::profiles) struct Moment {
    /// Program counter.
    pub(in crate::profiles) pc: u64,
    /// Stack pointer: the address of the first byte that was copied.
    pub(in crate::profiles) sp: u64,
    /// Frame pointer.
    pub(in crate::profiles) fp: u64,
    /// Link register, where there is one.
    pub(in crate::profiles) lr: u64,
    length: usize,
    stack: [u8; STACK],
}

/// The time in which samples are taken. There is one at a time.
pub(in crate::profiles) struct Sampling(());

impl Slot {
    const fn free() -> Self {
        let moment = Moment { pc: 0, sp: 0, fp: 0, lr: 0, length: 0, stack: [0; STACK] };
        Self { state: AtomicU8::new(FREE), moment: UnsafeCell::new(moment) }
    }
}

impl Moment {
    /// The word at this address of the stack, if it was copied.
    pub(in crate::profiles) fn word(&self, address: u64) -> Result<u64, ()> {
        let from = address.checked_sub(self.sp).and_then(|from| usize::try_from(from).ok()).ok_or(())?;
        let copied = self.stack.get(..self.length).ok_or(())?;
        let word = copied.get(from..).and_then(<[u8]>::first_chunk).ok_or(())?;
        Ok(u64::from_ne_bytes(*word))
    }

    /// Only what a signal handler may do.
    fn fill(&mut self, context: &ucontext_t) {
        (self.pc, self.sp, self.fp, self.lr) = registers(context);
        let mut pieces = [iovec { iov_base: null_mut(), iov_len: 0 }; PIECES];
        let (mut at, mut left) = (usize::try_from(self.sp).unwrap_or(0), STACK);
        for piece in &mut pieces {
            let length = (PIECE - at % PIECE).min(left);
            *piece = iovec { iov_base: at as *mut c_void, iov_len: length };
            (at, left) = (at.wrapping_add(length), left - length);
        }
        let into = iovec { iov_base: self.stack.as_mut_ptr().cast(), iov_len: STACK };
        // SAFETY: `into` is our own array; the addresses of `pieces` are checked by the kernel, which copies up to the first
        // that is not mapped.
        let copied = unsafe {
            libc::process_vm_readv(libc::getpid(), &raw const into, 1, pieces.as_ptr(), PIECES as u64, 0)
        };
        self.length = usize::try_from(copied).unwrap_or(0);
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &ucontext_t) -> (u64, u64, u64, u64) {
    let all = &context.uc_mcontext.gregs;
    let one = |which: c_int| usize::try_from(which).ok().and_then(|which| all.get(which));
    let [pc, sp, fp] = [libc::REG_RIP, libc::REG_RSP, libc::REG_RBP]
        .map(|which| one(which).map_or(0, |value| value.cast_unsigned()));
    (pc, sp, fp, 0)
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &ucontext_t) -> (u64, u64, u64, u64) {
    let machine = &context.uc_mcontext;
    let [.., fp, lr] = machine.regs;
    (machine.pc, machine.sp, fp, lr)
}

impl Sampling {
    /// Begins, `hertz` times in each second of CPU time.
    ///
    /// # Errors
    /// When it is under way already, or the kernel has no such timer.
    pub(in crate::profiles) fn begin(hertz: u32) -> io::Result<Self> {
        if SAMPLING.swap(true, Ordering::AcqRel) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let mut sampling = Self(());
        sampling.start_over();
        // It stays when the timer is gone: a signal that is still on its way would end the process otherwise.
        handle()?;
        arm(1_000_000 / i64::from(hertz.max(1)))?;
        Ok(sampling)
    }

    /// Forgets what was sampled so far.
    pub(in crate::profiles) fn start_over(&mut self) {
        self.drain(|_| {});
        LOST.store(0, Ordering::Relaxed);
    }

    /// Hands over what was sampled since the last time, and makes room.
    pub(in crate::profiles) fn drain(&mut self, mut each: impl FnMut(&Moment)) {
        for slot in &RING {
            if slot.state.load(Ordering::Acquire) == FULL {
                // SAFETY: it is full, so no handler writes to it, and nobody else drains: `self` is the only one.
                each(unsafe { &*slot.moment.get() });
                slot.state.store(FREE, Ordering::Release);
            }
        }
    }

    /// How many samples found no slot.
    #[must_use]
    pub(in crate::profiles) fn lost(&self) -> u64 {
        LOST.load(Ordering::Relaxed)
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        let _ = arm(0);
        SAMPLING.store(false, Ordering::Release);
    }
}

fn handle() -> io::Result<()> {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = interrupted;
    // SAFETY: an all-zero `sigaction` is a valid one, and each call below gets pointers to it or to nothing. The handler
    // does only what a handler may.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGPROF, &raw const action, null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Never, with 0.
fn arm(microseconds: i64) -> io::Result<()> {
    let every = timeval { tv_sec: microseconds / 1_000_000, tv_usec: microseconds % 1_000_000 };
    let timer = itimerval { it_interval: every, it_value: every };
    // SAFETY: the pointer is to a local, and the old value is not asked for.
    let done = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn interrupted(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    if !SAMPLING.load(Ordering::Acquire) || context.is_null() {
        return;
    }
    // SAFETY: every thread has its errno, and this one gets back what it had.
    let errno = unsafe { libc::__errno_location() };
    let before = unsafe { *errno };
    let begin = NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS;
    let taken =
        RING.iter().cycle().skip(begin).take(SLOTS).find(|slot| {
            slot.state.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
    match taken {
        Some(slot) => {
            // SAFETY: it is ours since it was taken; the kernel hands a handler with SA_SIGINFO a `ucontext_t`.
            unsafe { (*slot.moment.get()).fill(&*context.cast::<ucontext_t>()) };
            slot.state.store(FULL, Ordering::Release);
        }
        None => {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}
