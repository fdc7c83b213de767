//! Pipelines: which passes run, in which order, with which options.
//!
//! A pipeline is a string, `canonicalize,egraph{nodes=20000,iterations=12},dce`: names of the
//! registry separated by commas, options in braces. The strings of the optimisation levels are here
//! and nowhere else.

use crate::PassError;

/// Nothing but what back ends demand: one spelling per meaning, no dead code.
pub const O0: &str = "roll,canonicalize,dce,quantize,dce";
/// The clean-up passes, without search.
pub const O1: &str = "roll,canonicalize,const-fold,cse,dce,quantize,cse,dce";
/// Everything.
pub const O2: &str =
    "roll,canonicalize,const-fold,cse,dce,quantize,dce,egraph,canonicalize,const-fold,cse,dce";

/// The pipeline of an optimisation level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// See [`O0`].
    O0,
    /// See [`O1`].
    O1,
    /// See [`O2`].
    #[default]
    O2,
}

impl Level {
    /// Every level, least work first.
    pub const ALL: [Level; 3] = [Level::O0, Level::O1, Level::O2];

    /// Its pipeline.
    pub fn pipeline(self) -> &'static str {
        match self {
            Level::O0 => O0,
            Level::O1 => O1,
            Level::O2 => O2,
        }
    }
}

/// One pass of a pipeline, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Name of the pass.
    pub name: String,
    /// Options in the order given.
    pub options: Vec<(String, String)>,
}

/// Reads a pipeline string. The empty string is the empty pipeline.
///
/// # Errors
/// [`PassError::Pipeline`] with the column where reading stopped.
pub fn parse(text: &str) -> Result<Vec<Step>, PassError> {
    let mut steps = Vec::new();
    let mut rest = text.trim_end();
    if rest.trim().is_empty() {
        return Ok(steps);
    }
    let fail = |rest: &str, why: &str| PassError::Pipeline {
        pipeline: text.to_string(),
        column: text.trim_end().len() - rest.len() + 1,
        why: why.to_string(),
    };
    loop {
        rest = rest.trim_start();
        let name_len = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(name_len);
        if name.is_empty() {
            return Err(fail(rest, "expected the name of a pass"));
        }
        rest = tail.trim_start();
        let mut options = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let end = inside.find('}').ok_or_else(|| fail(rest, "this brace is never closed"))?;
            for option in inside[..end].split(',').map(str::trim).filter(|o| !o.is_empty()) {
                let (key, value) =
                    option.split_once('=').ok_or_else(|| fail(rest, "expected name=value"))?;
                options.push((key.trim().to_string(), value.trim().to_string()));
            }
            rest = inside[end + 1..].trim_start();
        }
        steps.push(Step { name: name.to_string(), options });
        match rest.strip_prefix(',') {
            Some(tail) => rest = tail,
            None if rest.is_empty() => return Ok(steps),
            None => return Err(fail(rest, "expected a comma or the end")),
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_options_are_read() {
        let steps = parse("canonicalize, egraph{nodes=200, iterations=3},dce").unwrap();
        let names: Vec<_> = steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["canonicalize", "egraph", "dce"]);
        let options = [("nodes", "200"), ("iterations", "3")];
        let options: Vec<_> = options.map(|(k, v)| (k.to_string(), v.to_string())).into();
        assert_eq!(steps[1].options, options);
        assert_eq!(parse("  "), Ok(Vec::new()));
    }

    #[test]
    fn errors_name_the_column() {
        let column = |text: &str| match parse(text) {
            Err(PassError::Pipeline { column, .. }) => column,
            other => panic!("{other:?}"),
        };
        assert_eq!(column("dce,,cse"), 5);
        assert_eq!(column("dce cse"), 5);
        assert_eq!(column("egraph{nodes=1"), 7);
        assert_eq!(column("egraph{nodes}"), 7);
        assert_eq!(column("dce,"), 5);
    }
}
