//! The program's own code in memory.
//!
//! Starting touches much of it once: arguments, configuration, the join. The kernel maps whole neighbourhoods of what is
//! touched, so that in the end nearly all of it counts as this process's memory, in every sidecar. Once started, the
//! mapping is given back; what serving connections needs is mapped again as it is touched, from the page cache.

#![expect(unsafe_code, reason = "giving pages back")]

use std::ffi::c_void;
use std::fs;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Forgets what was mapped of our own code so far. Where that cannot be done, all stays as it is.
pub(crate) fn forget_start() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let Ok(program) = fs::read_link("/proc/self/exe") else { return };
    for code in maps.lines().filter_map(|line| code_of(line, &program.to_string_lossy())) {
        // SAFETY: a private mapping of a file that was never writable holds nothing but what is in the file: each page
        // is read again as it was. No pointer becomes invalid.
        let forgotten = unsafe { madvise(code.start as *mut c_void, code.len(), Advice::LinuxDontNeed) };
        if let Err(error) = forgotten {
            tracing::debug!(%error, "code that only the start needed stays mapped");
        }
    }
}

/// Where a line of `/proc/self/maps` has code of `program`: readable, executable, private, and not writable.
fn code_of(line: &str, program: &str) -> Option<Range<usize>> {
    let mut fields = line.splitn(6, ' ');
    let (begin, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" || fields.nth(3)?.trim_start() != program {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(begin)?..address(end)?).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_code_is_forgotten() {
        let line = |rights, path| {
            format!("55d0c0400000-55d0c1200000 {rights} 0037b000 fe:00 1835022                    {path}")
        };
        let ours = "/usr/bin/signet proxy";
        assert_eq!(code_of(&line("r-xp", ours), ours), Some(0x55d0_c040_0000..0x55d0_c120_0000));
        for (rights, path) in
            [("r--p", ours), ("rw-p", ours), ("rwxp", ours), ("r-xs", ours), ("r-xp", "/usr/lib/libc.so.6")]
        {
            assert_eq!(code_of(&line(rights, path), ours), None, "{rights} {path}");
        }
        assert_eq!(code_of("7ffc0-7ffc1 r-xp 0 00:00 0", ours), None);
        assert_eq!(code_of("", ours), None);
    }

    #[test]
    fn what_is_forgotten_is_there_again() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let program = fs::read_link("/proc/self/exe").unwrap();
        assert!(maps.lines().any(|line| code_of(line, &program.to_string_lossy()).is_some()));
        forget_start();
        assert_eq!(serde_json::from_str::<Vec<u8>>("[1,2]").unwrap(), [1, 2]);
    }
}
