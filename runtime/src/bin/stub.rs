//! The executable that every compiled model starts with: finds the payload at the end of its own
//! file and hands over to `runtime::cli`.

use std::io::{IsTerminal, Write};

use sparkc_runtime::cli::{self, Streams, exit};
use sparkc_runtime::tokenizer;

fn main() {
    std::panic::set_hook(Box::new(|info| {
        let mut err = std::io::stderr();
        if tokenizer::in_library() {
            let why = "the tokenizers library fails on this text: give token ids with --tokens";
            let _ = writeln!(err, "error[SPK5203]: tokenizer: {why}");
            cli::remove_temporaries();
            std::process::exit(i32::from(exit::INPUT));
        }
        let _ = writeln!(err, "internal error: {info}\n  please report it with the command line");
        cli::remove_temporaries();
        std::process::exit(i32::from(exit::INTERNAL));
    }));
    // Without a handler Ctrl-C still ends the process; only the exit code would differ.
    let _ = ctrlc::set_handler(|| {
        cli::remove_temporaries();
        std::process::exit(i32::from(exit::INTERRUPTED));
    });
    let name = std::env::args_os().next().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "model".to_string());
    let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut streams = Streams { out: &mut out, err: &mut err, terminal };
    let open = || sparkc_runtime::find_payload(&std::env::current_exe()?);
    let code = cli::run(std::env::args_os().skip(1), &name, open, &mut streams);
    std::process::exit(i32::from(code));
}
