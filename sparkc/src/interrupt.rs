//! Ctrl-C and termination: removes what is half-written and ends with code 130.

use crate::exit::Exit;
use crate::output;

/// Installs the handler.
///
/// # Errors
/// When the system refuses it.
pub fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        output::remove_temporaries();
        std::process::exit(i32::from(Exit::Interrupted as u8));
    })
}
