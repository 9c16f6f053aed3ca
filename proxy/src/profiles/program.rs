//! The program and its libraries as they are mapped: how to go up a stack through them, and what a function is called.
//!
//! Read from the files that the kernel names, once a profile. The program itself is read by `/proc/self/exe`: by its name
//! there may be a newer one meanwhile.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder,
    UnwinderNative,
};
use object::elf::PF_X;
use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind};

use super::sys::interrupts::Moment;

/// Deeper ones are cut off there.
const DEEPEST: usize = 256;
const OURSELVES: &str = "/proc/self/exe";

/// What is mapped, and how it unwinds.
pub(super) struct Program {
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    mappings: Vec<Mapping>,
}

/// A part of a file that is code.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    /// Its first address.
    pub(super) start: u64,
    /// The one after its last.
    pub(super) end: u64,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// The file.
    pub(super) path: String,
    functions: Vec<Function>,
}

#[derive(Debug, Clone)]
struct Function {
    start: u64,
    end: u64,
    symbol: String,
}

impl Program {
    /// As it is mapped now.
    ///
    /// # Errors
    /// When the kernel does not say so.
    pub(super) fn load() -> io::Result<Self> {
        let own = fs::read_link(OURSELVES)?;
        let own = own.to_string_lossy();
        let mut program =
            Self { unwinder: UnwinderNative::new(), cache: CacheNative::default(), mappings: Vec::new() };
        for line in fs::read_to_string("/proc/self/maps")?.lines() {
            let Some(mut mapping) = Mapping::parse(line) else { continue };
            let file = if mapping.path == own { OURSELVES } else { &mapping.path };
            // A library that cannot be read is a gap in the profile, no reason for none.
            if let Some((module, functions)) = read(Path::new(file), &mapping) {
                program.unwinder.add_module(module);
                mapping.functions = functions;
            }
            program.mappings.push(mapping);
        }
        Ok(program)
    }

    /// The addresses of a moment's stack, the innermost first.
    pub(super) fn stack(&mut self, moment: &Moment) -> Vec<u64> {
        let mut word = |address| moment.word(address);
        let mut frames = self.unwinder.iter_frames(moment.pc, registers(moment), &mut self.cache, &mut word);
        let mut stack = Vec::new();
        while stack.len() < DEEPEST
            && let Ok(Some(frame)) = frames.next()
        {
            stack.push(frame.address_for_lookup());
        }
        stack
    }

    /// All of it, for what is made of a profile.
    pub(super) fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// What is at an address: which mapping, and which function.
    pub(super) fn at(&self, address: u64) -> (Option<usize>, String) {
        let mut mappings = self.mappings.iter().enumerate();
        let found = mappings.find(|(_, mapping)| (mapping.start..mapping.end).contains(&address));
        let Some((place, mapping)) = found else { return (None, format!("{address:#x}")) };
        let before = mapping.functions.partition_point(|function| function.start <= address);
        let function = before.checked_sub(1).and_then(|last| mapping.functions.get(last));
        let name = match function.filter(|function| address < function.end) {
            Some(function) => format!("{:#}", rustc_demangle::demangle(&function.symbol)),
            None => {
                let file = mapping.path.rsplit('/').next().unwrap_or_default();
                format!("{file}+{:#x}", address - mapping.start + mapping.offset)
            }
        };
        (Some(place), name)
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(moment: &Moment) -> UnwindRegsNative {
    UnwindRegsNative::new(moment.pc, moment.sp, moment.fp)
}

#[cfg(target_arch = "aarch64")]
fn registers(moment: &Moment) -> UnwindRegsNative {
    UnwindRegsNative::new(moment.lr, moment.sp, moment.fp)
}

impl Mapping {
    /// A line of `/proc/self/maps`, if it is about code of a file: `START-END r-xp OFFSET DEVICE INODE PATH`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
        let executable = fields.next()?.contains('x');
        let offset = hexadecimal(fields.next()?)?;
        let path = line.find('/').and_then(|from| line.get(from..)).filter(|_| executable)?;
        let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
        Some(Self { start, end, offset, path: path.to_owned(), functions: Vec::new() })
    }
}

/// How a file unwinds where it is mapped, and its functions.
fn read(path: &Path, mapping: &Mapping) -> Option<(Module<Vec<u8>>, Vec<Function>)> {
    let cache = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&cache).ok()?;
    // What is added to an address of the file. The mapping begins with the page in which the segment does.
    let bias = file.segments().find_map(|segment| {
        let SegmentFlags::Elf { p_flags, .. } = segment.flags() else { return None };
        let (offset, size) = segment.file_range();
        let is_it = p_flags.contains(PF_X) && offset.checked_add(size)? > mapping.offset;
        is_it.then(|| {
            mapping.start.wrapping_add(offset).wrapping_sub(mapping.offset).wrapping_sub(segment.address())
        })
    })?;
    let range = |name: &str| {
        let section = file.section_by_name(name)?;
        Some(section.address()..section.address() + section.size())
    };
    let data = |name: &str| Some(file.section_by_name(name)?.data().ok()?.to_vec());
    let sections = ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        ..ExplicitModuleSectionInfo::default()
    };
    let module = Module::new(mapping.path.clone(), mapping.start..mapping.end, bias, sections);

    let mut by_address = HashMap::new();
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        if symbol.kind() == SymbolKind::Text
            && symbol.size() > 0
            && let Ok(name) = symbol.name()
        {
            by_address.entry(symbol.address()).or_insert_with(|| (symbol.size(), name.to_owned()));
        }
    }
    let functions = by_address.into_iter().map(|(address, (size, symbol))| {
        let start = address.wrapping_add(bias);
        Function { start, end: start.wrapping_add(size), symbol }
    });
    let mut functions: Vec<Function> = functions.collect();
    functions.sort_by_key(|function| function.start);
    Some((module, functions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_is_found_among_what_is_mapped() {
        let line = "7f00-7fff r-xp 00026000 08:01 1234    /usr/lib/a name (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f00, 0x7fff, 0x26000));
        assert_eq!(mapping.path, "/usr/lib/a name (deleted)");
        for other in ["7f00-7fff rw-p 0 08:01 1 /usr/lib/a", "7f00-7fff r-xp 0 00:00 0 [vdso]", "", "x"] {
            assert!(Mapping::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_function_of_ours_is_called_by_its_name() {
        let program = Program::load().unwrap();
        let (mapping, name) = program.at(Program::load as fn() -> io::Result<Program> as usize as u64);
        assert!(mapping.is_some() && name.contains("Program") && name.contains("load"), "{name}");
        assert_eq!(program.at(8), (None, "0x8".to_owned()));
    }
}
