//! What needs the kernel and the allocator, and nothing else.
//!
//! - [`interrupts`]: SIGPROF copies registers and stack of whoever computes aside. The handler follows no pointer of the
//!   thread that it interrupts, takes no lock and allocates nothing; what was copied is looked at elsewhere.
//! - [`allocator`]: the system's allocator, of which about one allocation in 512 KiB is remembered while that is on; and its
//!   free pages, that it is told to give back.

#![expect(unsafe_code, reason = "signal handlers, the global allocator, and the unwinder of libgcc")]

pub(super) mod allocator;
pub(super) mod interrupts;
