//! The program's own file in memory: code and constants.
//!
//! Starting touches much of it once, and so does whatever happens rarely; the kernel maps whole neighbourhoods of what is
//! touched, so that in the end nearly all of it counts as this process's memory, in every sidecar. While nothing happens
//! the mapping is given back; what is needed is mapped again as it is touched, from the page cache.

#![expect(unsafe_code, reason = "giving pages back")]

use std::ffi::c_void;
use std::fs;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Forgets what was mapped of our own file so far. Where that cannot be done, all stays as it is.
pub(super) fn forget_program() {
    let Ok(maps) = fs::read_to_string("/proc/self/smaps") else { return };
    let Ok(program) = fs::read_link("/proc/self/exe") else { return };
    for mapped in unwritten(&maps, &program.to_string_lossy()) {
        // SAFETY: a mapping of a file that cannot be written and has no page of its own holds nothing but what is in the
        // file: each page is read again as it was. No pointer becomes invalid.
        let forgotten = unsafe { madvise(mapped.start as *mut c_void, mapped.len(), Advice::LinuxDontNeed) };
        if let Err(error) = forgotten {
            tracing::debug!(%error, "what only the start needed of the program stays mapped");
        }
    }
}

/// Where `/proc/self/smaps` has something of `program` that is what the file says: private, not writable, and without a
/// page that was written before it became so, in memory or swapped out. (What the loader relocates has such pages.)
fn unwritten(maps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    let (mut in_memory, mut swapped) = (None, None);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Anonymous:") => in_memory = words.next(),
            Some("Swap:") => swapped = words.next(),
            // The last line of each.
            Some("VmFlags:") => {
                let untouched = (in_memory.take(), swapped.take()) == (Some("0"), Some("0"));
                found.extend(current.take().filter(|_| untouched));
            }
            _ => current = mapped(line, program).or(current),
        }
    }
    found
}

/// The addresses in a line that begins a mapping of `program` that is readable, private, and not writable.
fn mapped(line: &str, program: &str) -> Option<Range<usize>> {
    let mut fields = line.splitn(6, ' ');
    let (begin, end) = fields.next()?.split_once('-')?;
    if !["r-xp", "r--p"].contains(&fields.next()?) || fields.nth(3)?.trim_start() != program {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(begin)?..address(end)?).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "/usr/bin/signet proxy";

    fn mapping(begin: &str, rights: &str, path: &str, anonymous: u32, swap: u32) -> String {
        format!(
            "{begin}-55d0c1200000 {rights} 0037b000 fe:00 1835022                    {path}\n\
             Size:              16384 kB\nAnonymous:          {anonymous} kB\nSwap:                  {swap} kB\n\
             SwapPss:               0 kB\nVmFlags: rd ex mr mw me\n"
        )
    }

    #[test]
    fn only_what_is_as_in_our_own_file_is_forgotten() {
        let begin = "55d0c0400000";
        let expected = 0x55d0_c040_0000..0x55d0_c120_0000;
        for rights in ["r-xp", "r--p"] {
            assert_eq!(unwritten(&mapping(begin, rights, OURS, 0, 0), OURS), std::slice::from_ref(&expected));
        }
        for (rights, path, anonymous, swap) in [
            ("r--p", OURS, 292, 0),
            ("r--p", OURS, 0, 4),
            ("rw-p", OURS, 0, 0),
            ("rwxp", OURS, 0, 0),
            ("r-xs", OURS, 0, 0),
            ("r-xp", "/usr/lib/libc.so.6", 0, 0),
            ("rw-p", "[heap]", 0, 0),
        ] {
            let maps = mapping(begin, rights, path, anonymous, swap);
            assert!(unwritten(&maps, OURS).is_empty(), "{maps}");
        }
    }

    #[test]
    fn each_mapping_is_judged_by_its_own_lines() {
        let maps = [
            mapping("55d0c0100000", "r--p", OURS, 0, 0),
            mapping("55d0c0200000", "rw-p", OURS, 8, 0),
            mapping("55d0c0300000", "r--p", OURS, 292, 0),
            mapping("55d0c0400000", "r-xp", OURS, 0, 0),
        ]
        .concat();
        let begins: Vec<_> = unwritten(&maps, OURS).iter().map(|range| range.start).collect();
        assert_eq!(begins, [0x55d0_c010_0000, 0x55d0_c040_0000]);
        // A kernel that does not say what was written.
        let silent =
            maps.lines().filter(|line| !line.starts_with("Anonymous")).collect::<Vec<_>>().join("\n");
        assert!(unwritten(&silent, OURS).is_empty());
        assert!(unwritten("7ffc0-7ffc1 r-xp 0 00:00 0\nVmFlags:", OURS).is_empty());
        assert!(unwritten("", OURS).is_empty());
    }

    #[test]
    fn what_is_forgotten_is_there_again() {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let program = fs::read_link("/proc/self/exe").unwrap();
        let ours = unwritten(&maps, &program.to_string_lossy());
        assert!(
            ours.iter().any(|range| range.contains(&(forget_program as *const () as usize))),
            "our code is among it"
        );
        forget_program();
        assert_eq!(serde_json::from_str::<Vec<u8>>("[1,2]").unwrap(), [1, 2]);
    }
}
