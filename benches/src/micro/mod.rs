//! What every connection, request and byte passes, one case each: the same for criterion, which takes the time, and for
//! callgrind, which counts instructions.
//!
//! A case does once, when it is made, what will be measured, and checks it; so no refusal is measured by mistake.

mod decisions;
mod handshakes;
mod streams;

use crate::{Error, Mesh};

/// One thing that is measured.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    run: Box<dyn FnMut() -> Result<(), Error>>,
}

impl Case {
    fn new(name: &'static str, mut run: impl FnMut() -> Result<(), Error> + 'static) -> Result<Self, Error> {
        run()?;
        Ok(Self { name, run: Box::new(run) })
    }

    /// Does it once.
    ///
    /// # Errors
    /// When it does not come out as it did at first.
    pub fn once(&mut self) -> Result<(), Error> {
        counted_by_callgrind(&mut *self.run)
    }
}

/// What happens in a function whose name contains this is what counts.
pub const COUNTED: &str = "counted_by_callgrind";

#[inline(never)]
fn counted_by_callgrind(run: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
    // Not its last act, or the call would become a jump, and the function would not be seen to end.
    std::hint::black_box(run())
}

/// All of them.
///
/// # Errors
/// When one does not come out as it should.
pub fn cases() -> Result<Vec<Case>, Error> {
    let mesh = Mesh::new()?;
    let mut cases = handshakes::cases(&mesh)?;
    cases.extend(decisions::cases(&mesh)?);
    cases.extend(streams::cases(&mesh)?);
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_comes_out_as_it_should_more_than_once() {
        let mut cases = cases().unwrap();
        for case in &mut cases {
            case.once().unwrap_or_else(|error| panic!("{}: {error}", case.name));
        }
        let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len());
    }
}
